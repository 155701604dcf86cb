"""What the broker tests share: links that tell what happened, and a broker made of a script."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest

from maille_broker import BrokerError, Certificate, Endpoint, Link, Message, Will

KINDS: tuple[Literal["mosquitto", "nats", "amqtt"], ...] = ("mosquitto", "nats", "amqtt")
CREDENTIALS = {
    "coordinator": "coordinator-secret",
    "node": "node-secret",
    "client": "client-secret",
    "node/kitchen": "kitchen-secret",
}


class Station:
    """A link with everything that happened to it."""

    def __init__(
        self,
        endpoint: Endpoint,
        client_id: str,
        *filters: str,
        will: Will | None = None,
        qos: int = 0,
        keepalive_s: float = 15.0,
        max_payload_bytes: int = 48 * 1024,
    ) -> None:
        self.messages: list[Message] = []
        self.downs: list[str] = []
        self.calls = 0
        self._changed = asyncio.Event()
        self.link = Link(
            endpoint,
            client_id,
            subscriptions=[(text, qos) for text in filters],
            will=will,
            on_messages=self._take,
            on_up=self._changed.set,
            on_down=self._down,
            keepalive_s=keepalive_s,
            max_payload_bytes=max_payload_bytes,
        )
        self.task: asyncio.Task[None] | None = None

    def _take(self, messages: list[Message]) -> None:
        self.calls += 1
        self.messages += messages
        self._changed.set()

    def _down(self, reason: str) -> None:
        self.downs.append(reason)
        self._changed.set()

    async def until(self, condition: Callable[[], bool], timeout_s: float = 8.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_up(self) -> None:
        await self.until(lambda: self.link.counters.connects > 0)

    async def until_count(self, count: int) -> None:
        await self.until(lambda: len(self.messages) >= count)

    async def kill(self) -> None:
        """End without DISCONNECT, as a dead program does."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    def topics(self) -> list[str]:
        return [message.topic for message in self.messages]


@asynccontextmanager
async def stations(*members: Station) -> AsyncIterator[None]:
    """Run links for the length of a block; all are up at its start."""
    for member in members:
        member.task = asyncio.create_task(member.link.run(first_connect_timeout_s=8))
    try:
        for member in members:
            waiting = asyncio.create_task(member.until_up())
            assert member.task is not None
            await asyncio.wait((waiting, member.task), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if member.task.done():
                member.task.result()
        yield
    finally:
        for member in members:
            await member.link.close(0.3)
        await asyncio.gather(
            *(member.task for member in members if member.task), return_exceptions=True
        )


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def scripted_broker(
    *scripts: Script, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Endpoint]:
    """A TCP server: the n-th connection is served by the n-th script, later ones by the last."""
    count = 0
    running: set[asyncio.StreamWriter] = set()
    ended: list[asyncio.Future[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        script = scripts[min(count, len(scripts) - 1)]
        count += 1
        running.add(writer)
        end = asyncio.get_running_loop().create_future()
        ended.append(end)
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            running.discard(writer)
            writer.transport.abort()
            end.set_result(None)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for writer in list(running):
            writer.transport.abort()
        await asyncio.gather(*ended)
        await server.wait_closed()


async def accept_login(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, codes: Sequence[int] = (0,)
) -> None:
    """Answer CONNECT and one SUBSCRIBE."""
    await read_packet(reader)
    writer.write(b"\x20\x02\x00\x00")
    subscribe = await read_packet(reader)
    writer.write(b"\x90" + bytes([2 + len(codes)]) + subscribe[:2] + bytes(codes))


async def read_packet(reader: asyncio.StreamReader) -> bytes:
    """The body of the next packet."""
    await reader.readexactly(1)
    size = shift = 0
    while True:
        digit = (await reader.readexactly(1))[0]
        size |= (digit & 0x7F) << shift
        shift += 7
        if digit < 128:
            return await reader.readexactly(size)


async def outcome(link: Link, timeout_s: float) -> BrokerError:
    """Run a link that is expected to fail; its error."""
    try:
        await link.run(first_connect_timeout_s=timeout_s)
    except BrokerError as error:
        return error
    raise AssertionError("the link did not fail")


def make_certificate(directory: Path) -> Certificate:
    """A certificate for localhost and 127.0.0.1 that is its own authority."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 "
        f"-keyout {key} -out {certificate}".split(),
        check=True,
        capture_output=True,
    )
    return Certificate(certificate, key, certificate)


needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl is not installed; it makes the certificate"
)
