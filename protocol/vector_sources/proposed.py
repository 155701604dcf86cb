"""Values that our encoder turns into vectors: extremes, and what is long to write by hand."""

import numpy as np

from maille_protocol import (
    Accepted,
    Ask,
    Cancel,
    Control,
    ControlOrder,
    CoordinatorState,
    ErrorCode,
    Heartbeat,
    Log,
    Measured,
    Message,
    ModelFormat,
    ModelReference,
    NodeInfo,
    NodeKind,
    NodeState,
    NodeStatus,
    Offer,
    Offers,
    Outcome,
    Outcomes,
    OutcomeStatus,
    Progress,
    ProgressMark,
    Reference,
    Result,
    Results,
    ResultStatus,
    Submission,
    Submit,
    TaskFlag,
    Withdraw,
)
from maille_protocol.limits import MAX_ARTEFACT_BYTES, MAX_UINT64
from maille_protocol.tensors import Array, encode_tensors
from vector_sources.common import SHA256, TASK

_MAX_UINT32 = (1 << 32) - 1
_FIRST = bytes.fromhex(TASK)
_SECOND = bytes(reversed(_FIRST))
_SHA256 = bytes.fromhex(SHA256)
_LARGE = Reference(_SHA256, MAX_ARTEFACT_BYTES)
_PIXELS = encode_tensors({"X": np.arange(8, dtype=np.float32).reshape(1, 8)})
_CLASS = encode_tensors({"label": np.array([3], dtype=np.int64)})
_MODEL = ModelReference("person-detect", _MAX_UINT32, _SHA256, 309_000, ModelFormat.TINY)

PROPOSED_MESSAGES: list[tuple[str, Message]] = [
    ("status_ready", NodeStatus(NodeState.READY)),
    ("status_draining", NodeStatus(NodeState.DRAINING, "SIGTERM")),
    ("status_disconnected", NodeStatus(NodeState.DISCONNECTED, "bye")),
    ("status_longest_reason", NodeStatus(NodeState.INIT, "\u00fc" * 2000)),
    (
        "info_of_a_pc",
        NodeInfo(
            NodeKind.PC,
            "B\u00fcro, unter dem Tisch",
            "maille 0.1.0",
            4096,
            (ModelFormat.ONNX, ModelFormat.TINY),
            49152,
            Measured(65535, MAX_UINT64, 41_000_000_000, 19_200_000_000, 0, ("gpu 0", "gpu 1")),
        ),
    ),
    (
        "info_smallest",
        NodeInfo(NodeKind.SIMULATED, "", "", 0, (), 0, Measured()),
    ),
    ("heartbeat_idle", Heartbeat(0, 0, 0, 0, None, (), ())),
    (
        "heartbeat_largest_numbers",
        Heartbeat(
            MAX_UINT64,
            _MAX_UINT32,
            _MAX_UINT32,
            MAX_UINT64,
            100,
            (_SHA256[:8], _SHA256[8:16]),
            ((_FIRST, 1), (_SECOND, _MAX_UINT32)),
        ),
    ),
    ("results_none", Results(())),
    (
        "results_of_every_status",
        Results(
            (
                Result(_FIRST, 1, 9, ResultStatus.DONE, ErrorCode.NONE, _CLASS, 410, 12),
                Result(_FIRST, 2, 9, ResultStatus.DONE, ErrorCode.NONE, _LARGE, 410, 12),
                Result(_SECOND, 1, 9, ResultStatus.FAILED, ErrorCode.MODEL_ERROR, b"Cast", 9, 9),
                Result(_SECOND, 2, 9, ResultStatus.REFUSED, ErrorCode.BUSY, b"full", 0, 0),
                Result(_SECOND, 3, 9, ResultStatus.CANCELLED, ErrorCode.NONE, b"", 0, MAX_UINT64),
                Result(_SECOND, 4, 9, ResultStatus.EXPIRED, ErrorCode.DEADLINE, b"", 0, 0),
            )
        ),
    ),
    (
        "progress_of_two",
        Progress(
            (
                ProgressMark(_FIRST, 1, MAX_UINT64, 0),
                ProgressMark(_SECOND, _MAX_UINT32, 1, 1000),
            )
        ),
    ),
    ("log_critical", Log(50, "la pile est \u00e0 plat \U0001f50b")),
    (
        "offers_of_two",
        Offers(
            _MODEL,
            (
                Offer(_FIRST, 1, MAX_UINT64, int(TaskFlag.AT_MOST_ONCE), _PIXELS, 1),
                Offer(_SECOND, 70000, 0, 255, _LARGE, MAX_UINT64),
            ),
        ),
    ),
    ("offers_none", Offers(_MODEL, ())),
    ("cancel_two", Cancel(((_FIRST, 1), (_SECOND, 2)))),
    ("control_drain", ControlOrder(Control.DRAIN)),
    ("control_resume", ControlOrder(Control.RESUME, 1, "done")),
    (
        "control_stop_duplicate",
        ControlOrder(Control.STOP_DUPLICATE, MAX_UINT64, "two nodes say they are node-1"),
    ),
    ("coordinator_ipv6", CoordinatorState(True, "http://[2001:db8::1]:8080")),
    (
        "submit_two",
        Submit(
            MAX_UINT64,
            "person-detect",
            _MAX_UINT32,
            9,
            _MAX_UINT32,
            100,
            1,
            "node-1",
            (Submission(_FIRST, _PIXELS), Submission(_SECOND, _LARGE)),
        ),
    ),
    ("submit_none", Submit(0, "a", 0, 0, 0, 0, 0, None, ())),
    ("ask_two", Ask((_FIRST, _SECOND))),
    ("withdraw_none", Withdraw(())),
    ("accepted_largest", Accepted((0, MAX_UINT64))),
    (
        "outcomes_of_many_kinds",
        Outcomes(
            (
                Outcome(_FIRST, OutcomeStatus.DONE, ErrorCode.NONE, _LARGE, "node-1", 2, 4, 5),
                Outcome(
                    _SECOND,
                    OutcomeStatus.REJECTED,
                    ErrorCode.UNKNOWN_MODEL,
                    b"no model is called 'digit'",
                    "",
                    0,
                    0,
                    0,
                ),
                Outcome(_SECOND, OutcomeStatus.OPEN, ErrorCode.NONE, b"", "", 1, 0, 9),
                Outcome(_SECOND, OutcomeStatus.UNKNOWN, ErrorCode.NONE, b"", "", 0, 0, 0),
            )
        ),
    ),
]

_DTYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")

PROPOSED_TENSORS: list[tuple[str, dict[str, Array]]] = [
    *(
        (f"range_{np.dtype(code).name}", {"x": np.arange(6, dtype=code).reshape(2, 3)})
        for code in _DTYPES
    ),
    ("bool_matrix", {"mask": np.array([[True, False], [False, False]])}),
    ("two_types", {"X": np.ones((1, 2, 2, 1), np.float32), "n": np.array(7, np.int32)}),
]
