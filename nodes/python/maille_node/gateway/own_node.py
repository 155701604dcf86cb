"""The gateway itself as a node that runs nothing: so the mesh sees whether it is alive."""

import asyncio
import logging
import random
import secrets
import time
from collections import deque
from importlib import metadata

from maille_broker import BrokerError, Link, Message, Will
from maille_node import events as node
from maille_node.core import CoreSettings, NodeCore
from maille_node.gateway.settings import GatewaySettings
from maille_node.service import client_id, envelope_of
from maille_protocol import Envelope, Measured, NodeInfo, NodeKind, WireError, topics
from maille_protocol.limits import MAX_PUBLISH_BYTES

logger = logging.getLogger(__name__)

_FAREWELL_S = 1.0


class OwnNode:
    """Presence of one gateway, from its making until `leave`, in the event loop."""

    def __init__(self, settings: GatewaySettings, gateway: str) -> None:
        """Join the mesh as `gateway`."""
        boot = secrets.randbits(63) | 1
        software = f"maille {metadata.version('maille')}"[:64]
        info = NodeInfo(NodeKind.GATEWAY, gateway, software, 0, (), MAX_PUBLISH_BYTES, Measured())
        self.gateway = gateway
        self._core = NodeCore(
            CoreSettings(info=info, boot=boot, workers=1, max_batch=1),
            jitter=lambda: random.uniform(-1, 1),
            now_ms=_now_ms(),
        )
        self._topics = {topic: topic.on(settings.mesh, gateway) for topic in topics.TOPICS}
        self.link = Link(
            settings.endpoint,
            client_id(settings.endpoint, gateway, boot),
            subscriptions=topics.node_subscriptions(settings.mesh, gateway),
            will=Will(self._topics[topics.NODE_STATE], self._core.will(), qos=1, retain=True),
            on_messages=self._on_messages,
            on_up=lambda: self._feed(node.LinkUp()),
            on_down=lambda reason: self._feed(node.LinkDown(reason)),
        )
        self._queue: deque[node.Event] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self._running = asyncio.get_running_loop().create_task(self._run())
        self._feed(node.Tick())

    async def leave(self) -> None:
        """Say good-bye in order."""
        if not self._over:
            self._feed(node.DrainRequested(0.0))
            await self.link.close(_FAREWELL_S)
        self._end()
        await asyncio.gather(self._running, return_exceptions=True)

    def _end(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        self._running.cancel()

    async def _run(self) -> None:
        try:
            await self.link.run()
        except BrokerError as error:
            # Its boards meet the same, and say so.
            logger.debug("gateway %s: %s", self.gateway, error)
            self._over = True

    def _feed(self, event: node.Event) -> None:
        self._queue.append(event)
        if len(self._queue) > 1 or self._over:
            return
        while self._queue:
            for action in self._core.handle(self._queue[0], _now_ms()):
                self._carry_out(action)
            self._queue.popleft()

    def _on_messages(self, messages: list[Message]) -> None:
        envelopes: list[Envelope] = []
        for message in messages:
            if message.retain and not message.payload:
                continue
            try:
                envelopes.append(envelope_of(message))
            except WireError as error:
                logger.debug("dropped a message on %.80s: %s", message.topic, error)
        if envelopes:
            self._feed(node.Heard(tuple(envelopes)))

    def _carry_out(self, action: node.Action) -> None:
        match action:
            case node.Publish(topic, payload, _):
                self.link.publish(self._topics[topic], payload, qos=topic.qos, retain=topic.retain)
            case node.WakeAt(at_ms):
                if self._timer is not None:
                    self._timer.cancel()
                delay_s = max(0.0, (at_ms - _now_ms()) / 1000) + 0.0005
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(delay_s, self._feed, node.Tick())
            case node.Note(level, text) if level >= logging.ERROR:
                logger.log(level, "gateway %s: %s", self.gateway, text)
            case node.Stop(node.StopReason.DUPLICATE, _):
                logger.warning(
                    "another gateway is called %s too: its boards and this one's are looked after, "
                    "but give this one a name of its own (`maille gateway --id ...`)",
                    self.gateway,
                )
                self._end()
            case _:
                pass


def _now_ms() -> float:
    return time.monotonic_ns() / 1e6
