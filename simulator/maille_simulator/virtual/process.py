"""What virtual coordinators, nodes and clients share: they can be stopped, killed, disconnected."""

from collections.abc import Callable
from random import Random
from typing import Any

from maille_broker.link import GOOD_CONNECTION_S, retry_delay_s
from maille_protocol.topics import Party, Topic
from maille_simulator.virtual.broker import Connection, VirtualBroker
from maille_simulator.virtual.schedule import Schedule

CONNECT_MS = 1.0
"""From a try to connect until the subscriptions are confirmed."""


class Process:
    """A process with one connection to the broker, which comes back by itself.

    Args:
        schedule: the virtual clock.
        broker: the mesh's broker.
        party: what kind of party this is.
        identity: its id.
        random: for the back-off.
    """

    def __init__(
        self,
        schedule: Schedule,
        broker: VirtualBroker,
        party: Party,
        identity: str,
        random: Random,
    ) -> None:
        self.identity = identity
        self.alive = True
        self.stopped = False
        self.random = random
        self._schedule = schedule
        self._broker = broker
        self._party = party
        self._connection: Connection | None = None
        self._attempt = 0
        self._up_since_ms = 0.0
        self._deferred: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    @property
    def is_up(self) -> bool:
        """Whether the broker hears this process."""
        connection = self._connection
        return connection is not None and connection.is_open

    # --- for subclasses --------------------------------------------------------------------

    def will(self) -> tuple[Topic, bytes] | None:
        """What the broker is to say when the connection breaks."""
        return None

    def came_up(self) -> None:
        """The connection stands."""

    def went_down(self, _reason: str) -> None:
        """The connection is lost."""

    def take(self, _topic: Topic, _identity: str, _payload: bytes, _retained: bool) -> None:
        """A message arrived."""

    def later(self, delay_ms: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call after a time, if the process lives then; when it is stopped, once it goes on."""
        self._schedule.after(delay_ms, self._guarded, call, arguments)

    def send(self, topic: Topic, identity: str, payload: bytes) -> bool:
        """Publish; False while there is no connection."""
        connection = self._connection
        return connection is not None and self._broker.publish(connection, topic, identity, payload)

    # --- the connection --------------------------------------------------------------------

    def connect(self) -> None:
        """Begin to look for the broker."""
        self.later(CONNECT_MS, self._try)

    def heard(self, topic: Topic, identity: str, payload: bytes, retained: bool) -> None:
        """See `Listener`."""
        self._guarded(self.take, (topic, identity, payload, retained))

    def dropped(self, connection: Connection, reason: str) -> None:
        """See `Listener`."""
        self._guarded(self._lost, (connection, reason))

    def _try(self) -> None:
        connection = self._broker.connect(self._party, self.identity, self, self.will())
        if connection is None:
            self._retry()
            return
        self._connection = connection
        self._up_since_ms = self._schedule.now_ms
        self.came_up()

    def _lost(self, connection: Connection, reason: str) -> None:
        if connection is not self._connection:
            return
        self._connection = None
        if self._schedule.now_ms - self._up_since_ms > GOOD_CONNECTION_S * 1000:
            self._attempt = 0
        self.went_down(reason)
        self._retry()

    def _retry(self) -> None:
        self.later(retry_delay_s(self._attempt, self.random) * 1000, self._try)
        self._attempt += 1

    def _guarded(self, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if not self.alive:
            return
        if self.stopped:
            self._deferred.append((call, arguments))
        else:
            call(*arguments)

    # --- faults ----------------------------------------------------------------------------

    def stop(self) -> None:
        """As SIGSTOP: nothing happens in here until `resume`."""
        self.stopped = True

    def resume(self) -> None:
        """As SIGCONT: all that has come meanwhile happens now."""
        if not self.stopped:
            return
        self.stopped = False
        deferred, self._deferred = self._deferred, []
        for call, arguments in deferred:
            self._guarded(call, arguments)

    def end(self, *, gracefully: bool) -> None:
        """The process is gone; without grace the broker publishes its will."""
        self.alive = False
        self._deferred.clear()
        if self._connection is not None:
            self._broker.close(self._connection, gracefully=gracefully)
            self._connection = None
