"""A virtual broker: wills, retained messages, and bad weather by seed.

It may lose, double, delay and reorder every message, drop all connections, forget what it
retained, and cut a party off so that its messages are lost or come late. What it doubles goes to
the connection that the first copy went to, as with real brokers.
"""

from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from maille_protocol.topics import NODE_ACTIVATION, Party, Topic
from maille_simulator.virtual.schedule import Schedule

MOST_RETRANSMITS = 15
RETRANSMIT_MS = 220.0
"""What TCP makes of a lost packet: it comes later."""

RETAINED_AFTER_MS = 0.2
"""From a subscription to the first retained message."""


@dataclass(slots=True)
class Weather:
    """What happens to messages. Probabilities are 0 to 1, times in ms one way."""

    least_ms: float = 0.2
    most_ms: float = 1.5
    loss: float = 0.0
    duplicate: float = 0.0
    late: float = 0.0
    """Probability of a delay of up to `late_most_ms`."""
    late_most_ms: float = 0.0
    in_order: bool = True
    """Whether what one sender says arrives in the order in which it said it."""
    lost_will: float = 0.0
    message_ms: float = 0.0
    """What the processes of one machine take for a message, one message after the other."""


@dataclass(frozen=True, slots=True)
class PartyLink:
    """What one party's way to the broker adds, each way."""

    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    bytes_per_s: float = 0.0
    duplicate: float = 0.0

    def delay_ms(self, size_bytes: int, random: Random) -> float:
        """How much later a message comes."""
        delay_ms = self.latency_ms + random.random() * self.jitter_ms
        if self.bytes_per_s:
            delay_ms += 1000.0 * size_bytes / self.bytes_per_s
        if self.loss:
            # What is sent again may be lost again.
            for _ in range(MOST_RETRANSMITS):
                if random.random() >= self.loss:
                    break
                delay_ms += RETRANSMIT_MS
        return delay_ms


class Listener(Protocol):
    """What a connection belongs to."""

    def heard(self, topic: Topic, identity: str, payload: bytes, retained: bool) -> None:
        """A message arrived."""

    def dropped(self, connection: "Connection", reason: str) -> None:
        """The connection has ended without being asked to."""


@dataclass(slots=True, eq=False)
class Connection:
    """One connection of one party."""

    party: Party
    identity: str
    listener: Listener
    will: tuple[Topic, bytes] | None
    is_open: bool = True
    clear_ms: float = 0.0
    """When the last message that it sent arrives."""
    receives_ms: float = 0.0
    """When the last message to it arrives, if its link is slow."""
    held_back: list[tuple[Topic, str, bytes, bool, bool]] = field(default_factory=list)
    """While it stalls: topic, identity, payload, retained, and whether it goes to the broker."""


class VirtualBroker:
    """All connections of one mesh.

    Args:
        schedule: the virtual clock.
        random: decides what the weather does to each message.
        weather: may be changed at any time.
        keepalive_ms: a cut connection is noticed, on both ends, after this.
    """

    def __init__(
        self, schedule: Schedule, random: Random, weather: Weather, keepalive_ms: float
    ) -> None:
        self.weather = weather
        self.is_up = True
        self.links: dict[tuple[Party, str], PartyLink] = {}
        """Parties whose way is worse than the weather."""
        self.own_links: dict[tuple[Party, str], PartyLink] = {}
        """What their ways are again when nothing hurts them."""
        self.bytes_by_topic: Counter[str] = Counter()
        self.messages = 0
        self._schedule = schedule
        self._random = random
        self._keepalive_ms = keepalive_ms
        self._connections: dict[tuple[Party, str], list[Connection]] = {}
        self._retained: dict[tuple[Topic, str], bytes] = {}
        self._retained_of_coordinators: dict[tuple[Topic, str], bytes] = {}
        """What is retained of coordinators: all that nodes and clients subscribe to of it."""
        self._coordinators: list[Connection] = []
        self._cuts: dict[tuple[Party, str], bool] = {}
        self._generation = 0
        self._busy_until_ms = 0.0

    # --- connections -----------------------------------------------------------------------

    def connect(
        self, party: Party, identity: str, listener: Listener, will: tuple[Topic, bytes] | None
    ) -> Connection | None:
        """A connection with its subscriptions, or None: no broker answers."""
        if not self.is_up or (party, identity) in self._cuts:
            return None
        connection = Connection(party, identity, listener, will)
        self._connections.setdefault((party, identity), []).append(connection)
        if party is Party.COORDINATOR:
            self._coordinators.append(connection)
        self._schedule.after(RETAINED_AFTER_MS, self._tell_retained, connection)
        return connection

    def close(self, connection: Connection, *, gracefully: bool) -> None:
        """End a connection from the party's side; without grace its will is published."""
        if not connection.is_open:
            return
        self._forget(connection)
        if not gracefully:
            self._publish_will(connection)

    def restart(self, down_ms: float, *, forgetful: bool) -> None:
        """Drop every connection and what is under way; come back after `down_ms`."""
        self.is_up = False
        self._generation += 1
        if forgetful:
            self._retained.clear()
        for connections in list(self._connections.values()):
            for connection in list(connections):
                self._forget(connection)
                connection.listener.dropped(connection, "the broker is gone")
        self._schedule.after(down_ms, self._come_up)

    def drop(self, party: Party, identity: str) -> None:
        """End a party's connections as a network does that breaks for a moment."""
        for connection in list(self._connections.get((party, identity), ())):
            self._forget(connection)
            self._publish_will(connection)
            connection.listener.dropped(connection, "reset")

    def cut(self, party: Party, identity: str, *, stalls: bool) -> None:
        """Let nothing through to or from a party; if it `stalls`, what it says comes later."""
        self._cuts[party, identity] = stalls
        for connection in self._connections.get((party, identity), ()):
            self._schedule.after(self._keepalive_ms, self._notice, connection)

    def heal(self, party: Party, identity: str) -> None:
        """Undo `cut`."""
        self._cuts.pop((party, identity), None)
        for connection in list(self._connections.get((party, identity), ())):
            held_back, connection.held_back = connection.held_back, []
            for topic, name, payload, retained, outwards in held_back:
                if outwards:
                    self.publish(connection, topic, name, payload)
                elif connection.is_open:
                    connection.listener.heard(topic, name, payload, retained)

    # --- messages --------------------------------------------------------------------------

    def publish(self, sender: Connection, topic: Topic, identity: str, payload: bytes) -> bool:
        """Take a message from a party; False if its connection is closed."""
        if not sender.is_open:
            return False
        stalls = self._cuts.get((sender.party, sender.identity))
        if stalls is not None:
            if stalls:
                sender.held_back.append((topic, identity, payload, False, True))
            return True
        self.messages += 1
        self.bytes_by_topic[topic.suffix or "coordinator"] += len(payload)
        weather, draw = self.weather, self._random.random
        if weather.loss and draw() < weather.loss:
            return True
        at_ms = self._schedule.now_ms + self._delay_ms()
        if weather.message_ms:
            self._busy_until_ms = max(self._busy_until_ms, self._schedule.now_ms)
            self._busy_until_ms += weather.message_ms
            at_ms += self._busy_until_ms - self._schedule.now_ms
        if self.links:
            link = self.links.get((sender.party, sender.identity))
            if link is not None:
                at_ms += link.delay_ms(len(payload), self._random)
        if weather.in_order:
            at_ms = sender.clear_ms = max(at_ms, sender.clear_ms)
        self._schedule.at(at_ms, self._arrive, self._generation, topic, identity, payload)
        return True

    def _delay_ms(self) -> float:
        weather, draw = self.weather, self._random.random
        if weather.late and draw() < weather.late:
            return weather.most_ms + draw() * weather.late_most_ms
        return weather.least_ms + draw() * (weather.most_ms - weather.least_ms)

    def _arrive(self, generation: int, topic: Topic, identity: str, payload: bytes) -> None:
        if generation != self._generation or not self.is_up:
            return
        if topic.retain:
            if payload:
                self._retained[topic, identity] = payload
                if topic.party is Party.COORDINATOR:
                    self._retained_of_coordinators[topic, identity] = payload
            else:
                self._retained.pop((topic, identity), None)
        weather = self.weather
        for connection in self._receivers(topic, identity):
            link = self.links.get((connection.party, connection.identity)) if self.links else None
            if link is not None:
                at_ms = self._schedule.now_ms + link.delay_ms(len(payload), self._random)
                at_ms = connection.receives_ms = max(at_ms, connection.receives_ms)
                for _ in range(1 + (self._random.random() < link.duplicate)):
                    self._schedule.at(
                        at_ms, self._deliver, connection, topic, identity, payload, False
                    )
                continue
            self._deliver(connection, topic, identity, payload, False)
            if weather.duplicate and self._random.random() < weather.duplicate:
                self._schedule.after(
                    self._delay_ms(), self._deliver, connection, topic, identity, payload, False
                )

    def _receivers(self, topic: Topic, identity: str) -> list[Connection]:
        connections = self._connections
        if topic.party is Party.COORDINATOR:
            return [one for found in connections.values() for one in found]
        if topic.publisher is Party.COORDINATOR or topic is NODE_ACTIVATION:
            return list(connections.get((topic.party, identity), ()))
        return list(self._coordinators)

    def _deliver(
        self, connection: Connection, topic: Topic, identity: str, payload: bytes, retained: bool
    ) -> None:
        if not connection.is_open:
            return
        stalls = self._cuts.get((connection.party, connection.identity))
        if stalls is None:
            connection.listener.heard(topic, identity, payload, retained)
        elif stalls:
            connection.held_back.append((topic, identity, payload, retained, False))

    def _tell_retained(self, connection: Connection) -> None:
        if connection.party is Party.COORDINATOR:
            kept = list(self._retained.items())
        else:
            kept = [
                item for item in self._retained_of_coordinators.items() if item[0] in self._retained
            ]
        for (topic, identity), payload in kept:
            self._deliver(connection, topic, identity, payload, True)

    # --- ends ------------------------------------------------------------------------------

    def _come_up(self) -> None:
        self.is_up = True

    def _notice(self, connection: Connection) -> None:
        if connection.is_open and (connection.party, connection.identity) in self._cuts:
            self._forget(connection)
            self._publish_will(connection)
            connection.listener.dropped(connection, "nothing was heard for too long")

    def _forget(self, connection: Connection) -> None:
        connection.is_open = False
        connection.held_back.clear()
        if connection in self._coordinators:
            self._coordinators.remove(connection)
        key = (connection.party, connection.identity)
        found = self._connections.get(key)
        if found is not None:
            found.remove(connection)
            if not found:
                del self._connections[key]

    def _publish_will(self, connection: Connection) -> None:
        if connection.will is None or self._random.random() < self.weather.lost_will:
            return
        topic, payload = connection.will
        self._schedule.after(
            self._delay_ms(), self._arrive, self._generation, topic, connection.identity, payload
        )
