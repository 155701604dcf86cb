"""What every node of a gateway has of its own: a connection to the mesh, with its birth and will."""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable

from maille_broker import BrokerError, Link, Message, Will
from maille_node import events as node
from maille_node.gateway import events
from maille_node.gateway.events import Action, Event
from maille_node.gateway.settings import GatewaySettings
from maille_node.service import client_id, envelope_of
from maille_protocol import Envelope, WireError, topics

logger = logging.getLogger(__name__)

_FAREWELL_S = 1.0


class Attachment(ABC):
    """One start of a node, from `_attach` until `leave` or `vanish`, in the event loop.

    A subclass decides what an event leads to, and carries that out.
    """

    def __init__(self, settings: GatewaySettings, identity: str) -> None:
        self.node = identity
        self._settings = settings
        self._topics = {topic: topic.on(settings.mesh, identity) for topic in topics.TOPICS}
        self._queue: deque[Event] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._jobs: set[asyncio.Task[None]] = set()
        self._over = self._leaving = False

    def _attach(self, boot: int, will: bytes) -> None:
        """Join the mesh."""
        settings = self._settings
        self.link = Link(
            settings.endpoint,
            client_id(settings.endpoint, self.node, boot),
            subscriptions=topics.node_subscriptions(settings.mesh, self.node),
            will=Will(self._topics[topics.NODE_STATE], will, qos=1, retain=True),
            on_messages=self._on_messages,
            on_up=lambda: self.feed(events.Mesh(node.LinkUp())),
            on_down=lambda reason: self.feed(events.Mesh(node.LinkDown(reason))),
        )
        self._running = asyncio.get_running_loop().create_task(self._run())
        self.feed(events.Mesh(node.Tick()))

    @abstractmethod
    def _decide(self, event: Event, now_ms: float) -> Iterable[Action]:
        """What the core wants done after an event."""

    @abstractmethod
    def _carry_out(self, action: Action) -> None:
        """Do one thing that the core wants done."""

    @abstractmethod
    def _refused(self, reason: str) -> None:
        """The broker does not want this connection, now or ever."""

    @abstractmethod
    def _dropped(self, topic: str, error: WireError) -> None:
        """A message could not be read."""

    def feed(self, event: Event) -> None:
        """Hand an event to the core and carry out what it wants, without nesting."""
        self._queue.append(event)
        if len(self._queue) > 1 or self._over:
            return
        while self._queue:
            for action in self._decide(self._queue[0], now_ms()):
                self._carry_out(action)
            self._queue.popleft()

    async def leave(self) -> None:
        """Say good-bye in order."""
        if not self._over:
            self._leaving = True
            self.feed(events.Mesh(node.DrainRequested(0.0)))
            await self.link.close(_FAREWELL_S)
        await self.vanish()

    async def vanish(self) -> None:
        """Break the connection, so that the broker says that the node is lost."""
        self._end()
        await asyncio.gather(*self._jobs, self._running, return_exceptions=True)

    def _end(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        for job in (*self._jobs, self._running):
            job.cancel()

    async def _run(self) -> None:
        try:
            await self.link.run()
        except BrokerError as error:
            self._over = True
            self._refused(str(error))

    def _on_messages(self, messages: list[Message]) -> None:
        envelopes: list[Envelope] = []
        for message in messages:
            if message.retain and not message.payload:
                continue
            try:
                envelopes.append(envelope_of(message))
            except WireError as error:
                self._dropped(message.topic, error)
        if envelopes:
            self.feed(events.Heard(tuple(envelopes)))

    def _wake_at(self, at_ms: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_s = max(0.0, (at_ms - now_ms()) / 1000) + 0.0005
        tick = events.Mesh(node.Tick())
        self._timer = asyncio.get_running_loop().call_later(delay_s, self.feed, tick)


def now_ms() -> float:
    """The steady clock of the cores."""
    return time.monotonic_ns() / 1e6
