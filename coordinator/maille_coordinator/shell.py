"""The coordinator's process: turns publishes and HTTP calls into events, carries out actions.

Every burst of messages is one round: all events go to the core, what it wants written is one
commit, then what it wants sent is joined per receiver. Under load rounds grow by themselves.
"""

import asyncio
import logging
import random
import secrets
import time

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
    DrainAsked,
    Event,
    ForgetAsked,
    ModelAdded,
    ModelRefused,
    NodeSpoke,
    ProcessStalled,
    TasksRestored,
    TimeReached,
    WishesRestored,
)
from maille_coordinator.desk import Desk
from maille_coordinator.effects import Effects
from maille_coordinator.language.runner import LanguageService
from maille_coordinator.language.slice_files import SliceFiles
from maille_coordinator.language.state import LanguageLimits
from maille_coordinator.language.surroundings import Surroundings
from maille_coordinator.models import ArtefactStore, Catalogue
from maille_coordinator.models.tiny_models import TinyModels
from maille_coordinator.settings import CoordinatorSettings
from maille_coordinator.store import Store, StoreError
from maille_coordinator.streams import EventStreams
from maille_coordinator.waiters import Waiters
from maille_coordinator.wire import Wire
from maille_protocol import (
    Accepted,
    CoordinatorState,
    Envelope,
    ModelFormat,
    Reference,
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


class Coordinator(Desk):
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

    @property
    def broker_connected(self) -> bool:
        """Whether the broker is reached."""
        return self.connected.is_set()

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
            wishes = WishesRestored(tuple(self._store.node_wishes()))
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
        self.take(wishes, restored)
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
