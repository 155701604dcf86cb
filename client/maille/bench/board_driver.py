"""A coordinator of a few lines that gives one board its model and tasks, and times them."""

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

import numpy as np

from maille.errors import MailleError
from maille_broker import Endpoint, Link, Message
from maille_protocol import (
    BoardState,
    Chunk,
    CoordinatorState,
    ModelCommand,
    ModelFormat,
    ModelOrder,
    ModelReference,
    ModelReport,
    ModelState,
    NodeState,
    NodeStatus,
    Offer,
    Offers,
    Result,
    Results,
    ResultStatus,
    WireError,
    pack,
    topics,
    unpack,
)
from maille_protocol import Message as MeshMessage
from maille_protocol.tensors import encode_tensors
from maille_protocol.tiny import (
    ArgMax,
    Dense,
    Description,
    ElementType,
    Model,
    Quantisation,
    Requantisation,
    Tensor,
    TensorDescription,
    encode_model,
    make_self_tests,
)
from maille_protocol.tiny.codes import FLAG_ACCUMULATOR_24

INPUTS, HIDDEN, CLASSES = 64, 32, 10
TIMEOUT_S = 10.0
Found = TypeVar("Found")


def tiny_model() -> bytes:
    """64 -> 32 -> 10 -> class with random weights: the shape of the digits' MLP, 3 KB."""
    random = np.random.default_rng(1)
    identity = (Quantisation(1, 0, 0, 0),)
    uint8 = ElementType.UINT8
    model = Model(
        (Tensor(uint8, INPUTS, 0),),
        (Tensor(uint8, 1, INPUTS),),
        (
            _dense(random, 0, INPUTS, INPUTS, HIDDEN),
            _dense(random, INPUTS, 0, HIDDEN, CLASSES),
            ArgMax(0, INPUTS, uint8, CLASSES),
        ),
        b"",
        Description(
            "bench",
            (TensorDescription("x", (INPUTS,), (0,), identity),),
            (TensorDescription("y", (1,), (0,), identity),),
            (),
        ),
    )
    samples = random.integers(0, 256, (8, INPUTS)).astype(np.uint8)
    return encode_model(replace(model, self_tests=make_self_tests(model, [samples])))


def _dense(
    random: np.random.Generator, source: int, target: int, inputs: int, outputs: int
) -> Dense:
    record = np.dtype([("bias", "<i4"), ("multiplier", "<u2"), ("shift", "u1")])
    channels = np.zeros(outputs, record)
    channels["multiplier"], channels["shift"] = 20000, 4
    weights = random.integers(1, 256, outputs * inputs).astype(np.uint8)
    requantisation = Requantisation(100, 0, 255, channels.tobytes())
    return Dense(
        source, target, FLAG_ACCUMULATOR_24, inputs, outputs, requantisation, weights.tobytes()
    )


class BoardDriver:
    """Talks to one board; see `drive`."""

    def __init__(self, mesh: str, node: str) -> None:
        self.link: Link | None = None
        self._mesh = mesh
        self._node = node
        self._seq = 0
        self._container = b""
        self._reference: ModelReference | None = None
        self._said: list[MeshMessage] = []
        self._answered: dict[bytes, asyncio.Future[Result]] = {}
        self._heard = asyncio.Event()

    def received(self, messages: list[Message]) -> None:
        """Take in what the board says."""
        for message in messages:
            try:
                said = unpack(message.payload).message
            except WireError:
                continue
            match said:
                case Results(results=results):
                    for result in results:
                        waiting = self._answered.pop(result.task_id, None)
                        if waiting is not None and not waiting.done():
                            waiting.set_result(result)
                case ModelReport(state=ModelState.WANT) as report:
                    data = self._container[report.offset : report.offset + report.length]
                    sha256 = hashlib.sha256(self._container).digest()
                    self._send(topics.NODE_CHUNK, Chunk(sha256, report.offset, data))
                case NodeStatus() | ModelReport() | BoardState():
                    self._said.append(said)
                case _:
                    pass
        self._heard.set()

    def announce(self) -> None:
        """Say that a coordinator is there."""
        self._send(topics.COORDINATOR, CoordinatorState(True, ""))

    def _send(self, topic: topics.Topic, message: MeshMessage) -> None:
        assert self.link is not None  # noqa: S101 - set before anything is sent
        self._seq += 1
        payload = pack(message, boot=1, seq=self._seq, epoch=1)
        name = "bench" if topic is topics.COORDINATOR else self._node
        self.link.publish(topic.on(self._mesh, name), payload, qos=topic.qos, retain=topic.retain)

    async def _until(self, found: Callable[[], Found | None]) -> Found:
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                value = found()
                if value is not None:
                    return value
                self._heard.clear()
                await self._heard.wait()

    async def ready(self) -> None:
        """Until the board has joined."""
        ready = NodeStatus(NodeState.READY)
        await self._until(lambda: True if ready in self._said else None)

    async def deploy(self, container: bytes) -> None:
        """Deliver a model; MailleError if the board does not take it."""
        self._container = container
        sha256 = hashlib.sha256(container).digest()
        model = ModelReference("bench", 1, sha256, len(container), ModelFormat.TINY)
        self._reference = model
        self._send(topics.NODE_MODEL, ModelOrder(ModelCommand.DEPLOY, model, 1))
        report = await self._until(
            lambda: next((said for said in self._said if isinstance(said, ModelReport)), None)
        )
        if report.state is not ModelState.READY:
            raise MailleError(f"The board did not take the model: {report.text}")

    async def answers(self, count: int) -> list[tuple[float, float]]:
        """So many tasks one after another: (round trip in ms, of it the model's run in ms)."""
        assert self._reference is not None  # noqa: S101 - a model was deployed
        content = encode_tensors({"x": np.arange(INPUTS, dtype=np.uint8)})
        times: list[tuple[float, float]] = []
        loop = asyncio.get_running_loop()
        for _ in range(count):
            task_id = secrets.token_bytes(16)
            waiting: asyncio.Future[Result] = loop.create_future()
            self._answered[task_id] = waiting
            began = time.perf_counter()
            offer = Offer(task_id, 1, 60_000, 0, content)
            self._send(topics.NODE_TASK, Offers(self._reference, (offer,)))
            async with asyncio.timeout(TIMEOUT_S):
                result = await waiting
            took_ms = (time.perf_counter() - began) * 1000
            if result.status is not ResultStatus.DONE:
                raise MailleError(f"The board did not answer a task: {result.code.name}")
            times.append((took_ms, result.run_us / 1000))
        return times

    async def free_memory(self) -> int:
        """Bytes of the board's heap that are free, by its own word."""
        self._said.clear()
        self._send(topics.NODE_MODEL, ModelOrder(ModelCommand.REPORT, None, 2))
        state = await self._until(
            lambda: next((said for said in self._said if isinstance(said, BoardState)), None)
        )
        return state.free_memory_bytes


@asynccontextmanager
async def drive(endpoint: Endpoint, mesh: str, node: str) -> AsyncIterator[BoardDriver]:
    """A connected driver of the board `node`."""
    driver = BoardDriver(mesh, node)
    up = asyncio.Event()
    driver.link = Link(
        endpoint,
        f"bench-{secrets.token_hex(4)}",
        subscriptions=((f"maille/1/{mesh}/n/{node}/#", 1),),
        on_messages=driver.received,
        on_up=up.set,
    )
    running = asyncio.create_task(driver.link.run())
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await up.wait()
        driver.announce()
        yield driver
    finally:
        await driver.link.close()
        await asyncio.gather(running, return_exceptions=True)
