"""What the client's core takes in (events) and wants done (actions)."""

from dataclasses import dataclass
from typing import TypeAlias

from maille_protocol import Ask, Outcome, Submission, Submit, Withdraw


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """What the tasks of one submission share; zeros mean the coordinator's defaults."""

    model: str
    version: int = 0
    priority: int = 5
    deadline_ms: int = 0
    max_attempts: int = 0
    flags: int = 0
    target: str | None = None


# --- events ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TasksSubmitted:
    """The program wants these tasks run."""

    settings: TaskSettings
    tasks: tuple[Submission, ...]
    confirm: bool = False
    """Whether to say (`Confirm`) when the coordinator has them on disk."""


@dataclass(frozen=True, slots=True)
class TasksWatched:
    """The program wants the outcomes of tasks that were submitted elsewhere or before."""

    task_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class TasksWithdrawn:
    """The program wants these tasks cancelled; their outcome is still delivered."""

    task_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class TasksReleased:
    """The program no longer waits for these tasks; they go on."""

    task_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class BatchesAccepted:
    """`Accepted` arrived."""

    epoch: int
    batches: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OutcomesArrived:
    """`Outcomes` arrived."""

    epoch: int
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class CoordinatorSeen:
    """A coordinator's retained state, or its will, arrived."""

    epoch: int
    online: bool


@dataclass(frozen=True, slots=True)
class LinkUp:
    """Connected to the broker, subscriptions made."""


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The connection to the broker is lost."""


@dataclass(frozen=True, slots=True)
class TimePassed:
    """The time of the last `WakeAt` has come."""


Event: TypeAlias = (
    TasksSubmitted
    | TasksWatched
    | TasksWithdrawn
    | TasksReleased
    | BatchesAccepted
    | OutcomesArrived
    | CoordinatorSeen
    | LinkUp
    | LinkDown
    | TimePassed
)


# --- actions -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Publish this; a loss is the core's business."""

    message: Submit | Ask | Withdraw


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand these outcomes to whoever waits; none is ever delivered twice."""

    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class Confirm:
    """The coordinator has these tasks on disk: they survive the death of any process."""

    task_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The mesh has been silent about these tasks for too long; they may still run."""

    task_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send `TimePassed` at this time; replaces the one before."""

    at_ms: float


Action: TypeAlias = Send | Deliver | Confirm | GiveUp | WakeAt
