"""The gateway itself as a node that runs nothing: so the mesh sees whether it is alive."""

import logging
import random
import secrets
from collections.abc import Iterable
from importlib import metadata

from maille_node import events as node
from maille_node.core import CoreSettings, NodeCore
from maille_node.gateway import events
from maille_node.gateway.attachment import Attachment, now_ms
from maille_node.gateway.events import Action, Event
from maille_node.gateway.settings import GatewaySettings
from maille_protocol import Measured, NodeInfo, NodeKind, WireError
from maille_protocol.limits import MAX_PUBLISH_BYTES

logger = logging.getLogger(__name__)


class OwnNode(Attachment):
    """Presence of one gateway."""

    def __init__(self, settings: GatewaySettings, gateway: str) -> None:
        """Join the mesh as `gateway`."""
        super().__init__(settings, gateway)
        boot = secrets.randbits(63) | 1
        software = f"maille {metadata.version('maille')}"[:64]
        info = NodeInfo(NodeKind.GATEWAY, gateway, software, 0, (), MAX_PUBLISH_BYTES, Measured())
        self._core = NodeCore(
            CoreSettings(info=info, boot=boot, workers=1, max_batch=1),
            jitter=lambda: random.uniform(-1, 1),
            now_ms=now_ms(),
        )
        self._attach(boot, self._core.will())

    def _decide(self, event: Event, now_ms: float) -> Iterable[Action]:
        match event:
            case events.Mesh(of_node):
                return self._core.handle(of_node, now_ms)
            case events.Heard(envelopes):
                return self._core.handle(node.Heard(envelopes), now_ms)
            case _:
                return ()

    def _carry_out(self, action: Action) -> None:
        match action:
            case node.Publish(topic, payload, _):
                self.link.publish(self._topics[topic], payload, qos=topic.qos, retain=topic.retain)
            case node.WakeAt(at_ms):
                self._wake_at(at_ms)
            case node.Note(level, text) if level >= logging.ERROR:
                logger.log(level, "gateway %s: %s", self.node, text)
            case node.Stop(node.StopReason.DUPLICATE, _):
                logger.warning(
                    "another gateway is called %s too: its boards and this one's are looked after, "
                    "but give this one a name of its own (`maille gateway --id ...`)",
                    self.node,
                )
                self._end()
            case _:
                pass

    def _refused(self, reason: str) -> None:
        # Its boards meet the same, and say so.
        logger.debug("gateway %s: %s", self.node, reason)

    def _dropped(self, topic: str, error: WireError) -> None:
        logger.debug("dropped a message on %.80s: %s", topic, error)
