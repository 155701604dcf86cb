"""A virtual coordinator: the real core and wire format, with a shell that can die at any step."""

from collections.abc import Sequence
from random import Random

from maille_coordinator.core import Core, CoreLimits, InvariantBroken, outcome_of
from maille_coordinator.core.actions import (
    Accept,
    Action,
    ClearRetained,
    Report,
    SendOffers,
    SendToNode,
    Tell,
    TellFromJournal,
    WakeAt,
    Write,
)
from maille_coordinator.core.events import (
    BrokerConnected,
    BrokerLost,
    ClientSpoke,
    Event,
    ModelAdded,
    NodeSpoke,
    ProcessStalled,
    TasksRestored,
    TimeReached,
    WishesRestored,
)
from maille_coordinator.language.events import BrokerChanged
from maille_coordinator.packing import split_offers, split_outcomes
from maille_coordinator.records import ModelRecord
from maille_coordinator.shell import STALL_MS, STALL_TICK_S
from maille_protocol import (
    Accepted,
    Ask,
    CoordinatorState,
    ErrorCode,
    Message,
    ModelReference,
    Offer,
    Offers,
    Outcome,
    Outcomes,
    OutcomeStatus,
    Submit,
    TaskFlag,
    Withdraw,
    pack,
    topics,
    unpack,
)
from maille_protocol.limits import MAX_PUBLISH_BYTES
from maille_protocol.topics import Party, Topic
from maille_simulator.virtual.broker import VirtualBroker
from maille_simulator.virtual.journal import VirtualJournal
from maille_simulator.virtual.language.run import LanguageRun
from maille_simulator.virtual.language.service import VirtualLanguage
from maille_simulator.virtual.process import Process
from maille_simulator.virtual.schedule import Schedule
from maille_simulator.virtual.watch import CoordinatorWatch

NAME = "coordinator"
EPOCH_START_UNIX_MS = 1_700_000_000_000.0
"""The coordinator's wall clock at the start of a run."""

HOLD_MS = 5.0
"""Acknowledgements wait so long, as in the real shell: most short tasks end first."""


class VirtualCoordinator(Process):
    """One process from its start to its death; the journal outlives it.

    Args:
        schedule: the virtual clock.
        broker: the mesh's broker.
        random: for the core and for the back-off.
        journal: what an earlier process has left.
        models: the catalogue.
        clock_offset_ms: how far the machine's wall clock is from the one at the run's start.
        limits: the core's.
        round_ms: from a message to the round that takes it, and everything that came meanwhile.
        language: what it serves of a language model, or None.
    """

    def __init__(
        self,
        schedule: Schedule,
        broker: VirtualBroker,
        random: Random,
        journal: VirtualJournal,
        models: Sequence[ModelRecord],
        *,
        clock_offset_ms: float = 0.0,
        limits: CoreLimits | None = None,
        round_ms: float = 0.1,
        language: LanguageRun | None = None,
    ) -> None:
        super().__init__(schedule, broker, Party.COORDINATOR, NAME, random)
        self.journal = journal
        self.crash_at = ""
        """Where the next round is to end this process: "", "before commit" or "after commit"."""
        self.rounds = 0
        self._offset_ms = EPOCH_START_UNIX_MS + clock_offset_ms
        epoch = journal.next_epoch(minimum=int((schedule.now_ms + self._offset_ms) / 1000))
        self.core = Core(epoch=epoch, random=random, limits=limits)
        self.boot = random.getrandbits(63) | 1
        self.watch = CoordinatorWatch(self.core)
        self._round_ms = round_ms
        self._inbox: list[Event] = []
        self._round_due = False
        self._seq = 0
        self._wake_ms: float | None = None
        self._stopped_at_ms = 0.0
        self._due_acceptances: list[tuple[str, int, tuple[bytes, ...]]] = []
        self.language: VirtualLanguage | None = None
        for model in models:
            self.round(ModelAdded(model))
        self.round(WishesRestored(journal.node_wishes()))
        self.round(TasksRestored(journal.open_tasks(), journal.ended_ids(100_000)))
        if language is not None:
            self.language = VirtualLanguage(
                language,
                epoch=epoch,
                now_ms=lambda: self.now_ms,
                later=self.later,
                send=self._publish,
                dies=self._dies,
            )
        self.connect()

    @property
    def now_ms(self) -> float:
        """This process's clock: unix time that never goes back while it runs."""
        return self._schedule.now_ms + self._offset_ms

    # --- the connection --------------------------------------------------------------------

    def will(self) -> tuple[Topic, bytes] | None:
        """See `Process`."""
        state = CoordinatorState(online=False, http_url="")
        return topics.COORDINATOR, pack(state, boot=self.boot, seq=0, epoch=self.core.epoch)

    def came_up(self) -> None:
        """See `Process`."""
        state = CoordinatorState(online=True, http_url="")
        self._publish(topics.COORDINATOR, NAME, state)
        self.round(BrokerConnected())
        self._broker_changed(connected=True)

    def went_down(self, _reason: str) -> None:
        """See `Process`."""
        self.round(BrokerLost())
        self._broker_changed(connected=False)

    def _broker_changed(self, *, connected: bool) -> None:
        if self.language is not None and self.alive:
            self.language.take(BrokerChanged(connected))

    def heard(self, topic: Topic, identity: str, payload: bytes, retained: bool) -> None:
        """A message lies in the socket, also while the process is stopped."""
        if not self.alive:
            return
        if topic.party is Party.COORDINATOR or not payload:
            return
        envelope = unpack(payload, frozenset({topic.message}))
        if topic.party is Party.NODE:
            if not retained and envelope.seq:
                self.watch.arrived(identity, envelope.boot, self.now_ms)
            self._inbox.append(NodeSpoke(identity, envelope, retained))
        elif isinstance(envelope.message, Submit | Ask | Withdraw):
            self._inbox.append(ClientSpoke(identity, envelope.message))
        if not self._round_due:
            self._round_due = True
            self.later(self._round_ms, self._take_inbox)

    def _take_inbox(self) -> None:
        self._round_due = False
        inbox, self._inbox = self._inbox, []
        if inbox:
            self.round(*inbox)

    # --- rounds ----------------------------------------------------------------------------

    def round(self, *events: Event) -> None:
        """Hand events to the core, do what it wants: as the real shell's `take`."""
        now_ms = self.now_ms
        self.rounds += 1
        actions: list[Action] = []
        watch = self.watch
        for event in events:
            if isinstance(event, NodeSpoke):
                before = watch.before(event)
                found = self.core.handle(event, now_ms)
                watch.after(event, before, found)
            else:
                found = self.core.handle(event, now_ms)
            watch.reports(found, now_ms)
            actions += found
        if actions:
            self._carry_out(actions)
        if self.language is not None and self.alive:
            spoken = [event for event in events if isinstance(event, NodeSpoke)]
            self.language.observe(
                self.core,
                [(one.node, one.envelope.boot, one.envelope.message) for one in spoken],
            )

    def _dies(self, step: str) -> bool:
        """Whether the process is to end at this step; it does then."""
        if self.crash_at == step:
            self.end(gracefully=False)
        return not self.alive

    def validate(self) -> None:
        """Violation if the core contradicts itself."""
        try:
            self.core.validate()
        except InvariantBroken as error:
            self.watch.broken(str(error))

    def _carry_out(self, actions: Sequence[Action]) -> None:
        offers = [action for action in actions if isinstance(action, SendOffers)]
        if offers:
            self.watch.check_offers(actions, self.journal.wishes)
            self._send_offers(offers, marked=False)
        records = [action.record for action in actions if isinstance(action, Write)]
        if records:
            if self._dies("before commit"):
                return
            self.journal.commit(records)
            if self._dies("after commit"):
                return
        if offers:
            self._send_offers(offers, marked=True)
        outcomes: dict[str, list[Outcome]] = {}
        for action in actions:
            match action:
                case Tell(client, outcome):
                    outcomes.setdefault(client, []).append(outcome)
                case Accept(client, batch, task_ids):
                    if not self._due_acceptances:
                        self.later(HOLD_MS, self._acknowledge)
                    self._due_acceptances.append((client, batch, task_ids))
                case SendToNode(node, message):
                    control = message.TYPE is topics.NODE_CONTROL.message
                    topic = topics.NODE_CONTROL if control else topics.NODE_CANCEL
                    self._publish(topic, node, message)
                case TellFromJournal(client, task_ids):
                    outcomes.setdefault(client, []).extend(map(self._from_journal, task_ids))
                case ClearRetained(node):
                    self.send(topics.NODE_STATE, node, b"")
                    self.send(topics.NODE_INFO, node, b"")
                case WakeAt(at_ms):
                    self._wake_ms = at_ms
                    self.later(at_ms - self.now_ms, self._wake, at_ms)
                case Write() | SendOffers() | Report():
                    pass
        for client, told in outcomes.items():
            for group in split_outcomes(told):
                self._publish(topics.CLIENT_OUTCOME, client, Outcomes(group))

    def _send_offers(self, actions: Sequence[SendOffers], *, marked: bool) -> None:
        joined: dict[tuple[str, ModelReference], list[Offer]] = {}
        for action in actions:
            for offer in action.offers:
                if bool(offer.flags & TaskFlag.AT_MOST_ONCE) is marked:
                    joined.setdefault((action.node, action.model), []).append(offer)
        for (node, model), offers in joined.items():
            record = self.core.registry.get(node)
            limit = (
                MAX_PUBLISH_BYTES
                if record is None or record.info is None
                else (record.info.max_message_bytes)
            )
            for group in split_offers(offers, min(MAX_PUBLISH_BYTES, limit)):
                self._publish(topics.NODE_TASK, node, Offers(model, group))

    def _publish(self, topic: Topic, identity: str, message: Message) -> None:
        if not self.is_up:
            return
        self._seq += 1
        payload = pack(message, boot=self.boot, seq=self._seq, epoch=self.core.epoch)
        self.send(topic, identity, payload)

    def _acknowledge(self) -> None:
        due, self._due_acceptances = self._due_acceptances, []
        open_tasks = self.core.tasks
        joined: dict[str, list[int]] = {}
        for client, batch, task_ids in due:
            if any(task_id in open_tasks for task_id in task_ids):
                joined.setdefault(client, []).append(batch)
        for client, batches in joined.items():
            self._publish(topics.CLIENT_ACCEPTED, client, Accepted(tuple(batches)))

    def _from_journal(self, task_id: bytes) -> Outcome:
        end = self.journal.ends.get(task_id)
        if end is not None:
            return outcome_of(end)
        return Outcome(task_id, OutcomeStatus.UNKNOWN, ErrorCode.NONE, b"", "", 0, 0, 0)

    def _wake(self, at_ms: float) -> None:
        if at_ms == self._wake_ms:
            self._wake_ms = None
            self.round(TimeReached())

    # --- faults ----------------------------------------------------------------------------

    def stop(self) -> None:
        """See `Process`."""
        if not self.stopped:
            self._stopped_at_ms = self._schedule.now_ms
        super().stop()

    def resume(self) -> None:
        """What is due happens in the order in which it was due; then the stall is noticed.

        The event loop of the real shell runs timers before or after it reads, as it likes.
        """
        if not self.stopped or not self.alive:
            return
        gap_ms = self._schedule.now_ms - self._stopped_at_ms
        noticed_ms = gap_ms - self.random.random() * STALL_TICK_S * 1000
        if noticed_ms <= STALL_MS:
            super().resume()
        elif self.random.random() < 0.5:
            self.stopped = False
            self.round(ProcessStalled(gap_ms))
            self.stopped = True
            super().resume()
        else:
            super().resume()
            self._guarded(self.round, (ProcessStalled(gap_ms),))
