"""The coordinator's side of the wire: publishes to events, messages to publishes."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict

from maille_broker import Link, Message, Will
from maille_coordinator.core.events import ClientSpoke, Event, NodeSpoke
from maille_protocol import (
    Ask,
    CoordinatorState,
    Envelope,
    Submit,
    WireError,
    Withdraw,
    pack,
    topics,
    unpack,
)
from maille_protocol import Message as WireMessage
from maille_protocol.topics import Party, Topic

logger = logging.getLogger(__name__)

_LOGGED_FAULTS = 20
"""Malformed messages that are logged in full; the rest is only counted."""


class Wire:
    """Numbers and packs what this coordinator sends, reads what others send."""

    def __init__(self, mesh: str, name: str, *, boot: int, epoch: int) -> None:
        self.mesh = mesh
        self.name = name
        self.boot = boot
        self.epoch = epoch
        self.faults: Counter[str] = Counter()
        """Malformed messages by kind of topic."""
        self.others: list[tuple[str, Envelope]] = []
        """What other coordinators of this mesh said; the shell takes these."""
        self.overwritten = False
        """Somebody cleared or replaced what the broker keeps of this coordinator with what is no
        coordinator's message; the shell takes this."""
        self._own_topic = topics.COORDINATOR.on(mesh, name)
        self._seq = 0
        self._link: Link | None = None

    def use(self, link: Link) -> None:
        """Send through this link from now on."""
        self._link = link

    def counters(self) -> Mapping[str, int]:
        """What the link counted, by name."""
        if self._link is None:
            return {}
        return {
            name: value
            for name, value in asdict(self._link.counters).items()
            if isinstance(value, int)
        }

    def will(self) -> Will:
        """What the broker says of this coordinator when its connection ends."""
        state = CoordinatorState(online=False, http_url="")
        payload = pack(state, boot=self.boot, seq=0, epoch=self.epoch)
        topic = topics.COORDINATOR.on(self.mesh, self.name)
        return Will(topic, payload, topics.COORDINATOR.qos, topics.COORDINATOR.retain)

    def send(self, topic: Topic, identity: str, message: WireMessage) -> bool:
        """Publish a message; False if the link is down (leases and questions make up for it)."""
        if self._link is None:
            return False
        self._seq += 1
        payload = pack(message, boot=self.boot, seq=self._seq, epoch=self.epoch)
        return self._link.publish(
            topic.on(self.mesh, identity), payload, qos=topic.qos, retain=topic.retain
        )

    def clear(self, topic: Topic, identity: str) -> None:
        """Remove what the broker keeps on a topic."""
        if self._link is not None:
            self._link.publish(topic.on(self.mesh, identity), b"", qos=topic.qos, retain=True)

    def read(self, messages: Iterable[Message]) -> Iterator[Event]:
        """The events in a burst of publishes; what cannot be read is counted and logged."""
        for message in messages:
            try:
                event = self._event(message)
            except WireError as error:
                self._fault(message, error)
                self.overwritten |= message.topic == self._own_topic
            else:
                if event is not None:
                    yield event

    def _event(self, message: Message) -> Event | None:
        address = topics.parse(message.topic)
        topic = address.topic
        if not message.payload and topic.retain:
            self.overwritten |= message.topic == self._own_topic
            return None  # the topic was cleared
        envelope = unpack(message.payload, frozenset({topic.message}))
        match topic.party:
            case Party.NODE:
                return NodeSpoke(address.identity, envelope, message.retain)
            case Party.CLIENT:
                content = envelope.message
                if isinstance(content, Submit | Ask | Withdraw):
                    return ClientSpoke(address.identity, content)
                raise WireError(f"{type(content).__name__} is not a client's message")
            case Party.COORDINATOR:
                if envelope.boot != self.boot:
                    self.others.append((address.identity, envelope))
                return None

    def _fault(self, message: Message, error: WireError) -> None:
        parts = message.topic.split("/")
        kind = "/".join(parts[5:7]) if len(parts) > 5 else "other"
        self.faults[kind if len(self.faults) < 32 or kind in self.faults else "other"] += 1
        if self.faults.total() <= _LOGGED_FAULTS:
            logger.warning(
                "ignored a message on %s: %s (%d bytes, starts %s)",
                message.topic[:120],
                error,
                len(message.payload),
                message.payload[:24].hex(),
            )
