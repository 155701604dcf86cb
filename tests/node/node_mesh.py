"""A broker, an artefact server and a coordinator of a few lines, to run a node against."""

import asyncio
import contextlib
import hashlib
import http.server
import os
import secrets
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from maille_broker import Endpoint, Link, Message
from maille_protocol import (
    CoordinatorState,
    Envelope,
    Heartbeat,
    ModelFormat,
    ModelReference,
    NodeStatus,
    Offer,
    Offers,
    Result,
    Results,
    TaskFlag,
    pack,
    topics,
    unpack,
)
from maille_protocol.contents import Content
from maille_protocol.messages import Message as MeshMessage

MESH = "test"
MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def mosquitto(
    directory: Path, port: int, *, passwords: Path | None = None, rules: Sequence[str] = ()
) -> Iterator[Endpoint]:
    assert MOSQUITTO is not None
    lines = [f"listener {port} 127.0.0.1", "set_tcp_nodelay true", "max_queued_messages 100000"]
    if passwords is None:
        lines.append("allow_anonymous true")
    else:
        lines += ["allow_anonymous false", f"password_file {passwords}"]
    if rules:
        (directory / "rules").write_text("\n".join(rules) + "\n")
        (directory / "rules").chmod(0o600)
        lines.append(f"acl_file {directory / 'rules'}")
    if os.geteuid() == 0:
        # Else it becomes a user who may not read the files of a test.
        lines.append("user root")
    configuration = directory / f"mosquitto-{port}.conf"
    configuration.write_text("\n".join(lines) + "\n")
    process = subprocess.Popen(
        [MOSQUITTO, "-c", str(configuration)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end_s = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, "mosquitto did not start"
                assert time.monotonic() < end_s
                time.sleep(0.01)
        yield Endpoint("127.0.0.1", port)
    finally:
        process.kill()
        process.wait()


class ArtefactServer:
    """Artefacts over HTTP with ranges, and the faults a test asks for."""

    def __init__(self, key: str | None = None) -> None:
        self.key = key
        self.artefacts: dict[bytes, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        """(method, Range header) of each request."""
        self.cut_after: list[int] = []
        """For each coming GET: bytes of the body after which the connection is cut."""
        self.serve_instead: list[bytes] = []
        """For each coming GET: other bytes than asked for."""
        self.ranges = True
        self.put_status: list[int] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_arguments: object) -> None:
                return

            def do_GET(self) -> None:
                outer._get(self)

            def do_PUT(self) -> None:
                outer._put(self)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(0.01))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, data: bytes) -> bytes:
        sha256 = hashlib.sha256(data).digest()
        self.artefacts[sha256] = data
        return sha256

    def _allowed(self, request: http.server.BaseHTTPRequestHandler) -> bool:
        self.requests.append((request.command, request.headers.get("Range", "")))
        if self.key is None or request.headers.get("Authorization") == f"Bearer {self.key}":
            return True
        request.send_error(401)
        return False

    def _get(self, request: http.server.BaseHTTPRequestHandler) -> None:
        if not self._allowed(request):
            return
        data = self.artefacts.get(bytes.fromhex(request.path.rsplit("/", 1)[1]))
        if self.serve_instead:
            data = self.serve_instead.pop(0)
        if data is None:
            request.send_error(404)
            return
        start = 0
        wanted = request.headers.get("Range")
        if wanted and self.ranges:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            if start >= len(data):
                request.send_error(416)
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            request.send_response(200)
        body = data[start:]
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if self.cut_after:
            request.wfile.write(body[: self.cut_after.pop(0)])
            request.close_connection = True
            return
        request.wfile.write(body)

    def _put(self, request: http.server.BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        if not self._allowed(request):
            return
        status = self.put_status.pop(0) if self.put_status else 201
        if status == 201:
            sha256 = bytes.fromhex(request.path.rsplit("/", 1)[1])
            assert hashlib.sha256(body).digest() == sha256
            self.artefacts[sha256] = body
        request.send_response(status)
        request.send_header("Content-Length", "0")
        request.end_headers()


@dataclass
class FakeCoordinator:
    """Sends what a test wants sent, keeps what a node says."""

    link: Link
    node: str
    http_url: str
    hears_all: bool = True
    """False: only `node` is heard, and not its gateway, say."""
    epoch: int = 1
    seq: int = 0
    statuses: list[tuple[int, NodeStatus]] = field(default_factory=list)
    """(boot, status) in the order of arrival."""
    heartbeats: list[Heartbeat] = field(default_factory=list)
    results: dict[bytes, list[Result]] = field(default_factory=dict)
    envelopes: list[Envelope] = field(default_factory=list)
    on_result: Callable[[Result], None] | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def received(self, messages: list[Message]) -> None:
        for message in messages:
            if not message.payload:
                continue
            if not self.hears_all and f"/n/{self.node}/" not in message.topic:
                continue
            envelope = unpack(message.payload)
            self.envelopes.append(envelope)
            match envelope.message:
                case NodeStatus() as status:
                    self.statuses.append((envelope.boot, status))
                case Heartbeat() as heartbeat:
                    self.heartbeats.append(heartbeat)
                case Results(results=results):
                    for result in results:
                        self.results.setdefault(result.task_id, []).append(result)
                        if self.on_result is not None:
                            self.on_result(result)
        self._changed.set()

    async def until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    # Some conditions change without a message: the link's, a node's inside.
                    await asyncio.wait_for(self._changed.wait(), 0.05)

    def announce(self, *, online: bool = True) -> None:
        self.send(topics.COORDINATOR, CoordinatorState(online, self.http_url), name="c1")

    def send(
        self,
        topic: topics.Topic,
        message: MeshMessage,
        *,
        epoch: int | None = None,
        name: str | None = None,
        seq: int | None = None,
    ) -> None:
        self.seq += 1
        epoch = self.epoch if epoch is None else epoch
        payload = pack(message, boot=1, seq=seq or self.seq, epoch=epoch)
        where = topic.on(MESH, name or self.node)
        assert self.link.publish(where, payload, qos=topic.qos, retain=topic.retain)

    @property
    def boot(self) -> int:
        """Of the process that said its state last."""
        return self.statuses[-1][0]

    def offer(
        self,
        model: ModelReference,
        contents: Sequence[Content],
        *,
        remaining_ms: int = 60_000,
        epoch: int | None = None,
        flags: int = 0,
    ) -> list[bytes]:
        ids = [secrets.token_bytes(16) for _ in contents]
        once = flags & TaskFlag.AT_MOST_ONCE
        self.send(
            topics.NODE_TASK,
            Offers(
                model,
                tuple(
                    Offer(task_id, 1, remaining_ms, flags, content, self.boot if once else 0)
                    for task_id, content in zip(ids, contents, strict=True)
                ),
            ),
            epoch=epoch,
        )
        return ids

    async def answers(self, ids: Sequence[bytes], timeout_s: float = 10.0) -> list[Result]:
        await self.until(lambda: all(task_id in self.results for task_id in ids), timeout_s)
        return [self.results[task_id][-1] for task_id in ids]

    async def ready(self) -> None:
        await self.until(lambda: bool(self.statuses) and self.statuses[-1][1].state.name == "READY")


@contextlib.asynccontextmanager
async def coordinator(
    endpoint: Endpoint, node: str, http_url: str, *, hears_all: bool = True
) -> AsyncIterator[FakeCoordinator]:
    up = asyncio.Event()
    made: list[FakeCoordinator] = []

    def heard(messages: list[Message]) -> None:
        made[0].received(messages)

    def came_up() -> None:
        if made:
            made[0].announce()
        up.set()

    link = Link(
        endpoint,
        f"coordinator-{secrets.token_hex(4)}",
        subscriptions=topics.coordinator_subscriptions(MESH),
        on_messages=heard,
        on_up=came_up,
    )
    made.append(FakeCoordinator(link, node, http_url, hears_all=hears_all))
    running = asyncio.create_task(link.run())
    try:
        async with asyncio.timeout(10):
            await up.wait()
        yield made[0]
    finally:
        await link.close()
        await asyncio.gather(running, return_exceptions=True)


def reference(data: bytes, name: str = "model") -> ModelReference:
    return ModelReference(name, 1, hashlib.sha256(data).digest(), len(data), ModelFormat.ONNX)
