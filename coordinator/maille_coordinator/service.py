"""What the HTTP API may ask of the running coordinator. The shell implements it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from maille_coordinator.models import ArtefactStore, Catalogue
from maille_coordinator.records import (
    Distribution,
    MeshEvent,
    ModelRecord,
    NodeView,
    TaskEnd,
    TaskView,
)
from maille_protocol import Submission


class ServiceError(Exception):
    """Raised when a request cannot be served; the text names cause and next step.

    `status` is the HTTP status that fits, `code` a stable word such as "unknown_model".
    """

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class MeshDescription:
    """Where the parts of this mesh are."""

    mesh: str
    coordinator: str
    epoch: int
    version: str
    broker_url: str
    """Never holds a password."""
    websocket_url: str | None
    broker_connected: bool


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Options of submitted tasks; zeros mean the coordinator's defaults."""

    version: int = 0
    priority: int = 5
    deadline_ms: int = 0
    max_attempts: int = 0
    flags: int = 0
    target: str | None = None


class Service(Protocol):
    """The running coordinator, seen from its HTTP API. All calls are made in its event loop."""

    catalogue: Catalogue
    artefacts: ArtefactStore

    def describe(self) -> MeshDescription:
        """Where the parts of this mesh are."""
        ...

    def counters(self) -> Mapping[str, float]:
        """Counts and gauges for /metrics, by Prometheus name without the `maille_` prefix.

        Names that end in `_total` are counters, the others gauges.
        """
        ...

    def latencies(self) -> Mapping[str, Distribution]:
        """Histograms for /metrics, by name without the `maille_` prefix."""
        ...

    def nodes(self) -> list[NodeView]:
        """Every node the coordinator knows, by id."""
        ...

    def drain(self, node: str) -> None:
        """Let a node finish what it holds and give it nothing new. ServiceError(404)."""
        ...

    def resume(self, node: str) -> None:
        """Take a drained node back. ServiceError(404)."""
        ...

    def forget(self, node: str) -> None:
        """Remove a node that is gone, with its retained topics. ServiceError(404, 409 if alive)."""
        ...

    def add_model(self, record: ModelRecord) -> None:
        """Make a model known to the scheduler after the catalogue has it."""
        ...

    def remove_model(self, name: str, version: int) -> None:
        """Withdraw a model; open tasks of it fail. ServiceError(404)."""
        ...

    async def submit(
        self, model: str, tasks: Sequence[Submission], options: TaskOptions
    ) -> list[bytes]:
        """Accept tasks; returns their ids when they are on disk. ServiceError for what is refused.

        Inputs that do not fit the model do not refuse the call: the task ends as failed.
        """
        ...

    async def wait(self, task_ids: Sequence[bytes], timeout_s: float) -> list[TaskEnd | None]:
        """The ends of tasks, None for those that have not ended in time. ServiceError(404)."""
        ...

    def cancel(self, task_ids: Sequence[bytes]) -> int:
        """Cancel open tasks; returns how many were open."""
        ...

    def task(self, task_id: bytes) -> TaskView | None:
        """One task with content and history, open or ended; None if not (or no longer) known."""
        ...

    def tasks(
        self, *, state: str | None, model: str | None, client: str | None, limit: int
    ) -> list[TaskView]:
        """Newest first, without content. `state` is a TaskState value, or "open"."""
        ...

    def events(self) -> AsyncIterator[MeshEvent]:
        """Events from now on. A slow reader loses the oldest ones and is told how many."""
        ...
