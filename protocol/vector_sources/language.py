"""Messages of language models, byte by byte: the form is that of `messages`."""

from vector_sources.common import SHA256
from vector_sources.messages import Fields

_BOOT = 0xDEADBEEF
_COORDINATOR_BOOT = 0x0BADCAFE
_FINGERPRINT = "000102030405060708090a0b0c0d0e0f"

# (name, message, boot, seq, epoch, fields, hex of the body, hex of the whole)
LANGUAGE_GOOD: list[tuple[str, str, int, int, int, Fields, str, str]] = [
    (
        "stage_load",
        "StageOrder",
        _COORDINATOR_BOOT,
        6,
        1,
        {
            "command": 1,
            "pipeline": 7,
            "stage": 1,
            "slice": {"sha256": {"hex": SHA256}, "size_bytes": 33554432},
            "cache_limit_bytes": 268435456,
            "nonce": 9,
        },
        "86 01 07 01 82 5820" + SHA256 + "1a02000000 1a10000000 09",
        "86 01 13 1a0badcafe 06 01 86 01 07 01 82 5820" + SHA256 + "1a02000000 1a10000000 09",
    ),
    (
        "stage_ping",
        "StageOrder",
        _COORDINATOR_BOOT,
        7,
        1,
        {
            "command": 4,
            "pipeline": 0,
            "stage": 0,
            "slice": None,
            "cache_limit_bytes": 0,
            "nonce": 65535,
        },
        "86 04 00 00 f6 00 19ffff",
        "86 01 13 1a0badcafe 07 01 86 04 00 00 f6 00 19ffff",
    ),
    (
        "stage_ready",
        "StageReport",
        _BOOT,
        7,
        1,
        {
            "state": 1,
            "pipeline": 7,
            "stage": 1,
            "nonce": 9,
            "code": 0,
            "text": "",
            "decode_us": 2600,
            "prefill_us": 410,
            "resident_bytes": 41943040,
            "free_bytes": 1073741824,
            "fingerprint": {"hex": _FINGERPRINT},
            "session": 0,
        },
        "8c 01 07 01 09 00 60 190a28 19019a 1a02800000 1a40000000 50" + _FINGERPRINT + "00",
        (
            "86 01 08 1adeadbeef 07 01"
            " 8c 01 07 01 09 00 60 190a28 19019a 1a02800000 1a40000000 50" + _FINGERPRINT + "00"
        ),
    ),
    (
        "stage_lost_an_activation",
        "StageReport",
        _BOOT,
        8,
        1,
        {
            "state": 2,
            "pipeline": 7,
            "stage": 1,
            "nonce": 0,
            "code": 14,
            "text": "25",
            "decode_us": 0,
            "prefill_us": 0,
            "resident_bytes": 0,
            "free_bytes": 0,
            "fingerprint": {"hex": ""},
            "session": 3,
        },
        "8c 02 07 01 00 0e 62 3235 00 00 00 00 40 03",
        "86 01 08 1adeadbeef 08 01 8c 02 07 01 00 0e 62 3235 00 00 00 00 40 03",
    ),
    (
        "route",
        "Route",
        _COORDINATOR_BOOT,
        8,
        1,
        {"pipeline": 7, "layout": 2, "stages": [["node-1"], ["node-2", "pc"]]},
        "83 07 02 82 81 66 6e6f64652d31 82 66 6e6f64652d32 62 7063",
        "86 01 14 1a0badcafe 08 01 83 07 02 82 81 66 6e6f64652d31 82 66 6e6f64652d32 62 7063",
    ),
    (
        "session_open",
        "SessionOrder",
        _COORDINATOR_BOOT,
        9,
        1,
        {
            "command": 1,
            "pipeline": 7,
            "layout": 2,
            "session": 3,
            "position": 0,
            "until": 0,
            "capacity": 512,
            "tokens": {"hex": "0100000002010000"},
            "sampling": {
                "temperature_ppm": 700000,
                "top_k": 40,
                "top_p_ppm": 950000,
                "min_p_ppm": 0,
                "repetition_ppm": 1000000,
                "repetition_window": 64,
                "presence_ppm": 0,
                "frequency_ppm": -500000,
                "seed": 42,
                "top_logprobs": 0,
                "logit_bias": [[2, -100000000]],
            },
            "max_tokens": 100,
            "end_tokens": {"hex": "02000000"},
            "prompt_length": 2,
        },
        (
            "8c 01 07 02 03 00 00 190200 48 01000000 02010000"
            " 8b 1a000aae60 1828 1a000e7ef0 00 1a000f4240 1840 00 3a0007a11f 182a 00"
            " 81 82 02 3a05f5e0ff 1864 44 02000000 02"
        ),
        (
            "86 01 15 1a0badcafe 09 01"
            " 8c 01 07 02 03 00 00 190200 48 01000000 02010000"
            " 8b 1a000aae60 1828 1a000e7ef0 00 1a000f4240 1840 00 3a0007a11f 182a 00"
            " 81 82 02 3a05f5e0ff 1864 44 02000000 02"
        ),
    ),
    (
        "session_inject",
        "SessionOrder",
        _COORDINATOR_BOOT,
        10,
        1,
        {
            "command": 5,
            "pipeline": 7,
            "layout": 3,
            "session": 3,
            "position": 27,
            "until": 0,
            "capacity": 0,
            "tokens": {"hex": "02010000"},
            "sampling": None,
            "max_tokens": 0,
            "end_tokens": {"hex": ""},
            "prompt_length": 0,
        },
        "8c 05 07 03 03 181b 00 00 44 02010000 f6 00 40 00",
        "86 01 15 1a0badcafe 0a 01 8c 05 07 03 03 181b 00 00 44 02010000 f6 00 40 00",
    ),
    (
        "activation_of_hidden_values",
        "Activation",
        _BOOT,
        1,
        1,
        {
            "pipeline": 7,
            "layout": 2,
            "session": 3,
            "stage": 1,
            "position": 26,
            "count": 1,
            "kind": 0,
            "flags": 2,
            "until": 0,
            "part": 0,
            "parts": 1,
            "data": {"hex": "0000803f000080c0"},
        },
        "8c 07 02 03 01 181a 01 00 02 00 00 01 48 0000803f 000080c0",
        "86 01 16 1adeadbeef 01 01 8c 07 02 03 01 181a 01 00 02 00 00 01 48 0000803f 000080c0",
    ),
    (
        "activation_of_a_token",
        "Activation",
        _BOOT,
        2,
        1,
        {
            "pipeline": 7,
            "layout": 2,
            "session": 3,
            "stage": 0,
            "position": 27,
            "count": 1,
            "kind": 1,
            "flags": 2,
            "until": 0,
            "part": 0,
            "parts": 1,
            "data": {"hex": "02010000"},
        },
        "8c 07 02 03 00 181b 01 01 02 00 00 01 44 02010000",
        "86 01 16 1adeadbeef 02 01 8c 07 02 03 00 181b 01 01 02 00 00 01 44 02010000",
    ),
    (
        "tokens_with_probabilities",
        "Tokens",
        _BOOT,
        9,
        1,
        {
            "pipeline": 7,
            "session": 3,
            "position": 27,
            "tokens": [
                {"token": 258, "logprob_ppm": -693147, "top": [[258, -693147], [13, -1203973]]}
            ],
            "finish": 0,
            "text": "",
        },
        "86 07 03 181b 81 83 190102 3a000a939a 82 82 190102 3a000a939a 82 0d 3a00125f04 00 60",
        (
            "86 01 07 1adeadbeef 09 01"
            " 86 07 03 181b 81 83 190102 3a000a939a 82 82 190102 3a000a939a 82 0d 3a00125f04 00 60"
        ),
    ),
    (
        "tokens_end",
        "Tokens",
        _BOOT,
        10,
        1,
        {
            "pipeline": 7,
            "session": 3,
            "position": 32,
            "tokens": [{"token": 2, "logprob_ppm": 0, "top": []}],
            "finish": 1,
            "text": "",
        },
        "86 07 03 1820 81 83 02 00 80 01 60",
        "86 01 07 1adeadbeef 0a 01 86 07 03 1820 81 83 02 00 80 01 60",
    ),
]
