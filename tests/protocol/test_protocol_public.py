"""What the package promises to the others: its names, its errors, and no dependency upward."""

import dataclasses
from types import ModuleType

import pytest
from wire_files import Vector, vectors

import maille_protocol
from maille_protocol import ProtocolError, UsageError, WireError, unpack

NAMES = [
    "Accepted",
    "Activation",
    "ActivationFlag",
    "ActivationKind",
    "Ask",
    "BoardState",
    "Cancel",
    "Chunk",
    "Control",
    "ControlOrder",
    "CoordinatorState",
    "Envelope",
    "ErrorCode",
    "Finish",
    "Grammar",
    "Heartbeat",
    "HeldModel",
    "Kernel",
    "KernelSpeed",
    "Log",
    "Measured",
    "Message",
    "MessageType",
    "ModelCommand",
    "ModelFormat",
    "ModelOrder",
    "ModelReference",
    "ModelReport",
    "ModelState",
    "NodeInfo",
    "NodeKind",
    "NodeState",
    "NodeStatus",
    "Offer",
    "Offers",
    "Outcome",
    "OutcomeStatus",
    "Outcomes",
    "PRESENCE_TRANSITIONS",
    "PresenceEvent",
    "Progress",
    "ProgressMark",
    "ProtocolError",
    "Reading",
    "Readings",
    "Reference",
    "ResetCause",
    "Result",
    "ResultStatus",
    "Results",
    "Route",
    "Sampling",
    "SenseCommand",
    "SenseMode",
    "SenseOrder",
    "Sensor",
    "SessionCommand",
    "SessionOrder",
    "StageCommand",
    "StageOrder",
    "StageReport",
    "StageState",
    "Submission",
    "Submit",
    "TASK_TRANSITIONS",
    "TaskEvent",
    "TaskFlag",
    "TaskState",
    "Token",
    "Tokens",
    "UsageError",
    "WireError",
    "Withdraw",
    "pack",
    "unpack",
]


def test_names_are_pinned() -> None:
    assert sorted(maille_protocol.__all__) == sorted(NAMES)
    public = {
        name
        for name, value in vars(maille_protocol).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public == set(NAMES)


def test_errors_by_blame() -> None:
    assert issubclass(WireError, ProtocolError)
    assert issubclass(UsageError, ProtocolError)
    assert not issubclass(WireError, UsageError)
    assert not issubclass(UsageError, WireError)


@pytest.mark.parametrize("vector", vectors("messages", "good"), ids=str)
def test_messages_cannot_be_changed(vector: Vector) -> None:
    message = unpack(vector.data).message
    assert not hasattr(message, "__dict__")
    hash(message)
    first = dataclasses.fields(message)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(message, first, None)
