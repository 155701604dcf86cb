"""A light node: the real node's core and connection; its runs are pauses of the right length."""

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Mapping

import numpy as np

from maille_broker import Endpoint, Link, Message, Will
from maille_node import events
from maille_node.core import CoreSettings, NodeCore
from maille_node.events import Action, Event
from maille_node.feeding import Feeder
from maille_protocol import (
    ErrorCode,
    Measured,
    ModelFormat,
    NodeInfo,
    NodeKind,
    WireError,
    topics,
    unpack,
)
from maille_protocol.limits import MAX_PUBLISH_BYTES
from maille_protocol.tensors import encode_tensors
from maille_simulator.scenario.values import ModelUse, NodeGroup

ANSWER = encode_tensors({"label": np.zeros(1, np.int64)})
FAREWELL_S = 1.0
DEFAULT_RUN_MS = 1.0


class LightNode:
    """One node in this process's event loop.

    Args:
        endpoint: the broker, or a proxy before it.
        mesh: the mesh's name.
        node: its id.
        group: its machine.
        models: by name.
        on_attempt: told of each run as (node, begin, end), by `time.monotonic()`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        mesh: str,
        node: str,
        group: NodeGroup,
        models: Mapping[str, ModelUse],
        on_attempt: Callable[[str, float, float], None],
    ) -> None:
        self.node = node
        self.stopped = False
        self._group = group
        self._models = models
        self._on_attempt = on_attempt
        self._names: dict[bytes, str] = {}
        self._loaded: set[bytes] = set()
        self._late: list[Callable[[], None]] = []
        self._timers: set[asyncio.TimerHandle] = set()
        self._wake: asyncio.TimerHandle | None = None
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._running: asyncio.Task[None] | None = None
        self._topics = {topic: topic.on(mesh, node) for topic in topics.TOPICS}
        boot = secrets.randbits(63) | 1
        info = NodeInfo(
            NodeKind.SIMULATED,
            node,
            "light",
            group.slots,
            (ModelFormat.ONNX,),
            MAX_PUBLISH_BYTES,
            Measured(cores=1),
        )
        self._core = NodeCore(
            CoreSettings(info=info, boot=boot, workers=group.workers, max_batch=64),
            jitter=lambda: random.uniform(-1, 1),
            now_ms=_now_ms(),
        )
        self._feeder: Feeder[Event, Action] = Feeder(self._core.handle, self._carry_out, _now_ms)
        will = Will(self._topics[topics.NODE_STATE], self._core.will(), qos=1, retain=True)
        self._link = Link(
            endpoint,
            f"{node}-{boot:016x}",
            subscriptions=topics.node_subscriptions(mesh, node),
            will=will,
            on_messages=lambda messages: self._guarded(lambda: self._take(messages)),
            on_up=lambda: self._guarded(lambda: self._feed(events.LinkUp())),
            on_down=lambda reason: self._guarded(lambda: self._feed(events.LinkDown(reason))),
        )

    def start(self) -> None:
        """Begin to take part."""
        if self._group.battery_percent is not None:
            self._feed(events.BatteryRead(self._group.battery_percent))
        self._feed(events.Tick())
        self._running = asyncio.create_task(self._link.run(), name=f"light node {self.node}")

    async def leave(self, timeout_s: float = 5.0) -> None:
        """Finish what is held, say goodbye, and end."""
        self._guarded(lambda: self._feed(events.DrainRequested(timeout_s * 1000)))
        await asyncio.wait((self._done,), timeout=timeout_s + 1)
        if self._link.is_up:
            await self._link.flush(FAREWELL_S)
        await self._link.close()
        await self.kill()

    async def kill(self) -> None:
        """End at once: the connection breaks."""
        self.stopped = True
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    def stop(self) -> None:
        """Stand still as a process does under SIGSTOP."""
        self.stopped = True

    def resume(self) -> None:
        """Go on, with all that came meanwhile."""
        self.stopped = False
        late, self._late = self._late, []
        for call in late:
            self._guarded(call)

    def read_battery(self, percent: int) -> None:
        """The battery is at this level."""
        self._guarded(lambda: self._feed(events.BatteryRead(percent)))

    # --- the core --------------------------------------------------------------------------

    def _guarded(self, call: Callable[[], None]) -> None:
        if self.stopped:
            self._late.append(call)
        else:
            call()

    def _take(self, messages: list[Message]) -> None:
        for message in messages:
            if not message.payload:
                continue
            try:
                envelope = unpack(message.payload)
            except WireError:
                continue
            self._feed(events.Heard((envelope,)))

    def _feed(self, event: Event) -> None:
        self._feeder.feed(event)

    def _carry_out(self, action: Action) -> None:
        match action:
            case events.Publish(topic=topic, payload=payload, results=results):
                sent = self._link.publish(
                    self._topics[topic], payload, qos=topic.qos, retain=topic.retain
                )
                if not sent and results:
                    self._feed(events.NotPublished(results))
            case events.WakeAt(at_ms=at_ms):
                if self._wake is not None:
                    self._wake.cancel()
                    self._timers.discard(self._wake)
                self._wake = self._later(
                    (at_ms - _now_ms()) / 1000 + 0.0005, lambda: self._feed(events.Tick())
                )
            case events.Prepare(model=model):
                self._names[model.sha256] = model.name
                if model.sha256 in self._loaded:
                    self._feed(events.ModelReady(model.sha256, joinable=False))
                else:
                    load_s = self._use(model.sha256).load_ms / 1000 / self._group.speed
                    self._later(load_s, lambda: self._ready(model.sha256))
            case events.RunBatch():
                self._run(action)
            case events.FetchInput(task_id=task_id):
                self._later(0.005, lambda: self._feed(events.InputReady(task_id)))
            case events.AbortBatch():
                pass  # its pause ends by itself
            case events.Stop():
                if not self._done.done():
                    self._done.set_result(None)
            case _:
                pass

    def _use(self, sha256: bytes) -> ModelUse:
        name = self._names.get(sha256, "")
        return self._models.get(name, ModelUse(name, run_ms=DEFAULT_RUN_MS))

    def _ready(self, sha256: bytes) -> None:
        self._loaded.add(sha256)
        self._feed(events.ModelReady(sha256, joinable=False))

    def _run(self, order: events.RunBatch) -> None:
        run_ms = self._use(order.sha256).run_ms / self._group.speed
        begin_s = time.monotonic()
        for place in range(len(order.items)):
            self._on_attempt(
                self.node, begin_s + place * run_ms / 1000, begin_s + (place + 1) * run_ms / 1000
            )
        ends = tuple(
            events.RunEnd(item.task_id, ErrorCode.NONE, ANSWER, int(run_ms * 1000))
            for item in order.items
        )
        event = events.BatchEnded(order.batch, ends, joinable=False)
        self._later(run_ms * len(ends) / 1000, lambda: self._feed(event))

    def _later(self, delay_s: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        def fire() -> None:
            self._timers.discard(handle)
            self._guarded(call)

        handle = asyncio.get_running_loop().call_later(max(0.0, delay_s), fire)
        self._timers.add(handle)
        return handle


def _now_ms() -> float:
    return time.monotonic() * 1000
