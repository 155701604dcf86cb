"""Messages of boards, byte by byte: the form is that of `messages`."""

from vector_sources.common import SHA256
from vector_sources.messages import Fields

_BOOT = 0xDEADBEEF
_COORDINATOR_BOOT = 0x0BADCAFE
_S = "5820" + SHA256

# (name, message, boot, seq, epoch, fields, hex of the body, hex of the whole)
BOARDS_GOOD: list[tuple[str, str, int, int, int, Fields, str, str]] = [
    (
        "model_deploy",
        "ModelOrder",
        _COORDINATOR_BOOT,
        11,
        1,
        {
            "command": 1,
            "model": {
                "name": "digits",
                "version": 1,
                "sha256": {"hex": SHA256},
                "size_bytes": 3100,
                "format": 2,
            },
            "nonce": 9,
        },
        "83 01 85 66 646967697473 01" + _S + "190c1c 02 09",
        "86 01 17 1a0badcafe 0b 01 83 01 85 66 646967697473 01" + _S + "190c1c 02 09",
    ),
    (
        "model_calibrate",
        "ModelOrder",
        _COORDINATOR_BOOT,
        12,
        1,
        {"command": 3, "model": None, "nonce": 10},
        "83 03 f6 0a",
        "86 01 17 1a0badcafe 0c 01 83 03 f6 0a",
    ),
    (
        "chunk",
        "Chunk",
        _COORDINATOR_BOOT,
        13,
        1,
        {"sha256": {"hex": SHA256}, "offset": 512, "data": {"hex": "01020304"}},
        "83" + _S + "190200 44 01020304",
        "86 01 1819 1a0badcafe 0d 01 83" + _S + "190200 44 01020304",
    ),
    (
        "sense_start",
        "SenseOrder",
        _COORDINATOR_BOOT,
        14,
        1,
        {
            "command": 1,
            "sense": 5,
            "sha256": {"hex": SHA256},
            "sensor": "adc0",
            "interval_ms": 2000,
            "mode": 1,
        },
        "86 01 05" + _S + "64 61646330 1907d0 01",
        "86 01 181a 1a0badcafe 0e 01 86 01 05" + _S + "64 61646330 1907d0 01",
    ),
    (
        "sense_stop",
        "SenseOrder",
        _COORDINATOR_BOOT,
        15,
        1,
        {"command": 2, "sense": 5, "sha256": None, "sensor": "", "interval_ms": 0, "mode": 0},
        "86 02 05 f6 60 00 00",
        "86 01 181a 1a0badcafe 0f 01 86 02 05 f6 60 00 00",
    ),
    (
        "model_wanted",
        "ModelReport",
        _BOOT,
        11,
        1,
        {
            "state": 0,
            "sha256": {"hex": SHA256},
            "nonce": 9,
            "offset": 512,
            "length": 512,
            "code": 0,
            "text": "",
            "run_us": 0,
        },
        "88 00" + _S + "09 190200 190200 00 60 00",
        "86 01 09 1adeadbeef 0b 01 88 00" + _S + "09 190200 190200 00 60 00",
    ),
    (
        "model_ready",
        "ModelReport",
        _BOOT,
        12,
        1,
        {
            "state": 1,
            "sha256": {"hex": SHA256},
            "nonce": 9,
            "offset": 0,
            "length": 0,
            "code": 0,
            "text": "",
            "run_us": 3000,
        },
        "88 01" + _S + "09 00 00 00 60 190bb8",
        "86 01 09 1adeadbeef 0c 01 88 01" + _S + "09 00 00 00 60 190bb8",
    ),
    (
        "model_failed_its_test",
        "ModelReport",
        _BOOT,
        13,
        1,
        {
            "state": 2,
            "sha256": {"hex": SHA256},
            "nonce": 9,
            "offset": 0,
            "length": 0,
            "code": 18,
            "text": "vector 3",
            "run_us": 0,
        },
        "88 02" + _S + "09 00 00 12 68 766563746f722033 00",
        "86 01 09 1adeadbeef 0d 01 88 02" + _S + "09 00 00 12 68 766563746f722033 00",
    ),
    (
        "reading",
        "Readings",
        _BOOT,
        14,
        1,
        {
            "readings": [
                {
                    "sense": 5,
                    "counter": 12,
                    "age_ms": 20,
                    "code": 0,
                    "content": {"hex": "80"},
                    "run_us": 3000,
                }
            ]
        },
        "81 86 05 0c 14 00 41 80 190bb8",
        "86 01 0a 1adeadbeef 0e 01 81 86 05 0c 14 00 41 80 190bb8",
    ),
    (
        "board_state",
        "BoardState",
        _BOOT,
        3,
        0,
        {
            "sensors": [{"name": "a0", "values": 0}, {"name": "temp", "values": 1}],
            "models": [{"name": "digits", "sha256": {"hex": SHA256}, "removable": True}],
            "kernels": [{"kernel": 0, "operations_per_s": 1333333}],
            "format_version": 1,
            "max_models": 1,
            "max_model_bytes": 4096,
            "arena_bytes": 256,
            "free_memory_bytes": 800,
            "resets": 3,
            "reset_cause": 1,
            "faults": 0,
            "senses": [5],
        },
        "8c 82 82 62 6130 00 82 64 74656d70 01 81 83 66 646967697473"
        + _S
        + "f5 81 82 00 1a00145855 01 01 191000 190100 190320 03 01 00 81 05",
        "86 01 0b 1adeadbeef 03 00 8c 82 82 62 6130 00 82 64 74656d70 01 81 83 66 646967697473"
        + _S
        + "f5 81 82 00 1a00145855 01 01 191000 190100 190320 03 01 00 81 05",
    ),
]
