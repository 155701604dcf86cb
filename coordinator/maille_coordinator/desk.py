"""What the HTTP API may ask of the running coordinator: `service.Service`, but for its life."""

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence

from maille_coordinator.boards.runner import BoardService
from maille_coordinator.clock import Clock
from maille_coordinator.core import Core
from maille_coordinator.core.events import (
    ClientSpoke,
    DrainAsked,
    Event,
    ForgetAsked,
    ModelAdded,
    ModelRemoved,
    ResumeAsked,
)
from maille_coordinator.effects import LOCAL_CLIENT
from maille_coordinator.language.runner import LanguageService
from maille_coordinator.models import ArtefactStore, Catalogue
from maille_coordinator.records import (
    Distribution,
    MeshEvent,
    ModelRecord,
    NodeView,
    TaskEnd,
    TaskView,
)
from maille_coordinator.service import MeshDescription, ServiceError, TaskOptions
from maille_coordinator.settings import CoordinatorSettings
from maille_coordinator.store import Store
from maille_coordinator.streams import EventStreams
from maille_coordinator.views import node_view, open_task_view
from maille_coordinator.waiters import Waiters
from maille_coordinator.wire import Wire
from maille_protocol import ModelFormat, Submission, Submit, Withdraw


class Desk(ABC):
    """Answers for people and programs; what changes something goes to the core as an event.

    The coordinator's shell is one, and makes these parts.
    """

    settings: CoordinatorSettings
    catalogue: Catalogue
    artefacts: ArtefactStore
    core: Core
    wire: Wire
    language: LanguageService
    boards: BoardService
    _store: Store
    _clock: Clock
    _streams: EventStreams
    _waiters: Waiters
    _version: str
    _batch: int
    _rounds: int
    _started_s: float

    @property
    @abstractmethod
    def broker_connected(self) -> bool:
        """Whether the broker is reached."""

    @abstractmethod
    def take(self, *events: Event) -> None:
        """Hand events to the core and do what it wants."""

    def describe(self) -> MeshDescription:
        """Where the parts of this mesh are."""
        settings = self.settings
        return MeshDescription(
            settings.mesh,
            settings.name,
            self.core.epoch,
            self._version,
            settings.broker_url or settings.endpoint.url,
            settings.websocket_url,
            self.broker_connected,
        )

    def counters(self) -> Mapping[str, float]:
        """Counts and gauges for /metrics."""
        core = self.core
        counts: dict[str, float] = {
            f"{name}_total": value
            for name in core.counters.__slots__
            if isinstance(value := getattr(core.counters, name), int)
        }
        counts["wire_faults_total"] = self.wire.faults.total()
        counts["rounds_total"] = self._rounds
        counts["tasks_open"] = len(core.tasks)
        counts["tasks_queued"] = core.queued
        counts["nodes_alive"] = sum(record.alive for record in core.registry)
        counts["nodes_known"] = len(core.registry)
        counts["models"] = len(core.models)
        counts["epoch"] = core.epoch
        counts["broker_connected"] = float(self.broker_connected)
        counts["uptime_seconds"] = time.monotonic() - self._started_s
        link = self.wire.counters()
        counts.update({f"mqtt_{name}_total": value for name, value in link.items()})
        counts.update(self.language.counters())
        counts.update(self.boards.counters())
        return counts

    def latencies(self) -> Mapping[str, Distribution]:
        """Histograms for /metrics."""
        return {
            "task_seconds": self.core.counters.task_latency.distribution(),
            "run_seconds": self.core.counters.run_latency.distribution(),
        }

    def nodes(self) -> list[NodeView]:
        """Every node, by id."""
        now_ms = self._clock.now_ms()
        models = self.core.models.values()
        views = [node_view(record, models, now_ms) for record in self.core.registry]
        return sorted(views, key=lambda view: view.node)

    def drain(self, node: str) -> None:
        """Let a node finish what it holds and give it nothing new."""
        self._heard(node)
        self.take(DrainAsked(node))

    def resume(self, node: str) -> None:
        """Take a drained node back."""
        self._heard(node)
        self.take(ResumeAsked(node))

    def forget(self, node: str) -> None:
        """Remove a node that is gone."""
        if not self._only_wished(node) and self._known(node):
            raise ServiceError(
                409, "node_alive", f"node {node!r} is in the mesh: stop it first, then remove it"
            )
        self.take(ForgetAsked(node))

    def _only_wished(self, node: str) -> bool:
        """A wish is all that is known of it: from before a restart, and not heard since."""
        return node in self.core.registry.wishes and self.core.registry.get(node) is None

    def _heard(self, node: str) -> None:
        if self._only_wished(node):
            raise ServiceError(
                409,
                "node_not_heard",
                f"node {node!r} was not heard since the coordinator started, and is drained when it "
                "comes: ask again then, or drop that wish now with `maille node forget`",
            )
        self._known(node)

    def _known(self, node: str) -> bool:
        record = self.core.registry.get(node)
        if record is None:
            raise ServiceError(
                404, "unknown_node", f"no node is called {node!r}: see `maille nodes`"
            )
        return record.alive

    def add_model(self, record: ModelRecord) -> None:
        """Make a model known to the scheduler, or to the language models."""
        if record.format is ModelFormat.GGUF:
            self.language.add_model(record)
        else:
            self.take(ModelAdded(record))
        self._streams.publish(
            MeshEvent(
                "model.added", record.added_at_unix_ms, record.name, f"version {record.version}"
            )
        )

    def remove_model(self, name: str, version: int) -> None:
        """Withdraw a model (version 0: all versions)."""
        versions = [v for n, v in self.core.models if n == name and version in (0, v)]
        if self.language.remove_model(name, version):
            versions += [version]
        if not versions:
            which = f"version {version} of model" if version else "model"
            raise ServiceError(
                404, "unknown_model", f"no {which} {name!r}: see `maille models list`"
            )
        for found in versions:
            record = self.core.models.get((name, found))
            if record is not None:
                self.take(ModelRemoved(name, found))
                if not self.catalogue.uses(record.sha256):
                    self.boards.remove_model(record.sha256)
        now_ms = int(self._clock.now_ms())
        self._streams.publish(MeshEvent("model.removed", now_ms, name, f"versions {versions}"))

    async def submit(
        self, model: str, tasks: Sequence[Submission], options: TaskOptions
    ) -> list[bytes]:
        """Accept tasks; returns their ids when they are on disk."""
        record = self.catalogue.get(model, options.version)
        if record is not None and record.format is ModelFormat.GGUF:
            raise ServiceError(
                400, "language_model", f"{model!r} is a language model: ask it under /v1 instead"
            )
        self._batch += 1
        for task in tasks:
            self._waiters.expect(task.task_id)
        self.take(
            ClientSpoke(
                LOCAL_CLIENT,
                Submit(
                    self._batch,
                    model,
                    options.version,
                    options.priority,
                    options.deadline_ms,
                    options.max_attempts,
                    options.flags,
                    options.target,
                    tuple(tasks),
                ),
            )
        )
        return [task.task_id for task in tasks]

    async def wait(self, task_ids: Sequence[bytes], timeout_s: float) -> list[TaskEnd | None]:
        """The ends of tasks, None for those that have not ended in time."""
        ends: dict[bytes, TaskEnd] = {}
        open_ids: list[bytes] = []
        for task_id in task_ids:
            end = self._waiters.taken(task_id) or self._end(task_id)
            if end is not None:
                ends[task_id] = end
            elif task_id in self.core.tasks:
                open_ids.append(task_id)
            else:
                raise ServiceError(
                    404, "unknown_task", f"no task {task_id.hex()}: it may be older than is kept"
                )
        ends.update(await self._waiters.wait(open_ids, timeout_s))
        return [ends.get(task_id) for task_id in task_ids]

    def cancel(self, task_ids: Sequence[bytes]) -> int:
        """Cancel open tasks; returns how many were open."""
        found = [task_id for task_id in task_ids if task_id in self.core.tasks]
        if found:
            self.take(ClientSpoke(LOCAL_CLIENT, Withdraw(tuple(found))))
        return len(found)

    def task(self, task_id: bytes) -> TaskView | None:
        """One task with content and history."""
        task = self.core.tasks.get(task_id)
        return self._store.task(task_id) if task is None else open_task_view(task, content=True)

    def tasks(
        self, *, state: str | None, model: str | None, client: str | None, limit: int
    ) -> list[TaskView]:
        """Newest first, without content."""
        views: list[TaskView] = []
        for task in reversed(self.core.tasks.values()):
            if len(views) >= limit:
                return views
            if (
                state in (None, "open", task.state.value)
                and model in (None, task.record.model)
                and client in (None, task.record.client)
            ):
                views.append(open_task_view(task, content=False))
        if state not in ("open", "queued", "offered", "running"):
            views += self._store.tasks(
                state=state, model=model, client=client, limit=limit - len(views)
            )
        return views

    def events(self) -> AsyncIterator[MeshEvent]:
        """Events from now on."""
        return self._streams.listen()

    def _stored_size(self, sha256: bytes) -> int | None:
        info = self.artefacts.info(sha256.hex())
        return None if info is None else info.size_bytes

    def _end(self, task_id: bytes) -> TaskEnd | None:
        return self.core.end_of(task_id) or self._store.end(task_id)
