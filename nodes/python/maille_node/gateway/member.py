"""A board's own connection to the mesh: with its own birth, will and topics."""

import asyncio
import logging
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine

from maille_broker import BrokerError, Link, Message, Will
from maille_node import events as node
from maille_node.errors import TaskProblem
from maille_node.gateway import events
from maille_node.gateway.board import BoardCore
from maille_node.gateway.events import Action, Event, Portrait
from maille_node.gateway.settings import GatewaySettings
from maille_node.service import client_id, envelope_of
from maille_node.supply import Supply
from maille_protocol import Envelope, ErrorCode, Reference, WireError, topics
from maille_protocol.limits import MAX_PUBLISH_BYTES
from maille_protocol.serial.messages import ToBoard

logger = logging.getLogger(__name__)

FAREWELL_S = 1.0
_WARNINGS = 20


class Member:
    """One start of a board as a node of the mesh, in the event loop."""

    def __init__(
        self,
        settings: GatewaySettings,
        gateway: str,
        identity: str,
        portrait: Portrait,
        *,
        supply: Supply,
        tell: Callable[[ToBoard], None],
        ended: Callable[["Member", str], None],
    ) -> None:
        """`tell` sends to the board; `ended` is told why the mesh does not want this node."""
        self.node = identity
        self.portrait = portrait
        boot = secrets.randbits(63) | 1
        self._settings = settings
        self._supply = supply
        self._tell = tell
        self._ended = ended
        self.board = BoardCore(
            portrait,
            gateway=gateway,
            boot=boot,
            jitter=lambda: random.uniform(-1, 1),
            now_ms=_now_ms(),
        )
        self._topics = {topic: topic.on(settings.mesh, identity) for topic in topics.TOPICS}
        self.link = Link(
            settings.endpoint,
            client_id(settings.endpoint, identity, boot),
            subscriptions=topics.node_subscriptions(settings.mesh, identity),
            will=Will(self._topics[topics.NODE_STATE], self.board.core.will(), qos=1, retain=True),
            on_messages=self._on_messages,
            on_up=lambda: self.feed(events.Mesh(node.LinkUp())),
            on_down=lambda reason: self.feed(events.Mesh(node.LinkDown(reason))),
        )
        self.bad_messages = 0
        self._queue: deque[Event] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._jobs: set[asyncio.Task[None]] = set()
        self._over = self._leaving = False
        self._running = asyncio.get_running_loop().create_task(self._run())
        self.feed(events.Mesh(node.Tick()))

    def feed(self, event: Event) -> None:
        """Hand an event to the core and carry out what it wants, without nesting."""
        self._queue.append(event)
        if len(self._queue) > 1 or self._over:
            return
        while self._queue:
            for action in self.board.handle(self._queue[0], _now_ms()):
                self._carry_out(action)
            self._queue.popleft()

    async def leave(self) -> None:
        """Say good-bye in order."""
        if not self._over:
            self._leaving = True
            self.feed(events.Mesh(node.DrainRequested(0.0)))
            await self.link.close(FAREWELL_S)
        await self.vanish()

    async def vanish(self) -> None:
        """Break the connection, so that the broker says that the node is lost."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        for job in (*self._jobs, self._running):
            job.cancel()
        await asyncio.gather(*self._jobs, self._running, return_exceptions=True)

    async def _run(self) -> None:
        try:
            await self.link.run()
        except BrokerError as error:
            self._over = True
            self._ended(self, str(error))

    def _on_messages(self, messages: list[Message]) -> None:
        envelopes: list[Envelope] = []
        for message in messages:
            if message.retain and not message.payload:
                continue
            try:
                envelopes.append(envelope_of(message))
            except WireError as error:
                self.bad_messages += 1
                if self.bad_messages <= _WARNINGS:
                    logger.warning("dropped a message on %.80s: %s", message.topic, error)
        if envelopes:
            self.feed(events.Heard(tuple(envelopes)))

    def _carry_out(self, action: Action) -> None:
        match action:
            case node.Publish(topic, payload, results):
                sent = len(payload) <= MAX_PUBLISH_BYTES and self.link.publish(
                    self._topics[topic], payload, qos=topic.qos, retain=topic.retain
                )
                if not sent and results:
                    self._queue.append(events.Mesh(node.NotPublished(results)))
            case node.WakeAt(at_ms):
                self._wake_at(at_ms)
            case node.UseCoordinator(http_url):
                if self._settings.http_url is None:
                    self._supply.use_coordinator(http_url)
            case node.Note(level, text):
                logger.log(level, "%s: %s", self.node, text)
            case node.Stop(_, text):
                if not self._leaving:
                    self._ended(self, text)
            case events.Tell(message):
                self._tell(message)
            case events.FetchModel(sha256, size_bytes):
                self._spawn(self._fetch(sha256, size_bytes))
            case _:
                logger.error("%s: nothing is known of %s", self.node, type(action).__name__)

    async def _fetch(self, sha256: bytes, size_bytes: int) -> None:
        try:
            path = await self._supply.fetch_slice(Reference(sha256, size_bytes))
            try:
                data = await asyncio.to_thread(path.read_bytes)
            finally:
                self._supply.release_slice(sha256)
        except TaskProblem as problem:
            self.feed(events.ModelUnavailable(sha256, problem.code, problem.text))
        except OSError as error:
            text = f"the model could not be read ({error.strerror})"
            self.feed(events.ModelUnavailable(sha256, ErrorCode.NODE_ERROR, text))
        else:
            self.feed(events.ModelFetched(sha256, data))

    def _wake_at(self, at_ms: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_s = max(0.0, (at_ms - _now_ms()) / 1000) + 0.0005
        tick = events.Mesh(node.Tick())
        self._timer = asyncio.get_running_loop().call_later(delay_s, self.feed, tick)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        job = asyncio.get_running_loop().create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)


def _now_ms() -> float:
    return time.monotonic_ns() / 1e6
