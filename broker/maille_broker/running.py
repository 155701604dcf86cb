"""A broker that we started, whatever its kind, and what the starters share."""

import asyncio
import contextlib
import errno
import ipaddress
import os
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from maille_broker import packets
from maille_broker.connection import Connection
from maille_broker.counters import LinkCounters
from maille_broker.endpoint import Endpoint
from maille_broker.errors import BrokerConfigError, BrokerError, BrokerUnavailable, PortInUse
from maille_broker.process import ChildProcess

Kind = Literal["amqtt", "mosquitto", "nats"]
START_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files that make a started broker encrypt; `ca_file` is what clients have to trust.

    The certificate must name the host that clients use, on this machine `local_host(host)`.
    """

    certificate_file: Path
    key_file: Path
    ca_file: Path

    def check(self) -> None:
        """Raise BrokerConfigError unless all files can be read and fit together."""
        try:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca_file)
            context.load_cert_chain(self.certificate_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            raise BrokerConfigError(
                f"The broker's certificate {self.certificate_file} cannot be used with the key "
                f"{self.key_file} and the authority {self.ca_file}: {error}. "
                "Give three PEM files that belong together."
            ) from error


class RunningBroker:
    """A broker that listens; stop it with `stop` or by leaving `async with`.

    Attributes:
        kind: amqtt, mosquitto or nats.
        endpoint: for this machine, with the coordinator's credentials when there are any.
        websocket_url: for browsers on this machine, None without a WebSocket listener.
        pid: of its process, None when it runs inside this one.
    """

    def __init__(
        self,
        kind: Kind,
        endpoint: Endpoint,
        *,
        websocket_url: str | None,
        pid: int | None,
        stop: Callable[[], Awaitable[None]],
        ended: Callable[[], Awaitable[str]],
    ) -> None:
        self.kind = kind
        self.endpoint = endpoint
        self.websocket_url = websocket_url
        self.pid = pid
        self._stop = stop
        self._ended = ended
        self._stopped = False

    async def stop(self) -> None:
        """End the broker and wait until it is gone; a second call does nothing."""
        if not self._stopped:
            self._stopped = True
            await self._stop()

    async def wait_ended(self) -> str:
        """Wait until the broker ends by itself; what it said last."""
        return await self._ended()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def local_host(host: str) -> str:
    """The address at which this machine reaches a listener bound to `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104


def url_host(host: str) -> str:
    """`host` as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def free_port(host: str) -> int:
    """A TCP port that nothing listens on at this moment.

    Raises:
        BrokerConfigError: `host` is no address of this machine.
    """
    with _bound(host, 0) as listener:
        return int(listener.getsockname()[1])


def check_port(host: str, port: int) -> None:
    """Check that a listener can be bound.

    Raises:
        PortInUse: something listens there.
        BrokerConfigError: `host` is no address of this machine, or the port needs more rights.
    """
    _bound(host, port).close()


def _bound(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65_535:
        raise BrokerConfigError(f"{port} is no port. Use 1 to 65535, or 0 for any free one.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise BrokerConfigError(
            f"The broker cannot listen on '{host}': no such address ({error.strerror}). "
            "Use 127.0.0.1 for this machine only or 0.0.0.0 for all networks."
        ) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"Port {port} on {host} is in use by another program. Stop that program, choose "
                "another port, or use port 0 for any free one."
            ) from error
        if error.errno == errno.EACCES:
            raise BrokerConfigError(
                f"Port {port} needs administrator rights. Choose one from 1024 upwards."
            ) from error
        raise BrokerConfigError(
            f"The broker cannot listen on {host} port {port}: {error.strerror}. "
            "Use an address of this machine, or 127.0.0.1."
        ) from error
    return listener


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read, at no moment readable by others."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


async def try_login(endpoint: Endpoint, client_id: str, *, timeout_s: float) -> None:
    """Log in once and leave again.

    Raises:
        BrokerError: why that did not work.
    """
    loop = asyncio.get_running_loop()
    up = asyncio.Event()
    connection = Connection(
        endpoint,
        packets.encode_connect(
            client_id, keepalive_s=30, username=endpoint.username, password=endpoint.password
        ),
        subscriptions=(),
        keepalive_s=30,
        max_payload_bytes=1024,
        on_up=up.set,
        on_messages=lambda _: None,
        counters=LinkCounters(),
    )
    waiting = asyncio.create_task(up.wait())
    try:
        async with asyncio.timeout(timeout_s):
            await loop.create_connection(
                lambda: connection, endpoint.host, endpoint.port, ssl=endpoint.tls_context()
            )
            await asyncio.wait((waiting, connection.lost), return_when=asyncio.FIRST_COMPLETED)
            if connection.lost.done():
                raise connection.lost.result()
            connection.disconnect()
            await asyncio.wait((connection.lost,))
    except TimeoutError as error:
        raise BrokerUnavailable(
            f"{endpoint.host}:{endpoint.port} gave no MQTT answer within {timeout_s:g} s."
        ) from error
    except OSError as error:
        raise BrokerUnavailable(str(error)) from error
    finally:
        waiting.cancel()
        connection.fail(BrokerUnavailable("stopped"))


async def wait_until_ready(endpoint: Endpoint, child: ChildProcess, program: str) -> None:
    """Wait until a login succeeds; the child is stopped when it does not.

    Raises:
        BrokerConfigError: the program ended; the message has its last words.
        BrokerUnavailable: it runs and does not answer.
        BrokerRefused: it refuses our own login.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + START_TIMEOUT_S
    ended = asyncio.create_task(child.wait())
    try:
        while True:
            try:
                await try_login(endpoint, "maille-start", timeout_s=2.0)
            except BrokerUnavailable as error:
                if child.has_ended:
                    status = await ended
                    raise BrokerConfigError(
                        f"{program} ended at its start with status {status}. It said:\n"
                        f"{child.last_lines() or '(nothing)'}"
                    ) from error
                if loop.time() > deadline_s:
                    raise BrokerUnavailable(
                        f"{program} runs but does not answer on port {endpoint.port} after "
                        f"{START_TIMEOUT_S:g} s. It said:\n{child.last_lines() or '(nothing)'}"
                    ) from error
                await asyncio.wait((ended,), timeout=0.02)
            else:
                return
    except (BrokerError, asyncio.CancelledError):
        await child.stop()
        raise
    finally:
        ended.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ended
