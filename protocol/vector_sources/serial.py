"""Frames and messages of the serial link: what stands on the wire, what must be refused."""

from vector_sources.common import SHA256

# (origin, data, CRC-16 as it stands on the wire): the check value of the catalogue of CRC
# algorithms (CRC-16/MCRF4XX), others from avr-libc's formula by hand.
CRCS: list[tuple[str, str, str]] = [
    ("catalogue of parametrised CRC algorithms", "313233343536373839", "916f"),
    ("by hand", "", "ffff"),
    ("by hand", "00", "870f"),
    ("by hand", "ff", "ff00"),
]

# (origin, data, COBS): examples of Cheshire and Baker's encoding.
COBS: list[tuple[str, str, str]] = [
    ("Cheshire and Baker", "00", "01 01"),
    ("Cheshire and Baker", "00 00", "01 01 01"),
    ("Cheshire and Baker", "00 11 00", "01 02 11 01"),
    ("Cheshire and Baker", "11 22 00 33", "03 11 22 02 33"),
    ("Cheshire and Baker", "11 22 33 44", "05 11 22 33 44"),
    ("Cheshire and Baker", "11 00 00 00", "02 11 01 01 01"),
]

# (name, from the board, hex of header and payload)
FRAMES_GOOD: list[tuple[str, bool, str]] = [
    ("hello_of_a_host", False, "01 00 00 00 01"),
    ("open", False, "02 07 00 00 02 01 efbeadde feca0d0b"),
    ("status_of_a_host", False, "03 07 01 02 03"),
    ("status_that_asks", False, "23 07 01 02 ff"),
    ("first_segment_of_a_host", False, "0c 07 ff 00 05 85 00 01"),
    ("whole_message_of_a_host", False, "1c 07 01 00 05 81 08"),
    ("longest_of_a_host", False, "04 07 01 00 06" + "00" * 55),
    ("rate_3", False, "05 07 01 00 07 03"),
    ("close", False, "06 07 01 00 08"),
    ("hello_of_a_board", True, "81 00 00 00 00 3f 01 efbeadde 3f c800 ae1a8913 07 01 0000"),
    ("status_of_a_board", True, "83 07 01 02 09 3f"),
    ("status_of_a_busy_board", True, "83 07 01 02 09 00"),
    ("status_after_noise", True, "a3 07 01 02 09 3f"),
    ("last_segment_of_a_board", True, "94 07 01 02 09 3f 00"),
    ("longest_of_a_board", True, "84 07 01 02 09 3f" + "ff" * 54),
    ("rate_agreed", True, "85 07 01 02 09 3f 03 01"),
    ("rate_refused", True, "85 07 01 02 09 3f 03 00"),
]

# (name, why, hex on the wire without the last delimiter)
FRAMES_BAD: list[tuple[str, str, str]] = [
    ("one_byte", "too short for a CRC", "01"),
    ("only_a_code", "nothing in it", "02 55"),
    ("wrong_crc", "one bit of the CRC", "02 01 01 01 04 01 97 98"),
    ("wrong_payload", "one bit of the header", "02 01 01 01 04 03 97 99"),
    ("block_beyond_the_end", "COBS reaches beyond the frame", "09 01 01"),
    ("last_block_cut", "COBS ends amid a block", "02 01 01 01 05 01 97 99"),
    ("of_65_bytes", "longer than a frame may be", "40 " + "55 " * 63 + "02"),
    ("text_of_a_modem", "no frame at all", "0d 0a 4f 4b 0d 0a"),
    ("high_bits", "a line at another speed", "ff ff ff fe fc f8"),
]

# (name, hex of header and payload, from the board, why)
HEADERS_BAD: list[tuple[str, str, bool, str]] = [
    ("no_tag", "01 00 00 00 00", False, "a host's frame has a tag"),
    ("short_header", "01 00 00 01", False, "four bytes"),
    ("kind_0", "00 00 00 00 01", False, "kind 0 is reserved"),
    ("kind_7", "07 05 00 00 01", False, "kind 7 is reserved"),
    ("bit_6", "43 05 00 00 01", False, "bit 6 is reserved"),
    ("echo", "83 05 00 00 01", False, "a board's frame at a board"),
    ("hello_with_session", "01 05 00 00 01", False, "HELLO has no session"),
    ("status_without_session", "03 00 00 00 01", False, "STATUS has one"),
    ("hello_with_payload", "01 00 00 00 01 01", False, "a host's HELLO has none"),
    ("open_short", "02 05 00 00 01 01 efbeadde 0badca", False, "OPEN has 9 bytes"),
    ("data_empty", "1c 05 00 00 01", False, "DATA has at least one byte"),
    ("first_in_status", "0b 05 00 00 01", False, "only DATA has segments"),
    ("rate_4", "05 05 00 00 01 04", False, "rates are 0 to 3"),
    ("rate_without_rate", "05 05 00 00 01", False, "RATE has one byte"),
    ("close_with_payload", "06 05 00 00 01 00", False, "CLOSE has none"),
    ("open_of_a_board", "82 05 00 00 00 3f", True, "only a host opens"),
    ("close_of_a_board", "86 05 00 00 00 3f", True, "only a host closes"),
    ("echo_at_a_host", "03 05 00 00 01 00", True, "a host's frame at a host"),
    ("short_header_of_a_board", "83 05 00 00 00", True, "five bytes"),
    ("status_of_a_board_with_payload", "83 05 00 00 00 3f 00", True, "STATUS has none"),
    ("rate_answer_2", "85 05 00 00 00 3f 01 02", True, "yes is 1 and no 0"),
    (
        "hello_boot_0",
        "81 00 00 00 00 3f 01 00000000 3f c800 ae1a8913 07 01 0000",
        True,
        "boot is never 0",
    ),
    ("hello_short", "81 00 00 00 00 3f 01 efbeadde 3f", True, "HELLO has 16 bytes"),
]

# (name, class, fields, hex)
# ruff: noqa: ISC004
BOARD_MESSAGES_GOOD: list[tuple[str, str, dict[str, object], str]] = [
    (
        "offer",
        "OfferTask",
        {"task": 1, "model": 0, "remaining_ms": 30_000, "inputs": [{"hex": "1405"}]},
        "85 00 01 00 197530 81 42 1405",
    ),
    ("cancel", "CancelTask", {"task": 65535}, "82 01 19ffff"),
    (
        "deploy",
        "Deploy",
        {"model": 1, "size_bytes": 700, "crc32": 0xCBF43926, "sha256": {"hex": SHA256}},
        f"85 02 01 1902bc 1acbf43926 5820 {SHA256}",
    ),
    (
        "chunk",
        "ModelChunk",
        {"model": 1, "offset": 64, "data": {"hex": "0102"}},
        "84 03 01 1840 42 0102",
    ),
    ("evict", "Evict", {"model": 1}, "82 04 01"),
    (
        "sense",
        "Sense",
        {"sense": 7, "model": 0, "sensor": 2, "interval_ms": 100, "mode": 1},
        "86 05 07 00 02 1864 01",
    ),
    ("stop", "StopSense", {"sense": 7}, "82 06 07"),
    ("calibrate", "Calibrate", {}, "81 07"),
    ("report", "Report", {}, "81 08"),
    (
        "info",
        "Info",
        {
            "kind": 3,
            "name": "uno",
            "software": "maille 0.1",
            "mcu": "atmega328p",
            "clock_hz": 16_000_000,
            "flash_bytes": 32_256,
            "flash_free": 9_000,
            "ram_bytes": 2_048,
            "ram_free": 800,
            "slots": 1,
            "format_version": 1,
            "max_models": 1,
            "max_model_bytes": 1_000,
            "arena_bytes": 512,
            "identity": {"hex": "0102030405060708"},
            "resets": 3,
            "kernels": [[0, 1150]],
            "sensors": 1,
            "models": 1,
        },
        "94 0c 03 63756e6f 6a6d61696c6c6520302e31 6a61746d65676133323870 1a00f42400 197e00 192328 "
        "190800 190320 01 01 01 1903e8 190200 48 0102030405060708 03 81 82 00 19047e 01 01",
    ),
    (
        "sensor",
        "SensorRecord",
        {"sensor": 0, "name": "a0", "values": 0},
        "84 0d 00 62 6130 00",
    ),
    (
        "model",
        "ModelRecord",
        {"model": 0, "size_bytes": 4_000, "sha256": {"hex": SHA256}, "removable": False},
        f"85 0e 00 190fa0 5820 {SHA256} f4",
    ),
    (
        "result_done",
        "TaskResult",
        {"task": 1, "status": 0, "code": 0, "run_us": 2_900, "outputs": [{"hex": "25"}]},
        "86 0f 01 00 00 190b54 81 41 25",
    ),
    (
        "result_refused",
        "TaskResult",
        {"task": 2, "status": 2, "code": 1, "run_us": 0, "outputs": []},
        "86 0f 02 02 01 00 80",
    ),
    ("want", "Want", {"model": 1, "offset": 64, "length": 32}, "84 10 01 1840 1820"),
    (
        "model_ready",
        "ModelStateReport",
        {"model": 1, "state": 1, "code": 0, "run_us": 2_900},
        "85 11 01 01 00 190b54",
    ),
    (
        "reading",
        "SenseReading",
        {
            "sense": 7,
            "counter": 1,
            "age_ms": 3,
            "code": 0,
            "run_us": 2_900,
            "outputs": [{"hex": "01"}],
        },
        "87 12 07 01 03 00 190b54 81 41 01",
    ),
    (
        "load",
        "Load",
        {
            "uptime_ms": 5_000,
            "running": 0,
            "queued": 0,
            "latency_us": 2_900,
            "ram_free": 800,
            "bad": 1,
            "overruns": 0,
        },
        "88 13 191388 00 00 190b54 190320 01 00",
    ),
    ("log", "BoardLog", {"level": 30, "text": "hot"}, "83 14 181e 63 686f74"),
    (
        "refused",
        "Refused",
        {"message": 5, "handle": 7, "error": 20},
        "84 15 05 07 14",
    ),
]

# (name, why, hex)
BOARD_MESSAGES_BAD: list[tuple[str, str, str]] = [
    ("empty", "no array", ""),
    ("number", "no array", "07"),
    ("empty_array", "no code", "80"),
    ("map", "a map", "a1 07 00"),
    ("code_9", "unknown message", "81 09"),
    ("code_text", "the code is a number", "81 61 37"),
    ("code_true", "true is no code", "81 f5"),
    ("calibrate_long", "one element too many", "82 07 00"),
    ("cancel_short", "no task", "81 01"),
    ("cancel_task_65536", "handles have 16 bits", "82 01 1a00010000"),
    ("cancel_negative", "no negative numbers", "82 01 20"),
    ("cancel_float", "no floats", "82 01 f93c00"),
    ("cancel_two_items", "something follows", "82 01 01 00"),
    ("offer_inputs_bytes", "inputs are a list", "85 00 01 00 197530 42 1405"),
    ("offer_input_text", "an input is bytes", "85 00 01 00 197530 81 62 3134"),
    ("offer_cut", "truncated", "85 00 01 00 197530 81 42 14"),
    ("offer_length_lies", "longer than what is there", "85 00 01 00 197530 81 5affffffff 14"),
    ("offer_indefinite", "indefinite length", "85 00 01 00 197530 9f 42 1405 ff"),
    ("deploy_sha256_31", "31 bytes", "85 02 01 1902bc 1acbf43926 581f " + SHA256[:62]),
    ("sense_mode_2", "unknown mode", "86 05 07 00 02 1864 02"),
    ("info_without_fields", "19 elements are missing", "81 0c"),
    ("sensor_name_of_33", "the name is too long", "84 0d 00 7821 " + "61" * 33 + " 00"),
    ("sensor_name_not_utf8", "no UTF-8", "84 0d 00 62 ff30 00"),
    ("model_removable_1", "1 is not true", f"85 0e 00 190fa0 5820 {SHA256} 01"),
    ("result_status_9", "unknown status", "86 0f 01 09 00 190b54 80"),
    ("result_code_99", "unknown code", "86 0f 01 01 1863 190b54 80"),
    ("want_length_65536", "lengths have 16 bits", "84 10 01 1840 1a00010000"),
    ("load_uptime_64_bits", "numbers have 32 bits", "88 13 1b0000000100000000 00 00 00 00 00 00"),
    ("log_text_bytes", "a text is a text", "83 14 181e 43 686f74"),
    ("log_of_201", "the text is too long", "83 14 181e 78c9 " + "61" * 201),
    ("refused_tagged", "a tag", "84 15 05 c1 07 14"),
    ("deep", "too many levels", "81" * 14 + "00"),
]
