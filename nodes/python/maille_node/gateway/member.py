"""A board's own connection to the mesh: with its own birth, will and topics."""

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Coroutine, Iterable

from maille_node import events as node
from maille_node.errors import TaskProblem
from maille_node.gateway import events
from maille_node.gateway.attachment import Attachment, now_ms
from maille_node.gateway.board import BoardCore
from maille_node.gateway.events import Action, Event, Portrait
from maille_node.gateway.settings import GatewaySettings
from maille_node.supply import Supply
from maille_protocol import ErrorCode, Reference, WireError
from maille_protocol.limits import MAX_PUBLISH_BYTES
from maille_protocol.serial.messages import ToBoard

logger = logging.getLogger(__name__)

_WARNINGS = 20


class Member(Attachment):
    """One start of a board as a node of the mesh."""

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
        super().__init__(settings, identity)
        self.portrait = portrait
        boot = secrets.randbits(63) | 1
        self._supply = supply
        self._tell = tell
        self._ended = ended
        self.board = BoardCore(
            portrait,
            gateway=gateway,
            boot=boot,
            jitter=lambda: random.uniform(-1, 1),
            now_ms=now_ms(),
        )
        self.bad_messages = 0
        self._attach(boot, self.board.core.will())

    def _decide(self, event: Event, now_ms: float) -> Iterable[Action]:
        return self.board.handle(event, now_ms)

    def _refused(self, reason: str) -> None:
        self._ended(self, reason)

    def _dropped(self, topic: str, error: WireError) -> None:
        self.bad_messages += 1
        if self.bad_messages <= _WARNINGS:
            logger.warning("dropped a message on %.80s: %s", topic, error)

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

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        job = asyncio.get_running_loop().create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
