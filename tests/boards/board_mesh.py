"""A board's process on the real interpreter, and a coordinator of a few lines to talk to it."""

import asyncio
import contextlib
import json
import secrets
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from board_models import reference
from interpreter import LIBRARY, environment

from maille_broker import Endpoint, Link, Message
from maille_protocol import (
    BoardState,
    Chunk,
    CoordinatorState,
    Envelope,
    Heartbeat,
    ModelCommand,
    ModelOrder,
    ModelReport,
    ModelState,
    NodeInfo,
    NodeState,
    NodeStatus,
    Offer,
    Offers,
    Reading,
    Readings,
    Result,
    Results,
    SenseCommand,
    SenseMode,
    SenseOrder,
    TaskFlag,
    pack,
    topics,
    unpack,
)
from maille_protocol.messages import Message as MeshMessage
from maille_protocol.tensors import Array, decode_tensors, encode_tensors
from maille_simulator.boards.interpreter import find_micropython

MESH = "test"
Found = TypeVar("Found")


class Board:
    """A board's process; its flash is a folder.

    Args:
        folder: for settings, models and the log; kept over starts.
        port: of the broker on this machine.
        node: the board's id.
        heap: of the interpreter, as its -X heapsize takes it.
        library: another folder with the library.
        settings: more of `maille.json`.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        node: str = "pico-1",
        heap: str = "256k",
        library: Path = LIBRARY,
        settings: dict[str, object] | None = None,
    ) -> None:
        self.folder = folder
        self.node = node
        self._heap = heap
        self._library = library
        folder.mkdir(parents=True, exist_ok=True)
        made = {
            "node": node,
            "mesh": MESH,
            "broker": f"mqtt://127.0.0.1:{port}",
            "folder": str(folder / "models"),
            **(settings or {}),
        }
        (folder / "maille.json").write_text(json.dumps(made))
        self.process: subprocess.Popen[bytes] | None = None
        self.interpreter = find_micropython()
        self.program: tuple[str, ...] = ()
        """What the interpreter runs, before the path of the settings; empty: the node."""

    def start(self) -> None:
        """Power on."""
        log = (self.folder / "log").open("ab")
        settings = str(self.folder / "maille.json")
        program = self.program or ("-c", f"from maille import main\nmain({settings!r})")
        self.process = subprocess.Popen(
            [self.interpreter, "-X", f"heapsize={self._heap}", *program, settings],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self.folder,
            env=environment(self._library),
        )
        log.close()

    def kill(self) -> None:
        """Power off."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """Neither reads nor writes, as when the radio is gone."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """After `pause`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.poll() is None

    def log(self) -> str:
        """What it printed."""
        return (self.folder / "log").read_text(errors="replace")


@dataclass
class Peer:
    """Sends what a test wants sent, answers WANT, keeps what a board says."""

    link: Link
    node: str
    epoch: int = 1
    seq: int = 0
    artefacts: dict[bytes, bytes] = field(default_factory=dict)
    """Sent in chunks when a board wants them."""
    lose_chunk: Callable[[int], bool] = lambda _offset: False
    envelopes: list[Envelope] = field(default_factory=list)
    results: dict[bytes, list[Result]] = field(default_factory=dict)
    readings: list[Reading] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)
    """Offsets of all WANTs."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def received(self, messages: list[Message]) -> None:
        for message in messages:
            if not message.payload:
                continue
            envelope = unpack(message.payload)
            if isinstance(envelope.message, CoordinatorState):
                continue
            self.envelopes.append(envelope)
            match envelope.message:
                case Results(results=results):
                    for result in results:
                        self.results.setdefault(result.task_id, []).append(result)
                case Readings(readings=readings):
                    self.readings += readings
                case ModelReport(state=ModelState.WANT, sha256=bytes(sha256)) as report:
                    self.wanted.append(report.offset)
                    container = self.artefacts.get(sha256)
                    if container is not None and not self.lose_chunk(report.offset):
                        data = container[report.offset : report.offset + report.length]
                        self.send(topics.NODE_CHUNK, Chunk(sha256, report.offset, data))
        self._changed.set()

    def said(self, kind: type[Found]) -> list[Found]:
        """All messages of one type, oldest first."""
        return [e.message for e in self.envelopes if isinstance(e.message, kind)]

    def reports(self, *states: ModelState) -> list[ModelReport]:
        return [report for report in self.said(ModelReport) if report.state in states]

    def board_state(self) -> BoardState:
        return self.said(BoardState)[-1]

    async def until(self, condition: Callable[[], object], timeout_s: float = 15.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), 0.05)

    async def ready(self, births: int = 1) -> None:
        """Until the board has been born so often, and is ready."""

        def is_ready() -> bool:
            states = [status.state for status in self.said(NodeStatus)]
            return states.count(NodeState.INIT) >= births and states[-1] is NodeState.READY

        await self.until(is_ready)

    def boot(self) -> int:
        return self.envelopes[-1].boot

    def send(
        self,
        topic: topics.Topic,
        message: MeshMessage,
        *,
        epoch: int | None = None,
        seq: int | None = None,
    ) -> None:
        self.seq += 1
        epoch = self.epoch if epoch is None else epoch
        payload = pack(message, boot=1, seq=seq or self.seq, epoch=epoch)
        name = "c1" if topic is topics.COORDINATOR else self.node
        sent = self.link.publish(topic.on(MESH, name), payload, qos=topic.qos, retain=topic.retain)
        assert sent

    def send_raw(self, suffix: str, payload: bytes) -> None:
        """Any bytes on the board's branch."""
        assert self.link.publish(f"maille/1/{MESH}/n/{self.node}/{suffix}", payload)

    def announce(self, *, online: bool = True) -> None:
        self.send(topics.COORDINATOR, CoordinatorState(online, ""))

    def deploy(self, container: bytes, nonce: int = 1, name: str = "digits-tiny") -> None:
        self.artefacts[reference(container).sha256] = container
        order = ModelOrder(ModelCommand.DEPLOY, reference(container, name), nonce)
        self.send(topics.NODE_MODEL, order)

    async def deployed(self, container: bytes, nonce: int = 1) -> ModelReport:
        """Deliver a model and wait for READY."""
        self.deploy(container, nonce)
        sha256 = reference(container).sha256

        def answers() -> list[ModelReport]:
            reports = self.reports(ModelState.READY, ModelState.FAILED)
            return [r for r in reports if r.sha256 == sha256 and r.nonce == nonce]

        await self.until(answers)
        return answers()[-1]

    def offer(
        self,
        container: bytes,
        inputs: Array,
        *,
        task_id: bytes | None = None,
        attempt: int = 1,
        remaining_ms: int = 60_000,
        epoch: int | None = None,
        name: str = "x",
        flags: int = 0,
        boot: int | None = None,
    ) -> bytes:
        task_id = task_id or secrets.token_bytes(16)
        content = encode_tensors({name: inputs})
        meant = self.boot() if boot is None else boot
        once = flags & TaskFlag.AT_MOST_ONCE
        offer = Offer(task_id, attempt, remaining_ms, flags, content, meant if once else 0)
        self.send(topics.NODE_TASK, Offers(reference(container), (offer,)), epoch=epoch)
        return task_id

    async def answer(self, task_id: bytes, count: int = 1, timeout_s: float = 15.0) -> Result:
        await self.until(lambda: len(self.results.get(task_id, [])) >= count, timeout_s)
        return self.results[task_id][-1]

    def sense(
        self,
        container: bytes,
        sensor: str,
        *,
        sense: int = 1,
        interval_ms: int = 50,
        mode: SenseMode = SenseMode.ALWAYS,
    ) -> None:
        sha256 = reference(container).sha256
        order = SenseOrder(SenseCommand.START, sense, sha256, sensor, interval_ms, mode)
        self.send(topics.NODE_SENSE, order)

    def heartbeat(self) -> Heartbeat:
        return self.said(Heartbeat)[-1]

    def info(self) -> NodeInfo:
        return self.said(NodeInfo)[-1]


def outputs(result: Result | Reading) -> dict[str, list[int]]:
    """The tensors of an answer."""
    assert isinstance(result.content, bytes)
    tensors = decode_tensors(result.content)
    return {name: np.asarray(array).ravel().tolist() for name, array in tensors.items()}


@contextlib.asynccontextmanager
async def peer(endpoint: Endpoint, node: str = "pico-1", epoch: int = 1) -> AsyncIterator[Peer]:
    """A connected coordinator of the mesh, announced."""
    up = asyncio.Event()
    made: list[Peer] = []

    def heard(messages: list[Message]) -> None:
        made[0].received(messages)

    def came_up() -> None:
        up.set()
        if made:
            made[0].announce()

    link = Link(
        endpoint,
        f"peer-{secrets.token_hex(4)}",
        subscriptions=topics.coordinator_subscriptions(MESH),
        on_messages=heard,
        on_up=came_up,
    )
    made.append(Peer(link, node, epoch))
    running = asyncio.create_task(link.run())
    try:
        async with asyncio.timeout(10):
            await up.wait()
        yield made[0]
    finally:
        await link.close()
        await asyncio.gather(running, return_exceptions=True)


class Switch:
    """A TCP proxy in front of a broker: the board's radio, which can be cut without a word."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.cut = False
        """While true, bytes are neither passed on nor is anything closed."""
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        writers = [writer]
        self._writers.add(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._port)
            writers.append(back)
            self._writers.add(back)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, back))
                pumps.create_task(self._pump(there, writer))
        except* OSError:
            pass
        finally:
            for each in writers:
                each.transport.abort()
            self._writers -= set(writers)
            self._tasks.discard(task)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(4096):
                if self.cut:
                    continue  # Lost on the air; neither end learns of it.
                sink.write(data)
                await sink.drain()
        except OSError:
            return
        finally:
            sink.close()

    def drop_all(self) -> None:
        """Close every connection at once."""
        for writer in self._writers:
            writer.transport.abort()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        while self._tasks:
            # Not cancelled: Python 3.11 reports a cancelled connection as an error.
            self.drop_all()
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)  # Aborted transports close in the next turn of the loop.
