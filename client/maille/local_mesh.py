"""A whole mesh on this machine, for a while: broker, coordinator and nodes as child processes."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from maille.async_mesh import AsyncMesh
from maille.children import maille_command, start_child, wait_for_http
from maille.errors import MailleError
from maille_broker import BrokerError, Endpoint
from maille_broker.process import ChildProcess
from maille_broker.running import free_port, try_login

START_TIMEOUT_S = 20.0


class LocalMesh:
    """Its state lies in `folder`; nothing of the person's own meshes and settings takes part.

    Args:
        folder: an empty folder.
        broker: kind of broker to start.
        nodes: ids of the nodes to start.
        node_options: more options of `maille node` for each.
        coordinator_options: more options of `maille coordinator`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        broker: str,
        nodes: Sequence[str],
        node_options: Sequence[str] = (),
        coordinator_options: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.nodes = tuple(nodes)
        self.http_url = ""
        self.broker_url = ""
        self.started_after_s = 0.0
        self._broker = broker
        self._node_options = tuple(node_options)
        self._coordinator_options = tuple(coordinator_options)
        self._children: dict[str, ChildProcess] = {}
        self._arguments: dict[str, tuple[str, ...]] = {}
        self._environment: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        """Start everything.

        Raises:
            MailleError: says what did not start, with its last words.
        """
        try:
            await self._start_all()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def wait_for_nodes(self, mesh: AsyncMesh) -> None:
        """Wait until every node is ready.

        Raises:
            MailleError: one ended, or did not come in time.
        """
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            ready = {node.name for node in await mesh.nodes() if node.state == "ready"}
            if ready >= set(self.nodes):
                return
            for node in self.nodes:
                child = self._children[node]
                if child.has_ended:
                    raise MailleError(f"Node {node} ended at its start: {child.last_lines()}")
            if time.monotonic() > deadline_s:
                missing = ", ".join(sorted(set(self.nodes) - ready))
                raise MailleError(f"No word from {missing} after {START_TIMEOUT_S:g} s.")
            await asyncio.sleep(0.05)

    def pid(self, name: str) -> int:
        """Process id of "broker", "coordinator" or a node."""
        return self._children[name].pid

    def kill(self, name: str) -> None:
        """End a part as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._children[name].pid, signal.SIGKILL)

    async def restart(self, name: str) -> None:
        """Start a part again that was killed, as it was started first. Does not wait for it."""
        child = self._children.pop(name)
        await child.stop()
        await self._start(name, *self._arguments[name])

    async def stop(self) -> None:
        """End everything, the last started first."""
        while self._children:
            _, child = self._children.popitem()
            await child.stop()

    async def _start_all(self) -> None:
        started_s = time.monotonic()
        mqtt_port, http_port = free_port("127.0.0.1"), free_port("127.0.0.1")
        self.http_url = f"http://127.0.0.1:{http_port}"
        self.broker_url = f"mqtt://127.0.0.1:{mqtt_port}"
        self._environment = {
            "MAILLE_RUNTIME_DIRECTORY": str(self.folder / "runtime"),
            "MAILLE_CONFIG": os.devnull,
            "MAILLE_BROKER": self.broker_url,
            "MAILLE_URL": self.http_url,
            "MAILLE_MESH": "local",
            "MAILLE_KEY": "",
        }
        state = str(self.folder / "state")
        broker = await self._start(
            "broker",
            *("broker", "--kind", self._broker, "--port", str(mqtt_port)),
            *("--state-directory", state),
        )
        await _wait_for_broker(Endpoint("127.0.0.1", mqtt_port), broker)
        coordinator = await self._start(
            "coordinator",
            *("coordinator", "--http-port", str(http_port), "--no-advertise"),
            *("--state-directory", state, *self._coordinator_options),
        )
        await wait_for_http(self.http_url, coordinator, "coordinator")
        for node in self.nodes:
            await self._start(
                node,
                *("node", "--id", node, "--state-directory", str(self.folder / node)),
                *("--cache-directory", str(self.folder / node / "cache"), *self._node_options),
            )
        self.started_after_s = time.monotonic() - started_s

    async def _start(self, name: str, *arguments: str) -> ChildProcess:
        self._arguments[name] = arguments
        child = await start_child(name, maille_command(*arguments), self._environment)
        self._children[name] = child
        return child


async def _wait_for_broker(endpoint: Endpoint, child: ChildProcess) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            await try_login(endpoint, "maille-start", timeout_s=2.0)
        except BrokerError as error:
            if child.has_ended:
                await child.wait()
                raise MailleError(f"The broker ended at its start: {child.last_lines()}") from error
            if time.monotonic() > deadline_s:
                raise MailleError(
                    f"The broker does not answer after {START_TIMEOUT_S:g} s: {child.last_lines()}"
                ) from error
            await asyncio.sleep(0.05)
        else:
            return
