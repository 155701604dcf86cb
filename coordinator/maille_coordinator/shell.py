"""The coordinator's process: turns publishes and HTTP calls into events, carries out actions.

Every burst of messages is one round: all events go to the core, what it wants written is one
commit, then what it wants sent is joined per receiver. Under load rounds grow by themselves.
"""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence

from maille_broker import Link, Message
from maille_coordinator.acceptances import Acceptances
from maille_coordinator.boards import runner as boards
from maille_coordinator.boards.runner import BoardService
from maille_coordinator.clock import Clock
from maille_coordinator.core import Core, CoreLimits
from maille_coordinator.core.actions import (
    Action,
)
from maille_coordinator.core.events import (
    BrokerConnected,
    BrokerLost,
    ClientSpoke,
    DrainAsked,
    Event,
    ForgetAsked,
    ModelAdded,
    ModelRefused,
    ModelRemoved,
    NodeSpoke,
    ProcessStalled,
    ResumeAsked,
    TasksRestored,
    TimeReached,
)
from maille_coordinator.effects import LOCAL_CLIENT, Effects
from maille_coordinator.language.runner import LanguageService, Surroundings
from maille_coordinator.language.slice_files import SliceFiles
from maille_coordinator.language.state import LanguageLimits
from maille_coordinator.models import ArtefactStore, Catalogue
from maille_coordinator.models.tiny_models import TinyModels
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
from maille_coordinator.store import Store, StoreError
from maille_coordinator.streams import EventStreams
from maille_coordinator.views import node_view, open_task_view
from maille_coordinator.waiters import Waiters
from maille_coordinator.wire import Wire
from maille_protocol import (
    Accepted,
    CoordinatorState,
    Envelope,
    ModelFormat,
    Reference,
    Submission,
    Submit,
    Withdraw,
    topics,
)
from maille_protocol import Message as WireMessage

logger = logging.getLogger(__name__)

MAX_EPOCH_TO_FOLLOW = 1 << 62
"""What the journal can count beyond."""

STALL_TICK_S = 0.25
STALL_MS = 500.0
PRUNE_EVERY_S = 60.0


class AnotherCoordinator(Exception):
    """Raised when a coordinator with a newer epoch leads this mesh."""


class Coordinator:
    """The running coordinator: what `service.Service` promises, over a `Core`.

    Use as: `open()`, run the link, `close()`. All calls belong into one event loop.
    """

    def __init__(self, settings: CoordinatorSettings, *, version: str) -> None:
        self.settings = settings
        self._version = version
        directory = settings.state_directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._store = Store(directory / "journal.sqlite", sync=settings.journal_sync)
        self.catalogue = Catalogue(directory / "catalogue.sqlite")
        self.artefacts = ArtefactStore(
            directory / "artefacts",
            max_bytes=settings.max_store_bytes,
            max_artefact_bytes=settings.max_artefact_bytes,
        )
        self._clock = Clock()
        self._streams = EventStreams()
        self.language = LanguageService(
            Surroundings(
                store=self._store,
                artefacts=self.artefacts,
                catalogue=self.catalogue,
                now_ms=self._clock.now_ms,
                send=self._send,
                publish=self._streams.publish,
                failed=self._fail,
            ),
            SliceFiles(self.artefacts, directory / "slices.json"),
            LanguageLimits(
                context_tokens=settings.language_context_tokens,
                sessions=settings.language_sessions,
                copies=settings.language_replicas,
                least_nodes=settings.language_least_nodes,
            ),
        )
        self.tiny_models = TinyModels(self.artefacts)
        self.boards = BoardService(
            boards.Surroundings(
                store=self._store,
                models=self.tiny_models,
                now_ms=self._clock.now_ms,
                send=self._send,
                publish=self._streams.publish,
                refuse=self._refused,
                failed=self._fail,
            )
        )
        self._waiters = Waiters()
        self._timer: asyncio.TimerHandle | None = None
        self._failed: asyncio.Future[None] | None = None
        self.connected = asyncio.Event()
        """Set while the broker is reached."""
        self._batch = 0
        self._rounds = 0
        self._started_s = time.monotonic()
        self.http_url = ""

    # --- life ------------------------------------------------------------------------------

    def open(self) -> Link:
        """Read the journal and make the link, which the caller runs. StoreError."""
        self._store.open()
        try:
            epoch = self._store.next_epoch(minimum=int(time.time()))
            restored = TasksRestored(
                tuple(self._store.open_tasks()),
                tuple(self._store.ended_ids(self.settings.keep_ended_tasks)),
            )
        except BaseException:
            self._store.close()
            raise
        settings = self.settings
        self.core = Core(
            epoch=epoch,
            random=random.Random(),
            limits=CoreLimits(
                max_open_tasks=settings.max_open_tasks,
                max_input_bytes=settings.max_input_bytes,
                default_deadline_ms=int(settings.default_deadline_s * 1000),
                default_max_attempts=settings.default_max_attempts,
                remembered_ids=settings.keep_ended_tasks,
            ),
            stored_size=self._stored_size,
        )
        self.wire = Wire(settings.mesh, settings.name, boot=secrets.randbits(63) | 1, epoch=epoch)
        self._failed = asyncio.get_running_loop().create_future()
        self._acceptances = Acceptances(
            self.core.tasks,
            self._acknowledge,
        )
        self._effects = Effects(
            store=self._store,
            wire=self.wire,
            waiters=self._waiters,
            acceptances=self._acceptances,
            registry=self.core.registry,
            publish=self._streams.publish,
            wake_at=self._wake_at,
        )
        self.boards.open(self.core)
        for model in self.catalogue.list():
            if model.format is not ModelFormat.GGUF:
                self.take(ModelAdded(model))
        self.take(restored)
        if restored.open_tasks:
            logger.info("restored %d open tasks from the journal", len(restored.open_tasks))
        link = Link(
            settings.endpoint,
            settings.name,
            subscriptions=topics.coordinator_subscriptions(settings.mesh),
            will=self.wire.will(),
            on_messages=self._on_messages,
            on_up=self._on_up,
            on_down=self._on_down,
        )
        self.wire.use(link)
        self.language.open(epoch)
        return link

    def close(self) -> None:
        """Let go of the journal."""
        if self._timer is not None:
            self._timer.cancel()
        self.language.close()
        self.boards.close()
        self._acceptances.close()
        self._store.close()

    def announce(self, *, online: bool) -> None:
        """Tell the mesh who leads."""
        state = CoordinatorState(online=online, http_url=self.http_url if online else "")
        self.wire.send(topics.COORDINATOR, self.settings.name, state)

    async def failure(self) -> None:
        """Waits until the coordinator cannot go on, and raises why."""
        assert self._failed is not None  # noqa: S101 - `open` comes first
        await asyncio.shield(self._failed)

    async def watch_for_stalls(self) -> None:
        """Notice when this process did not run: nodes must not pay for its deafness."""
        before_s = time.monotonic()
        while True:
            await asyncio.sleep(STALL_TICK_S)
            now_s = time.monotonic()
            gap_ms = (now_s - before_s - STALL_TICK_S) * 1000
            before_s = now_s
            if gap_ms > STALL_MS:
                logger.warning("this process stood still for %.1f s", gap_ms / 1000)
                self.take(ProcessStalled(gap_ms))

    async def prune(self) -> None:
        """Drop ended tasks that are too old, and content that nobody fetched, now and then."""
        while True:
            await asyncio.sleep(PRUNE_EVERY_S)
            oldest_ms = int(self._clock.now_ms() - self.settings.keep_ended_s * 1000)
            await self._prune_journal(oldest_ms)
            self.language.prune()
            self._keep_inputs()
            await asyncio.to_thread(self.artefacts.prune)

    def _keep_inputs(self) -> None:
        """Large inputs live as long as their tasks, however long those wait."""
        for task in self.core.tasks.values():
            content = task.record.content
            if isinstance(content, Reference) and self.artefacts.info(content.sha256.hex()):
                self.artefacts.touch_transient(content.sha256.hex())

    async def _prune_journal(self, oldest_ms: int) -> None:
        deleted = 1
        while deleted:
            deleted = self._store.prune(oldest_ms, self.settings.keep_ended_tasks)
            await asyncio.sleep(0)  # messages that came meanwhile go first

    # --- rounds ----------------------------------------------------------------------------

    def take(self, *events: Event) -> None:
        """Hand events to the core and do what it wants."""
        now_ms = self._clock.now_ms()
        actions: list[Action] = []
        for event in events:
            actions += self.core.handle(event, now_ms)
        try:
            needs = self._effects.carry_out(actions)
        except StoreError as error:
            self._fail(error)
            return
        spoken = [event for event in events if isinstance(event, NodeSpoke)]
        heard = [(event.node, event.envelope.boot, event.envelope.message) for event in spoken]
        self.language.observe(self.core, heard)
        fresh = [
            (event.node, event.envelope.boot, event.envelope.message)
            for event in spoken
            if not event.retained
        ]
        timed = any(isinstance(event, TimeReached | ForgetAsked | DrainAsked) for event in events)
        self.boards.observe(self.core, fresh, needs, timed=timed)

    def _refused(self, event: ModelRefused) -> None:
        """Told by the boards within a round: the next one ends the tasks."""
        asyncio.get_running_loop().call_soon(self.take, event)

    def _fail(self, error: StoreError) -> None:
        """Nothing that follows a write may happen without it: stop, and start again later."""
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(error)

    def _on_messages(self, messages: list[Message]) -> None:
        self._rounds += 1
        self.take(*self.wire.read(messages))
        for name, envelope in self.wire.others:
            self._other_coordinator(name, envelope)
        self.wire.others.clear()
        if self.wire.overwritten:
            # Whoever comes next finds the mesh by what the broker keeps.
            self.wire.overwritten = False
            self.announce(online=True)

    def _on_up(self) -> None:
        self.connected.set()
        self.announce(online=True)
        self.take(BrokerConnected())
        self.language.broker_changed(connected=True)

    def _on_down(self, reason: str) -> None:
        self.connected.clear()
        logger.warning("the broker is gone: %s", reason)
        self.take(BrokerLost())
        self.language.broker_changed(connected=False)

    def _wake(self) -> None:
        self._timer = None
        self.take(TimeReached())

    def _other_coordinator(self, name: str, envelope: Envelope) -> None:
        message, epoch = envelope.message, envelope.epoch
        if not isinstance(message, CoordinatorState):
            return
        # Two that started in the same second with new journals: their boot numbers decide.
        if (epoch, envelope.boot) < (self.core.epoch, self.wire.boot):
            if message.online or name == self.settings.name:
                # Also over the will of one that had our name: the broker keeps the last word.
                self.announce(online=True)
        elif self._failed is not None and not self._failed.done():
            if epoch < MAX_EPOCH_TO_FOLLOW:
                # So that the next start is newer, whatever the clocks say.
                self._store.next_epoch(minimum=epoch)
            self._failed.set_exception(
                AnotherCoordinator(
                    f"coordinator {name!r} leads mesh {self.settings.mesh!r} with epoch {epoch}, "
                    f"ours is {self.core.epoch}: nodes obey the newer one, so this one ends. Stop "
                    "the other one, or give this mesh another name with --mesh; if the other one "
                    "has stopped already, start this one again."
                )
            )

    def _send(self, topic: topics.Topic, node: str, message: WireMessage) -> bool:
        return self.wire.send(topic, node, message)

    def _acknowledge(self, client: str, batches: tuple[int, ...]) -> None:
        self.wire.send(topics.CLIENT_ACCEPTED, client, Accepted(batches))

    def _wake_at(self, at_ms: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_s = max(0.0, (at_ms - self._clock.now_ms()) / 1000)
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._wake)

    # --- what the HTTP API may ask -----------------------------------------------------------

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
            self.connected.is_set(),
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
        counts["broker_connected"] = float(self.connected.is_set())
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
        self._known(node)
        self.take(DrainAsked(node))

    def resume(self, node: str) -> None:
        """Take a drained node back."""
        self._known(node)
        self.take(ResumeAsked(node))

    def forget(self, node: str) -> None:
        """Remove a node that is gone."""
        if self._known(node):
            raise ServiceError(
                409, "node_alive", f"node {node!r} is in the mesh: stop it first, then remove it"
            )
        self.take(ForgetAsked(node))

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
