"""A virtual client: the real core and wire format, with a program that submits by a plan."""

from collections.abc import Callable, Sequence
from random import Random

from maille.client_core import ClientCore
from maille.client_events import (
    Action,
    BatchesAccepted,
    CoordinatorSeen,
    Deliver,
    Event,
    GiveUp,
    LinkDown,
    LinkUp,
    OutcomesArrived,
    Send,
    TaskSettings,
    TasksSubmitted,
    TasksWithdrawn,
    TimePassed,
    WakeAt,
)
from maille_protocol import (
    Accepted,
    CoordinatorState,
    MessageType,
    Outcome,
    Outcomes,
    Submission,
    pack,
    topics,
    unpack,
)
from maille_protocol.topics import Party, Topic
from maille_simulator.virtual.broker import VirtualBroker
from maille_simulator.virtual.process import Process
from maille_simulator.virtual.schedule import Schedule
from maille_simulator.virtual.violation import Violation

PATIENCE_MS = 600_000.0
"""Longer than any run: whoever waits gives up only if something got lost."""

_TOPICS = {
    MessageType.SUBMIT: topics.CLIENT_SUBMIT,
    MessageType.ASK: topics.CLIENT_ASK,
    MessageType.WITHDRAW: topics.CLIENT_WITHDRAW,
}


class VirtualClient(Process):
    """One program that uses the mesh.

    Args:
        schedule: the virtual clock.
        broker: the mesh's broker.
        identity: the client's id.
        random: for back-off and resubmission.
        deliver: takes each outcome.
    """

    def __init__(
        self,
        schedule: Schedule,
        broker: VirtualBroker,
        identity: str,
        random: Random,
        deliver: Callable[[str, Outcome], None],
    ) -> None:
        super().__init__(schedule, broker, Party.CLIENT, identity, random)
        self.core = ClientCore(random.random, PATIENCE_MS)
        self._deliver = deliver
        self._boot = random.getrandbits(63) | 1
        self._seq = 0
        self._wake_ms: float | None = None
        self.connect()

    def submit(self, settings: TaskSettings, tasks: Sequence[Submission]) -> None:
        """The program hands tasks in."""
        self._guarded(self._feed, (TasksSubmitted(settings, tuple(tasks)),))

    def withdraw(self, task_ids: Sequence[bytes]) -> None:
        """The program cancels tasks."""
        self._guarded(self._feed, (TasksWithdrawn(tuple(task_ids)),))

    def came_up(self) -> None:
        """See `Process`."""
        self._feed(LinkUp())

    def went_down(self, _reason: str) -> None:
        """See `Process`."""
        self._feed(LinkDown())

    def take(self, topic: Topic, _identity: str, payload: bytes, _retained: bool) -> None:
        """See `Process`."""
        envelope = unpack(payload, frozenset({topic.message}))
        match envelope.message:
            case Accepted(batches):
                self._feed(BatchesAccepted(envelope.epoch, batches))
            case Outcomes(outcomes):
                self._feed(OutcomesArrived(envelope.epoch, outcomes))
            case CoordinatorState(online=online):
                self._feed(CoordinatorSeen(envelope.epoch, online))
            case _:
                pass

    def _feed(self, event: Event) -> None:
        for action in self.core.handle(event, self._schedule.now_ms):
            self._carry_out(action)

    def _carry_out(self, action: Action) -> None:
        match action:
            case Send(message):
                self._seq += 1
                payload = pack(message, boot=self._boot, seq=self._seq, epoch=0)
                self.send(_TOPICS[message.TYPE], self.identity, payload)
            case Deliver(outcomes):
                for outcome in outcomes:
                    self._deliver(self.identity, outcome)
            case GiveUp(task_ids):
                text = f"{self.identity} gave up {len(task_ids)} tasks: nobody answered"
                raise Violation("nothing is lost", text)
            case WakeAt(at_ms):
                self._wake_ms = at_ms
                self.later(at_ms - self._schedule.now_ms, self._wake, at_ms)
            case _:
                pass

    def _wake(self, at_ms: float) -> None:
        if at_ms == self._wake_ms:
            self._wake_ms = None
            self._feed(TimePassed())
