"""One message or more of every type, byte by byte."""

from typing import TypeAlias

from vector_sources.common import SHA256, TASK, Json

Fields: TypeAlias = dict[str, Json]
_BYTES_TASK: Json = {"hex": TASK}
_BYTES_SHA256: Json = {"hex": SHA256}
_NO_TENSORS: Json = {"hex": "80"}
_BOOT = 0xDEADBEEF
_COORDINATOR_BOOT = 0x0BADCAFE
_CLIENT_BOOT = 0xC0FFEE00

# (name, message, boot, seq, epoch, fields, hex of the body, hex of the whole)
MESSAGES_GOOD: list[tuple[str, str, int, int, int, Fields, str, str]] = [
    (
        "birth",
        "NodeStatus",
        _BOOT,
        1,
        0,
        {"state": 0, "reason": ""},
        "82 00 60",
        "86 01 01 1adeadbeef 01 00 82 00 60",
    ),
    (
        "will",
        "NodeStatus",
        _BOOT,
        0,
        0,
        {"state": 5, "reason": ""},
        "82 05 60",
        "86 01 01 1adeadbeef 00 00 82 05 60",
    ),
    (
        "sleeping",
        "NodeStatus",
        _BOOT,
        42,
        3,
        {"state": 3, "reason": "low"},
        "82 03 63 6c6f77",
        "86 01 01 1adeadbeef 182a 03 82 03 63 6c6f77",
    ),
    (
        "info_of_a_board",
        "NodeInfo",
        _BOOT,
        2,
        0,
        {
            "kind": 3,
            "name": "uno",
            "software": "maille-0.1",
            "slots": 1,
            "formats": [2],
            "max_message_bytes": 768,
            "measured": {
                "cores": 1,
                "memory_bytes": 2048,
                "multiply_accumulates_per_s": 250000,
                "memory_bytes_per_s": 0,
                "disk_free_bytes": 0,
                "accelerators": [],
            },
            "gateway": "gw-1",
        },
        (
            "88 03 63 756e6f 6a 6d61696c6c652d302e31 01 81 02 190300"
            " 86 01 190800 1a0003d090 00 00 80 64 67772d31"
        ),
        (
            "86 01 02 1adeadbeef 02 00 88 03 63 756e6f 6a 6d61696c6c652d302e31 01 81 02 190300"
            " 86 01 190800 1a0003d090 00 00 80 64 67772d31"
        ),
    ),
    (
        "heartbeat_under_load",
        "Heartbeat",
        _BOOT,
        3,
        1,
        {
            "uptime_ms": 1000,
            "running": 1,
            "queued": 0,
            "latency_us": 1234,
            "battery_percent": 87,
            "warm": [{"hex": "0001020304050607"}],
            "held": [[_BYTES_TASK, 2]],
        },
        "87 1903e8 01 00 1904d2 1857 81 48 0001020304050607 81 82 50" + TASK + "02",
        "86 01 03 1adeadbeef 03 01 87 1903e8 01 00 1904d2 1857 81 48 0001020304050607 81 82 50"
        + TASK
        + "02",
    ),
    (
        "result_done",
        "Results",
        _BOOT,
        4,
        1,
        {
            "results": [
                {
                    "task_id": _BYTES_TASK,
                    "attempt": 1,
                    "epoch": 1,
                    "status": 0,
                    "code": 0,
                    "content": _NO_TENSORS,
                    "run_us": 400,
                    "queue_us": 20,
                }
            ]
        },
        "81 88 50" + TASK + "01 01 00 00 41 80 190190 14",
        "86 01 04 1adeadbeef 04 01 81 88 50" + TASK + "01 01 00 00 41 80 190190 14",
    ),
    (
        "progress_half",
        "Progress",
        _BOOT,
        5,
        1,
        {"marks": [{"task_id": _BYTES_TASK, "attempt": 1, "epoch": 1, "permille": 500}]},
        "81 84 50" + TASK + "01 01 1901f4",
        "86 01 05 1adeadbeef 05 01 81 84 50" + TASK + "01 01 1901f4",
    ),
    (
        "log_line",
        "Log",
        _BOOT,
        6,
        1,
        {"level": 20, "text": "abc"},
        "82 14 63 616263",
        "86 01 06 1adeadbeef 06 01 82 14 63 616263",
    ),
    (
        "offer",
        "Offers",
        _COORDINATOR_BOOT,
        1,
        1,
        {
            "model": {
                "name": "digits",
                "version": 1,
                "sha256": _BYTES_SHA256,
                "size_bytes": 4096,
                "format": 1,
            },
            "offers": [
                {
                    "task_id": _BYTES_TASK,
                    "attempt": 1,
                    "remaining_ms": 30000,
                    "flags": 0,
                    "content": _NO_TENSORS,
                    "boot": 0,
                }
            ],
        },
        "82 85 66 646967697473 01 5820"
        + SHA256
        + "191000 01 81 85 50"
        + TASK
        + "01 197530 00 4180",
        "86 01 10 1a0badcafe 01 01 82 85 66 646967697473 01 5820"
        + SHA256
        + "191000 01 81 85 50"
        + TASK
        + "01 197530 00 4180",
    ),
    (
        "offer_at_most_once",
        "Offers",
        _COORDINATOR_BOOT,
        1,
        1,
        {
            "model": {
                "name": "digits",
                "version": 1,
                "sha256": _BYTES_SHA256,
                "size_bytes": 4096,
                "format": 1,
            },
            "offers": [
                {
                    "task_id": _BYTES_TASK,
                    "attempt": 1,
                    "remaining_ms": 30000,
                    "flags": 1,
                    "content": _NO_TENSORS,
                    "boot": _BOOT,
                }
            ],
        },
        "82 85 66 646967697473 01 5820"
        + SHA256
        + "191000 01 81 86 50"
        + TASK
        + "01 197530 01 4180 1adeadbeef",
        "86 01 10 1a0badcafe 01 01 82 85 66 646967697473 01 5820"
        + SHA256
        + "191000 01 81 86 50"
        + TASK
        + "01 197530 01 4180 1adeadbeef",
    ),
    (
        "cancel",
        "Cancel",
        _COORDINATOR_BOOT,
        2,
        1,
        {"attempts": [[_BYTES_TASK, 1]]},
        "81 82 50" + TASK + "01",
        "86 01 11 1a0badcafe 02 01 81 82 50" + TASK + "01",
    ),
    (
        "rebirth",
        "ControlOrder",
        _COORDINATOR_BOOT,
        3,
        1,
        {"command": 1, "boot": _BOOT, "reason": "gap"},
        "83 01 1adeadbeef 63 676170",
        "86 01 12 1a0badcafe 03 01 83 01 1adeadbeef 63 676170",
    ),
    (
        "coordinator_online",
        "CoordinatorState",
        _COORDINATOR_BOOT,
        1,
        1,
        {"online": True, "http_url": "http://192.0.2.1:8080"},
        "82 f5 75 687474703a2f2f3139322e302e322e313a38303830",
        "86 01 1818 1a0badcafe 01 01 82 f5 75 687474703a2f2f3139322e302e322e313a38303830",
    ),
    (
        "coordinator_will",
        "CoordinatorState",
        _COORDINATOR_BOOT,
        0,
        1,
        {"online": False, "http_url": ""},
        "82 f4 60",
        "86 01 1818 1a0badcafe 00 01 82 f4 60",
    ),
    (
        "submit",
        "Submit",
        _CLIENT_BOOT,
        1,
        0,
        {
            "batch": 7,
            "model": "digits",
            "version": 0,
            "priority": 5,
            "deadline_ms": 10000,
            "max_attempts": 3,
            "flags": 0,
            "target": None,
            "tasks": [{"task_id": _BYTES_TASK, "content": _NO_TENSORS}],
        },
        "89 07 66 646967697473 00 05 192710 03 00 f6 81 82 50" + TASK + "4180",
        "86 01 1820 1ac0ffee00 01 00 89 07 66 646967697473 00 05 192710 03 00 f6 81 82 50"
        + TASK
        + "4180",
    ),
    (
        "ask",
        "Ask",
        _CLIENT_BOOT,
        2,
        0,
        {"task_ids": [_BYTES_TASK]},
        "81 50" + TASK,
        "86 01 1821 1ac0ffee00 02 00 81 50" + TASK,
    ),
    (
        "withdraw",
        "Withdraw",
        _CLIENT_BOOT,
        3,
        0,
        {"task_ids": [_BYTES_TASK]},
        "81 50" + TASK,
        "86 01 1822 1ac0ffee00 03 00 81 50" + TASK,
    ),
    (
        "accepted",
        "Accepted",
        _COORDINATOR_BOOT,
        4,
        1,
        {"batches": [7, 8]},
        "82 07 08",
        "86 01 1823 1a0badcafe 04 01 82 07 08",
    ),
    (
        "outcome_done",
        "Outcomes",
        _COORDINATOR_BOOT,
        5,
        1,
        {
            "outcomes": [
                {
                    "task_id": _BYTES_TASK,
                    "status": 0,
                    "code": 0,
                    "content": _NO_TENSORS,
                    "node": "node-1",
                    "attempts": 1,
                    "run_us": 400,
                    "total_us": 3000,
                }
            ]
        },
        "81 88 50" + TASK + "00 00 4180 66 6e6f64652d31 01 190190 190bb8",
        "86 01 1824 1a0badcafe 05 01 81 88 50"
        + TASK
        + "00 00 4180 66 6e6f64652d31 01 190190 190bb8",
    ),
]
