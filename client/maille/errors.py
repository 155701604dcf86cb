"""Every error of the public API, named by what the caller can do.

MailleError
├── MeshNotFound        there is no mesh to talk to: start one, or give its address
├── MeshUnavailable     it stopped answering: try again; what it accepted goes on
├── MeshBusy            its queue is full: send more slowly
├── Unauthorized        give the right key
├── SettingsError       correct the named setting
├── UnknownModel        correct the name (near ones are told), or add the model
├── UnknownNode         correct the node's name
├── NodeRefused         what was asked does not fit how the node is now: the text says why
├── UnknownSense        correct its number
├── BoardRefused        a board cannot hold the model, or do what was asked: the text says why
├── UnknownTask         the id is wrong, or the task ended too long ago
├── UnknownResponse     a language model's answer is not kept (any longer): ask again
├── GenerationFailed    a language model's answer could not be made, or not to its end: the text
│                       says what is missing
├── ModelRejected       the file cannot be served: correct it
├── InputError          correct the inputs; `code` says what about them
├── ResultTimeout       the task has not ended yet: wait again (also a TimeoutError)
└── TaskError           one task ended without outputs; `task_id`, `code`, `node`, `attempts`
    ├── TaskFailed      no other node could mend it: read the reason
    │   └── ModelError  the model itself fails on these inputs
    ├── TaskExpired     it did not end before its deadline: give it more time or more nodes
    ├── TaskCancelled   someone cancelled it
    ├── TaskDead        every attempt failed: `history` tells each of them
    └── OutcomeUnknown  an at-most-once task may or may not have run: decide yourself

Every message names the cause and the next step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from maille_protocol import ErrorCode, Outcome, OutcomeStatus


class MailleError(Exception):
    """Base of every error that this package raises on purpose."""


class MeshNotFound(MailleError):
    """Raised when no mesh was given and none could be found."""


class MeshUnavailable(MailleError):
    """Raised when the mesh cannot be reached or stopped answering."""


class MeshBusy(MailleError):
    """Raised when the coordinator's queue is full."""


class Unauthorized(MailleError):
    """Raised when the mesh asks for a key and got none, or another."""


class SettingsError(MailleError):
    """Raised when a setting cannot be used as it is."""


class UnknownModel(MailleError):
    """Raised when the mesh has no model of this name and version."""


class UnknownNode(MailleError):
    """Raised when the mesh has no node of this name."""


class NodeRefused(MailleError):
    """Raised when what was asked of a node does not fit how it is now."""


class UnknownSense(MailleError):
    """Raised for a sense that the mesh does not have."""


class BoardRefused(MailleError):
    """Raised when a board cannot hold a model or do what was asked."""


class UnknownTask(MailleError):
    """Raised when the mesh knows no task with this id (any longer)."""


class UnknownResponse(MailleError):
    """Raised when the mesh keeps no answer of this id (any longer)."""


class GenerationFailed(MailleError):
    """Raised when a language model's answer cannot be made, or broke off for good."""


class ModelRejected(MailleError):
    """Raised when a file was not taken as a model."""


class InputError(MailleError):
    """Raised when inputs do not fit the model; nothing was run."""

    def __init__(self, text: str, code: ErrorCode = ErrorCode.INPUT_MALFORMED) -> None:
        super().__init__(text)
        self.code = code


class ResultTimeout(MailleError, TimeoutError):
    """Raised when a task has not ended within the time given to wait; it goes on."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One ended attempt in the history of a task."""

    attempt: int
    node: str
    code: str
    reason: str


class TaskError(MailleError):
    """Base of what is raised when a task ended without outputs."""

    def __init__(
        self,
        text: str,
        *,
        task_id: str = "",
        code: ErrorCode = ErrorCode.NONE,
        node: str = "",
        attempts: int = 0,
        history: Sequence[Attempt] = (),
    ) -> None:
        super().__init__(text)
        self.task_id = task_id
        self.code = code
        self.node = node
        self.attempts = attempts
        self.history = tuple(history)

    @classmethod
    def of(cls, outcome: Outcome, text: str, history: Sequence[Attempt] = ()) -> Self:
        """The error for one task's outcome."""
        return cls(
            text,
            task_id=outcome.task_id.hex(),
            code=outcome.code,
            node=outcome.node,
            attempts=outcome.attempts,
            history=history,
        )


class TaskFailed(TaskError):
    """Raised when a task failed in a way that no other node could mend."""


class ModelError(TaskFailed):
    """Raised when the model itself fails on the inputs, on any node."""


class TaskExpired(TaskError):
    """Raised when a task did not end before its deadline."""


class TaskCancelled(TaskError):
    """Raised when a task was cancelled."""


class TaskDead(TaskError):
    """Raised when a task used up its attempts; `history` tells how each one ended."""


class OutcomeUnknown(TaskError):
    """Raised when a task that must not run twice was lost on the way: it may have run."""


ERROR_OF_CODE: Mapping[ErrorCode, type[MailleError]] = {
    ErrorCode.NONE: TaskFailed,
    ErrorCode.BUSY: TaskFailed,
    ErrorCode.DRAINING: TaskFailed,
    ErrorCode.STALE_EPOCH: TaskFailed,
    ErrorCode.NO_SPACE: TaskFailed,
    ErrorCode.ARTEFACT_UNAVAILABLE: TaskFailed,
    ErrorCode.ARTEFACT_CORRUPT: TaskFailed,
    ErrorCode.OUT_OF_MEMORY: TaskFailed,
    ErrorCode.NODE_ERROR: TaskFailed,
    ErrorCode.NODE_LOST: TaskFailed,
    ErrorCode.LEASE_EXPIRED: TaskFailed,
    ErrorCode.CONTENT_UNAVAILABLE: TaskFailed,
    ErrorCode.UNSUPPORTED_FORMAT: TaskFailed,
    ErrorCode.CACHE_FULL: TaskFailed,
    ErrorCode.CACHE_GAP: TaskFailed,
    ErrorCode.UNKNOWN_SESSION: TaskFailed,
    ErrorCode.MODEL_NOT_HELD: TaskFailed,
    ErrorCode.MODEL_TOO_LARGE: TaskFailed,
    ErrorCode.SELF_TEST_FAILED: TaskFailed,
    ErrorCode.SENSOR_ERROR: TaskFailed,
    ErrorCode.NO_SUCH_SENSOR: TaskFailed,
    ErrorCode.UNKNOWN_MODEL: UnknownModel,
    ErrorCode.INPUT_NAME: InputError,
    ErrorCode.INPUT_TYPE: InputError,
    ErrorCode.INPUT_SHAPE: InputError,
    ErrorCode.INPUT_MALFORMED: InputError,
    ErrorCode.INPUT_TOO_LARGE: InputError,
    ErrorCode.MODEL_INVALID: ModelError,
    ErrorCode.MODEL_ERROR: ModelError,
    ErrorCode.OUTPUT_TOO_LARGE: ModelError,
    ErrorCode.QUEUE_FULL: MeshBusy,
    ErrorCode.TOO_MANY_ATTEMPTS: TaskDead,
    ErrorCode.DEADLINE: TaskExpired,
    ErrorCode.OUTCOME_UNKNOWN: OutcomeUnknown,
    ErrorCode.NO_SUCH_NODE: UnknownNode,
    ErrorCode.DUPLICATE_ID: TaskFailed,
    ErrorCode.CACHE_FULL: TaskFailed,
    ErrorCode.CACHE_GAP: TaskFailed,
    ErrorCode.UNKNOWN_SESSION: TaskFailed,
}
"""The error that a failed or rejected task becomes; a test holds the table complete."""

_NEXT_STEP: Mapping[type[MailleError], str] = {
    TaskExpired: "Give it more time (deadline_s), or see with `maille nodes` whether any node can run it.",
    TaskDead: "See `maille tasks show` for every attempt.",
    MeshBusy: "Send more slowly, or use `map`, which adapts.",
    UnknownNode: "See `maille nodes`.",
    OutcomeUnknown: "It may have run: look at what it was to change before you send it again.",
}


def error_of(outcome: Outcome, reason: str, history: Sequence[Attempt] = ()) -> MailleError:
    """The error that an outcome other than done stands for."""
    kind = ERROR_OF_CODE[outcome.code]
    match outcome.status:
        case OutcomeStatus.EXPIRED:
            kind = TaskExpired
        case OutcomeStatus.CANCELLED:
            kind = TaskCancelled
        case OutcomeStatus.DEAD if outcome.code != ErrorCode.OUTCOME_UNKNOWN:
            kind = TaskDead
        case OutcomeStatus.UNKNOWN:
            kind = UnknownTask
        case _:
            pass
    if kind is UnknownTask:
        return UnknownTask(
            f"The mesh does not know task {outcome.task_id.hex()} (any longer). "
            "Check the id; ended tasks are kept for a limited time."
        )
    text = reason or outcome.code.name.lower().replace("_", " ")
    if issubclass(kind, TaskError):
        sentence = f"Task {outcome.task_id.hex()} {_VERB[kind]}: {text.rstrip('.')}."
        return kind.of(outcome, _with_step(sentence, kind), history)
    if issubclass(kind, InputError):
        return kind(text, outcome.code)
    return kind(_with_step(f"{text.rstrip('.')}.", kind))


_VERB: Mapping[type[TaskError], str] = {
    TaskFailed: "failed",
    ModelError: "failed in the model",
    TaskExpired: "passed its deadline",
    TaskCancelled: "was cancelled",
    TaskDead: "used up its attempts",
    OutcomeUnknown: "was lost on its way",
}


def _with_step(text: str, kind: type[MailleError]) -> str:
    step = _NEXT_STEP.get(kind)
    return f"{text} {step}" if step else text
