"""Runs a coordinator: broker link, HTTP server, announcements, signals."""

import asyncio
import contextlib
import gc
import importlib.metadata
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import uvicorn

from maille_broker import (
    Advertisement,
    BrokerConfigError,
    BrokerError,
    BrokerRefused,
    BrokerUnavailable,
    PortInUse,
    RuntimeRecord,
    is_loopback,
    lan_address,
    loop_factory,
    write_runtime_file,
)
from maille_coordinator.api import create_app
from maille_coordinator.models import ModelsError
from maille_coordinator.settings import CoordinatorSettings
from maille_coordinator.shell import AnotherCoordinator, Coordinator
from maille_coordinator.store import StoreError

logger = logging.getLogger(__name__)

FIRST_CONNECT_TIMEOUT_S = 15.0
EXIT_OK = 0
EXIT_FAILED = 1
EXIT_SETTINGS = 2
EXIT_REFUSED = 3
EXIT_UNREACHABLE = 4


class SettingsError(Exception):
    """Raised when the settings contradict each other; the text says what to change."""


class CoordinatorService:
    """One coordinator with its HTTP server, from start to stop."""

    def __init__(self, settings: CoordinatorSettings) -> None:
        if settings.key is None and not is_loopback(settings.http_host):
            raise SettingsError(
                f"the HTTP API would listen on {settings.http_host} without a key: anyone on the "
                "network could use the mesh. Set a key (MAILLE_KEY or --key-file), or listen on "
                "127.0.0.1."
            )
        try:
            settings.state_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise SettingsError(
                f"the state directory {settings.state_directory} cannot be used "
                f"({error.strerror}): make it writable, or give another one with "
                "--state-directory"
            ) from error
        self.settings = settings
        self.coordinator = Coordinator(settings, version=importlib.metadata.version("maille"))
        self.ready = asyncio.Event()
        """Set when the broker link and the HTTP server are up."""
        self._stop = asyncio.Event()

    @property
    def http_url(self) -> str:
        """Where the HTTP API is reached, once running."""
        return self.coordinator.http_url

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()

    async def run(self) -> None:
        """Serve until `stop`.

        Raises:
            StoreError, BrokerError, PortInUse, AnotherCoordinator: why it cannot start or go on.
        """
        settings = self.settings
        listener = bind(settings.http_host, settings.http_port)
        try:
            port = listener.getsockname()[1]
            self.coordinator.http_url = (
                settings.http_url or f"http://{_reachable(settings.http_host)}:{port}"
            )
            link = self.coordinator.open()
        except BaseException:
            listener.close()
            raise
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(
                        link.run(first_connect_timeout_s=FIRST_CONNECT_TIMEOUT_S),
                        name="coordinator link",
                    ),
                    group.create_task(self.coordinator.watch_for_stalls(), name="stall watch"),
                    group.create_task(self.coordinator.prune(), name="prune"),
                    group.create_task(self.coordinator.failure(), name="failure"),
                    group.create_task(self._serve_http(listener), name="http"),
                    group.create_task(self._announce(), name="announce"),
                ]
                await self._stop.wait()
                self.coordinator.announce(online=False)
                await link.close()
                for task in tasks:
                    task.cancel()
        except* (StoreError, BrokerError, AnotherCoordinator) as group_error:
            raise _first(group_error) from None
        finally:
            listener.close()
            self.coordinator.close()

    async def _serve_http(self, listener: socket.socket) -> None:
        hosts = [urlsplit(url).hostname for url in (self.settings.http_url,) if url is not None]
        app = create_app(
            self.coordinator,
            key=self.settings.key,
            hosts=[host for host in hosts if host] or None,
            max_task_body_bytes=self.settings.max_input_bytes,
            language=self.coordinator.language,
            boards=self.coordinator.boards,
        )
        config = uvicorn.Config(
            app,
            log_config=None,
            lifespan="off",
            access_log=False,
            # Open event streams must not hold up the end of the process.
            timeout_graceful_shutdown=1,
        )
        server = _Server(config)
        try:
            await server.serve(sockets=[listener])
        finally:
            server.should_exit = True

    async def _announce(self) -> None:
        """Once the broker is reached, tell this machine and the network where the mesh is."""
        await self.coordinator.connected.wait()
        self.ready.set()
        settings = self.settings
        described = self.coordinator.describe()
        async with contextlib.AsyncExitStack() as stack:
            if settings.runtime_directory is not None:
                username, password = settings.shared_login or (None, None)
                record = RuntimeRecord(
                    mesh=settings.mesh,
                    http_url=self.http_url,
                    broker_url=described.broker_url,
                    pid=os.getpid(),
                    username=username,
                    password=password,
                    token=settings.key,
                    ca_file=settings.endpoint.ca_file,
                )
                path = write_runtime_file(settings.runtime_directory, record)
                stack.callback(path.unlink, missing_ok=True)
            if settings.advertise:
                try:
                    await stack.enter_async_context(
                        Advertisement(settings.mesh, self.http_url, described.version)
                    )
                except BrokerUnavailable as error:
                    logger.warning("%s", error)  # found by address, then
            await asyncio.Event().wait()


class _Server(uvicorn.Server):
    """A server that leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        PortInUse: another program listens there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise PortInUse(
            f"the HTTP API cannot listen on {host}:{port} ({error.strerror}): another program, "
            "perhaps another coordinator, uses it. Stop that one, or choose another --http-port."
        ) from error
    listener.setblocking(False)
    return listener


def _reachable(host: str) -> str:
    """An address that other machines can use in place of "all interfaces"."""
    if host not in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return f"[{host}]" if ":" in host else host
    return lan_address()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def run_coordinator(
    settings: CoordinatorSettings, *, on_ready: Callable[[str], None] | None = None
) -> int:
    """Run a coordinator until SIGINT or SIGTERM; returns the process's exit status.

    Args:
        settings: what to run.
        on_ready: called with the HTTP URL when it serves.
    """

    async def main() -> None:
        service = CoordinatorService(settings)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, service.stop)

        async def tell() -> None:
            await service.ready.wait()
            if on_ready is not None:
                on_ready(service.http_url)

        teller = asyncio.create_task(tell(), name="ready")
        # What is there now stays: collections of garbage need not look at it again and again.
        gc.collect()
        gc.freeze()
        try:
            await service.run()
        finally:
            teller.cancel()

    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(main())
    except (SettingsError, StoreError, ModelsError, BrokerError, AnotherCoordinator) as error:
        sys.stderr.write(f"maille: {error}\n")
        return exit_status(error)
    return EXIT_OK


def exit_status(error: Exception) -> int:
    """The exit status that an error ends in; the same as those of the `maille` command."""
    match error:
        case SettingsError() | BrokerConfigError():
            return EXIT_SETTINGS
        case BrokerRefused():
            return EXIT_REFUSED
        case BrokerUnavailable():
            return EXIT_UNREACHABLE
        case _:
            return EXIT_FAILED
