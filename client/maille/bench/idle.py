"""What idle nodes cost a coordinator: real node cores, each with its own connection."""

import asyncio
import random
import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from maille.async_mesh import AsyncMesh
from maille.errors import MailleError
from maille.local_mesh import LocalMesh
from maille_broker import Endpoint, Link, Message, Will, parse_url
from maille_node import events
from maille_node.core import CoreSettings, NodeCore
from maille_protocol import (
    Measured,
    ModelFormat,
    NodeInfo,
    NodeKind,
    WireError,
    topics,
    unpack,
)
from maille_protocol.limits import MAX_PUBLISH_BYTES

JOIN_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class IdleCost:
    """Medians are not needed: it is one mean over the whole time."""

    nodes: int
    seconds: float
    cpu_percent: float
    """Of one core, by the coordinator's process."""
    memory_bytes: int
    """Resident size of the coordinator's process at the end."""
    lost: int

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def measure_idle(broker: str, nodes: int, seconds: float, say: Callable[[str], None]) -> IdleCost:
    """Start a mesh with that many idle nodes and watch its coordinator.

    Raises:
        MailleError: a part did not start, or not all nodes came.
    """
    with tempfile.TemporaryDirectory(prefix="maille-bench-", ignore_cleanup_errors=True) as folder:
        return asyncio.run(_measure(broker, nodes, seconds, Path(folder), say))


async def _measure(
    broker: str, count: int, seconds: float, folder: Path, say: Callable[[str], None]
) -> IdleCost:
    async with (
        LocalMesh(folder, broker=broker, nodes=[]) as local,
        AsyncMesh(local.http_url) as mesh,
        asyncio.TaskGroup() as group,
    ):
        endpoint = parse_url(local.broker_url)
        running = [
            group.create_task(LightNode(endpoint, "local", f"idle-{number:04d}").run())
            for number in range(count)
        ]
        deadline_s = time.monotonic() + JOIN_TIMEOUT_S
        while sum(node.state == "ready" for node in await mesh.nodes()) < count:
            if time.monotonic() > deadline_s:
                raise MailleError(f"Not all {count} nodes came within {JOIN_TIMEOUT_S:g} s.")
            await asyncio.sleep(0.2)
        say(f"{count} nodes are ready; watching the coordinator for {seconds:g} s")
        process = psutil.Process(local.pid("coordinator"))
        used_s = _cpu_s(process)
        begin_s = time.monotonic()
        await asyncio.sleep(seconds)
        took_s = time.monotonic() - begin_s
        cost = IdleCost(
            count,
            took_s,
            100 * (_cpu_s(process) - used_s) / took_s,
            process.memory_info().rss,
            sum(node.state != "ready" for node in await mesh.nodes()),
        )
        for task in running:
            task.cancel()
    return cost


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


class LightNode:
    """A node's core and connection without a machine behind them: it takes part, it runs nothing."""

    def __init__(self, endpoint: Endpoint, mesh: str, node: str) -> None:
        self._topics = {topic: topic.on(mesh, node) for topic in topics.TOPICS}
        info = NodeInfo(
            NodeKind.SIMULATED, node, "light", 1, (ModelFormat.TINY,), MAX_PUBLISH_BYTES, Measured()
        )
        boot = secrets.randbits(63) | 1
        self._core = NodeCore(
            CoreSettings(info=info, boot=boot, workers=1, max_batch=1),
            jitter=lambda: random.uniform(-1, 1),
            now_ms=_now_ms(),
        )
        will = Will(self._topics[topics.NODE_STATE], self._core.will(), qos=1, retain=True)
        self._link = Link(
            endpoint,
            node,
            subscriptions=topics.node_subscriptions(mesh, node),
            will=will,
            on_messages=self._on_messages,
            on_up=lambda: self._feed(events.LinkUp()),
            on_down=lambda reason: self._feed(events.LinkDown(reason)),
        )
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Take part until cancelled."""
        self._feed(events.Tick())
        try:
            await self._link.run()
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _on_messages(self, messages: list[Message]) -> None:
        for message in messages:
            try:
                envelope = unpack(message.payload)
            except WireError:
                continue
            self._feed(events.Heard((envelope,)))

    def _feed(self, event: events.Event) -> None:
        for action in self._core.handle(event, _now_ms()):
            match action:
                case events.Publish(topic=topic, payload=payload):
                    self._link.publish(
                        self._topics[topic], payload, qos=topic.qos, retain=topic.retain
                    )
                case events.WakeAt(at_ms=at_ms):
                    if self._timer is not None:
                        self._timer.cancel()
                    delay_s = max(0.0, (at_ms - _now_ms()) / 1000)
                    loop = asyncio.get_running_loop()
                    self._timer = loop.call_later(delay_s, self._feed, events.Tick())
                case _:
                    pass


def _now_ms() -> float:
    return time.monotonic() * 1000
