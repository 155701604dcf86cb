"""A coordinator small enough to misbehave on purpose: real broker, real HTTP, two tiny models."""

import asyncio
import contextlib
import hashlib
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from maille_broker import Link, Message, RunningBroker, start_broker
from maille_protocol import (
    Accepted,
    Ask,
    CoordinatorState,
    ErrorCode,
    Outcome,
    Outcomes,
    OutcomeStatus,
    Reference,
    Submit,
    Withdraw,
    pack,
    topics,
    unpack,
)
from maille_protocol.contents import Content
from maille_protocol.limits import MAX_INLINE_CONTENT_BYTES
from maille_protocol.tensors import decode_tensors, encode_tensors

MODELS: list[dict[str, object]] = [
    {
        "name": "double",
        "version": 1,
        "format": "onnx",
        "size_bytes": 100,
        "sha256": "00" * 32,
        "batchable": True,
        "description": "x times two",
        "added_at_unix_ms": 1,
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 2]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 2]}],
    },
    {
        "name": "add",
        "version": 2,
        "format": "onnx",
        "size_bytes": 100,
        "sha256": "11" * 32,
        "batchable": False,
        "description": "",
        "added_at_unix_ms": 1,
        "inputs": [
            {"name": "a", "dtype": "float32", "shape": [None]},
            {"name": "b", "dtype": "float32", "shape": [None]},
        ],
        "outputs": [{"name": "sum", "dtype": "float32", "shape": [None]}],
    },
]


class QuietServer(uvicorn.Server):
    """A server that leaves signals alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass
class Faults:
    """What goes wrong; numbers count down."""

    drop_submits: int = 0
    drop_accepted: int = 0
    drop_outcomes: int = 0
    refuse_full: int = 0
    hold: bool = False
    """Accept tasks and do not run them."""
    silent: bool = False
    fail: tuple[OutcomeStatus, ErrorCode, str] | None = None


@dataclass
class StandIn:
    """One mesh in a thread of its own; `with stand_in(path) as mesh`."""

    directory: Path
    key: str | None = None
    faults: Faults = field(default_factory=Faults)
    counts: Counter[str] = field(default_factory=Counter)
    runs: Counter[bytes] = field(default_factory=Counter)
    max_input_bytes: int = 64 * 1024 * 1024
    http_url: str = ""
    broker_url: str = ""

    def __post_init__(self) -> None:
        self.models: list[dict[str, object]] = list(MODELS)
        self.epoch = 5
        self.artefacts: dict[str, bytes] = {}
        self.open: dict[bytes, str] = {}
        self.ended: dict[bytes, Outcome] = {}
        self.seq = 0
        self.loop: asyncio.AbstractEventLoop | None = None
        self.started = threading.Event()
        self.stop: asyncio.Event | None = None
        self.error: BaseException | None = None

    # --- the thread ------------------------------------------------------------------------

    def main(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.started.set()

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.stop = asyncio.Event()
        self.broker: RunningBroker = await start_broker(
            "mosquitto", port=0, data_directory=self.directory / "broker"
        )
        self.broker_url = self.broker.endpoint.url
        config = uvicorn.Config(self._app(), port=0, log_config=None, lifespan="off")
        server = QuietServer(config)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            # It listens before the server runs: no caller can come too early.
            listener.listen(128)
            serving = asyncio.create_task(server.serve([listener]))
            await self._serve(server, serving, port)

    async def _serve(self, server: uvicorn.Server, serving: asyncio.Task[None], port: int) -> None:
        assert self.stop is not None
        self.http_url = f"http://127.0.0.1:{port}"
        up = asyncio.Event()
        self.link = Link(
            self.broker.endpoint,
            "coordinator",
            subscriptions=topics.coordinator_subscriptions("home"),
            on_messages=self._take,
            on_up=up.set,
        )
        running = asyncio.create_task(self.link.run())
        await up.wait()
        self._announce()
        self.started.set()
        await self.stop.wait()
        await self.link.close()
        await running
        server.should_exit = True
        await serving
        await self.broker.stop()

    def in_loop(self, work: Callable[[], None]) -> None:
        """Run a callable in the thread's loop and wait until it is done."""
        assert self.loop is not None
        done = threading.Event()

        def call() -> None:
            work()
            done.set()

        self.loop.call_soon_threadsafe(call)
        assert done.wait(5)

    def restart(self, *, forget: bool) -> None:
        """As a coordinator that starts again: a new epoch, with or without its journal."""

        def work() -> None:
            self.epoch += 1
            if forget:
                self.open.clear()
                self.ended.clear()
            self._announce()

        self.in_loop(work)

    def _announce(self) -> None:
        self._publish(topics.COORDINATOR, "main", CoordinatorState(True, self.http_url))

    def _publish(
        self,
        topic: topics.Topic,
        identity: str,
        message: CoordinatorState | Accepted | Outcomes,
    ) -> None:
        self.seq += 1
        self.link.publish(
            topic.on("home", identity),
            pack(message, boot=1, seq=self.seq, epoch=self.epoch),
            qos=topic.qos,
            retain=topic.retain,
        )

    # --- MQTT ------------------------------------------------------------------------------

    def _take(self, messages: list[Message]) -> None:
        for message in messages:
            address = topics.parse(message.topic)
            if address.topic.party is not topics.Party.CLIENT or self.faults.silent:
                continue
            body = unpack(message.payload).message
            client = address.identity
            match body:
                case Submit():
                    self._submit(client, body)
                case Ask():
                    self.counts["asks"] += 1
                    self._tell(client, [self._known(task_id) for task_id in body.task_ids])
                case Withdraw():
                    for task_id in body.task_ids:
                        if self.open.pop(task_id, None) is not None:
                            self._end(client, task_id, OutcomeStatus.CANCELLED, b"cancelled")

    def _submit(self, client: str, message: Submit) -> None:
        self.counts["submits"] += 1
        if self.faults.drop_submits > 0:
            self.faults.drop_submits -= 1
            return
        refused: list[Outcome] = []
        fresh: list[tuple[bytes, Content]] = []
        for task in message.tasks:
            if task.task_id in self.ended:
                refused.append(self.ended[task.task_id])
            elif task.task_id in self.open:
                continue
            elif self.faults.refuse_full > 0:
                self.faults.refuse_full -= 1
                refused.append(
                    Outcome(
                        task.task_id,
                        OutcomeStatus.REJECTED,
                        ErrorCode.QUEUE_FULL,
                        b"full",
                        "",
                        0,
                        0,
                        0,
                    )
                )
            else:
                self.open[task.task_id] = message.model
                fresh.append((task.task_id, task.content))
        if self.faults.drop_accepted > 0:
            self.faults.drop_accepted -= 1
        else:
            self._publish(topics.CLIENT_ACCEPTED, client, Accepted((message.batch,)))
        if refused:
            self._tell(client, refused)
        if not self.faults.hold:
            for task_id, content in fresh:
                self._run(client, task_id, message.model, content)

    def _run(self, client: str, task_id: bytes, model: str, content: Content) -> None:
        self.runs[task_id] += 1
        self.open.pop(task_id, None)
        if self.faults.fail is not None:
            status, code, text = self.faults.fail
            self._end(client, task_id, status, text.encode(), code)
            return
        data = self.artefacts[content.sha256.hex()] if isinstance(content, Reference) else content
        inputs = decode_tensors(data)
        outputs = (
            {"y": inputs["x"] * np.float32(2)}  # type: ignore[operator]
            if model == "double"
            else {"sum": inputs["a"] + inputs["b"]}  # type: ignore[operator]
        )
        encoded = encode_tensors(outputs)
        answer: Content = encoded
        if len(encoded) > MAX_INLINE_CONTENT_BYTES:
            digest = hashlib.sha256(encoded).digest()
            self.artefacts[digest.hex()] = encoded
            answer = Reference(digest, len(encoded))
        self._end(client, task_id, OutcomeStatus.DONE, answer)

    def _end(
        self,
        client: str,
        task_id: bytes,
        status: OutcomeStatus,
        content: Content,
        code: ErrorCode = ErrorCode.NONE,
    ) -> None:
        outcome = Outcome(task_id, status, code, content, "pc-1", 1, 1000, 2000)
        self.ended[task_id] = outcome
        self._tell(client, [outcome])

    def _tell(self, client: str, outcomes: list[Outcome]) -> None:
        if self.faults.drop_outcomes > 0:
            self.faults.drop_outcomes -= 1
            return
        self._publish(topics.CLIENT_OUTCOME, client, Outcomes(tuple(outcomes)))

    def _known(self, task_id: bytes) -> Outcome:
        if task_id in self.ended:
            return self.ended[task_id]
        status = OutcomeStatus.OPEN if task_id in self.open else OutcomeStatus.UNKNOWN
        return Outcome(task_id, status, ErrorCode.NONE, b"", "", 0, 0, 0)

    # --- HTTP ------------------------------------------------------------------------------

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def guard(request: Request, call_next):  # type: ignore[no-untyped-def]
            self.counts[f"{request.method} {request.url.path.split('/')[2]}"] += 1
            if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
                return _error(401, "unauthorized", "a key is needed")
            return await call_next(request)

        @app.get("/api/mesh")
        async def mesh() -> dict[str, object]:
            return {
                "mesh": "home",
                "coordinator": "main",
                "epoch": self.epoch,
                "version": "0",
                "broker_url": self.broker_url,
                "websocket_url": None,
                "broker_connected": True,
                "max_input_bytes": self.max_input_bytes,
            }

        @app.get("/api/models")
        async def models() -> dict[str, object]:
            return {"models": self.models}

        @app.get("/api/tasks/{task_id}")
        async def task(task_id: str) -> Response:
            if bytes.fromhex(task_id) not in self.ended:
                return _error(404, "unknown_task", "no such task")
            history = [
                {"attempt": 1, "node": "pc-1", "code": "node_error", "reason": "it broke"},
                {"attempt": 2, "node": "pc-2", "code": "node_lost", "reason": "it left"},
            ]
            return JSONResponse({"task_id": task_id, "history": history})

        @app.api_route("/api/artefacts/{sha256}", methods=["GET", "HEAD"])
        async def get(sha256: str) -> Response:
            if sha256 not in self.artefacts:
                return _error(404, "unknown_artefact", "no such artefact")
            return Response(self.artefacts[sha256])

        @app.put("/api/artefacts/{sha256}")
        async def put(sha256: str, request: Request) -> Response:
            self.artefacts[sha256] = await request.body()
            return Response(status_code=201)

        return app


def _error(status: int, code: str, text: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": text}}, status_code=status)


@contextlib.contextmanager
def stand_in(directory: Path, key: str | None = None) -> Iterator[StandIn]:
    """A mesh that runs until the end of the block."""
    mesh = StandIn(directory, key)
    thread = threading.Thread(target=mesh.main, daemon=True)
    thread.start()
    assert mesh.started.wait(15)
    assert mesh.error is None, mesh.error
    try:
        yield mesh
    finally:
        assert mesh.loop is not None
        assert mesh.stop is not None
        mesh.loop.call_soon_threadsafe(mesh.stop.set)
        thread.join(10)
        assert not thread.is_alive()
