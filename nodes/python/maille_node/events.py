"""What can happen to a node (events) and what it then wants done (actions): the core's language.

Times are milliseconds of a monotonic clock; `now_ms` is handed to the core with every event.
"""

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from maille_protocol import Envelope, ErrorCode, Message, ModelReference, Reference, Result
from maille_protocol.contents import Content
from maille_protocol.topics import Topic

# --- events ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The broker has confirmed the subscriptions."""


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The connection to the broker is lost."""

    reason: str


@dataclass(frozen=True, slots=True)
class Heard:
    """All messages of one burst, each already known to stand on a topic where it belongs."""

    envelopes: tuple[Envelope, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """The time last asked for with `WakeAt` has come."""


@dataclass(frozen=True, slots=True)
class BatteryRead:
    """The machine's battery, None if it has none."""

    percent: int | None


@dataclass(frozen=True, slots=True)
class ModelReady:
    """A model wanted by `Prepare` is in memory and stays there until `Release`."""

    sha256: bytes
    joinable: bool
    """Whether several of its tasks may run as one."""


@dataclass(frozen=True, slots=True)
class ModelFailed:
    """A model wanted by `Prepare` cannot be had."""

    sha256: bytes
    code: ErrorCode
    text: str


@dataclass(frozen=True, slots=True)
class ModelForgotten:
    """A model that was no longer in use has left memory."""

    sha256: bytes


@dataclass(frozen=True, slots=True)
class InputReady:
    """An input wanted by `FetchInput` is on disk and stays there until `ReleaseInput`."""

    task_id: bytes


@dataclass(frozen=True, slots=True)
class InputFailed:
    """An input wanted by `FetchInput` cannot be had."""

    task_id: bytes
    code: ErrorCode
    text: str


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How one task's run ended: encoded outputs and code NONE, or an error text (UTF-8)."""

    task_id: bytes
    code: ErrorCode
    content: bytes
    run_us: int
    """Of a joined run: its share."""
    refused: bool = False
    """The task certainly did not run."""


@dataclass(frozen=True, slots=True)
class BatchEnded:
    """Every task of a batch has ended; the worker is free."""

    batch: int
    ends: tuple[RunEnd, ...]
    joinable: bool
    """As `ModelReady.joinable`, as the runs have shown."""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """An output wanted by `Upload` lies at the coordinator."""

    task_id: bytes
    reference: Reference


@dataclass(frozen=True, slots=True)
class UploadFailed:
    """An output wanted by `Upload` could not be delivered."""

    task_id: bytes
    code: ErrorCode
    text: str


@dataclass(frozen=True, slots=True)
class NotPublished:
    """The link did not take these results of a `Publish`."""

    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class Speak:
    """Something beside tasks has a message for the coordinator; lost while the link is down."""

    topic: Topic
    message: Message


@dataclass(frozen=True, slots=True)
class StagesServed:
    """So many stages of language models are counted on by the mesh, now."""

    count: int


@dataclass(frozen=True, slots=True)
class DrainRequested:
    """Finish what is held within `timeout_ms`, then stop. Asked twice: stop at once."""

    timeout_ms: float


Event: TypeAlias = (
    LinkUp
    | LinkDown
    | Heard
    | Tick
    | BatteryRead
    | ModelReady
    | ModelFailed
    | ModelForgotten
    | InputReady
    | InputFailed
    | BatchEnded
    | Uploaded
    | UploadFailed
    | NotPublished
    | Speak
    | StagesServed
    | DrainRequested
)

# --- actions -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Publish:
    """Send `payload` on this node's `topic`. If the link refuses, answer with `NotPublished`."""

    topic: Topic
    payload: bytes
    results: tuple[Result, ...] = ()
    """What `payload` holds, if it holds results."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Bring a model into memory and keep it; answered by `ModelReady` or `ModelFailed`."""

    model: ModelReference


@dataclass(frozen=True, slots=True)
class Release:
    """No task needs this model now: it may leave memory when space is short."""

    sha256: bytes


@dataclass(frozen=True, slots=True)
class FetchInput:
    """Bring an input to the disk and keep it; answered by `InputReady` or `InputFailed`."""

    task_id: bytes
    reference: Reference


@dataclass(frozen=True, slots=True)
class ReleaseInput:
    """Undoes one `FetchInput`, whether answered yet or not."""

    task_id: bytes
    reference: Reference


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One task of a batch."""

    task_id: bytes
    content: Content


@dataclass(frozen=True, slots=True)
class RunBatch:
    """Run these tasks of one ready model on a free worker; answered by `BatchEnded`."""

    batch: int
    sha256: bytes
    items: tuple[BatchItem, ...]


@dataclass(frozen=True, slots=True)
class AbortBatch:
    """Nobody wants this batch any more: stop it if it can be stopped. `BatchEnded` still follows."""

    batch: int


@dataclass(frozen=True, slots=True)
class Upload:
    """Put an output to the coordinator; answered by `Uploaded` or `UploadFailed`."""

    task_id: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class UseCoordinator:
    """The coordinator's HTTP address is now this; "" if it has none."""

    http_url: str


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send `Tick` at this time; replaces the time asked for before."""

    at_ms: float


@dataclass(frozen=True, slots=True)
class Note:
    """A line for this program's log; `level` as in Python's logging."""

    level: int
    text: str


class StopReason(Enum):
    """Why a node stops."""

    DRAINED = "drained"
    STOPPED = "stopped before everything was finished"
    DUPLICATE = "another node has this id"


@dataclass(frozen=True, slots=True)
class Stop:
    """Send what is queued, close the link and end."""

    reason: StopReason
    text: str


Action: TypeAlias = (
    Publish
    | Prepare
    | Release
    | FetchInput
    | ReleaseInput
    | RunBatch
    | AbortBatch
    | Upload
    | UseCoordinator
    | WakeAt
    | Note
    | Stop
)
