"""The parts of a mesh as processes of this machine: started, hurt, started again, ended."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from maille.children import maille_command, start_child, wait_for_http
from maille_broker import BrokerError, Endpoint
from maille_broker.process import ChildProcess
from maille_broker.running import free_port, try_login
from maille_simulator.errors import SimulatorError
from maille_simulator.real.clock import shifted_clock

MESH = "sim"
START_TIMEOUT_S = 30.0


class Parts:
    """Broker, coordinator and whatever else is started; `close` ends all of it.

    Args:
        folder: an empty folder.
        broker: its kind.
        coordinator_options: more of `maille coordinator`.
    """

    def __init__(
        self, folder: Path, broker: str, coordinator_options: tuple[str, ...] = ()
    ) -> None:
        self.folder = folder
        self.mqtt_port = free_port("127.0.0.1")
        self.http_port = free_port("127.0.0.1")
        self.clock_offset_s = 0.0
        """How far the wall clock of coordinators that are started from now on is off."""
        self._kind = broker
        self._coordinator_options = coordinator_options
        self._children: dict[str, ChildProcess] = {}
        self._starting: dict[str, asyncio.Future[ChildProcess]] = {}
        self._stopped: set[str] = set()

    @property
    def http_url(self) -> str:
        """The coordinator's HTTP API."""
        return f"http://127.0.0.1:{self.http_port}"

    def environment(self) -> dict[str, str]:
        """Nothing of the person's own meshes takes part."""
        return {
            "MAILLE_RUNTIME_DIRECTORY": str(self.folder / "runtime"),
            "MAILLE_CONFIG": os.devnull,
            "MAILLE_BROKER": f"mqtt://127.0.0.1:{self.mqtt_port}",
            "MAILLE_URL": self.http_url,
            "MAILLE_MESH": MESH,
            "MAILLE_KEY": "",
        }

    async def start_broker(self) -> None:
        """Start the broker and wait until it answers; SimulatorError."""
        child = await self.start(
            "broker",
            maille_command(
                *("broker", "--kind", self._kind, "--port", str(self.mqtt_port)),
                *("--state-directory", str(self.folder / "broker")),
            ),
        )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                await try_login(Endpoint("127.0.0.1", self.mqtt_port), "sim-start", timeout_s=2.0)
            except BrokerError as error:
                if child.has_ended or time.monotonic() > deadline_s:
                    text = f"the broker did not start: {child.last_lines()}"
                    raise SimulatorError(text) from error
                await asyncio.sleep(0.05)
            else:
                return

    async def start_coordinator(self) -> None:
        """Start the coordinator and wait until it answers; MailleError."""
        command = maille_command(
            *("coordinator", "--http-port", str(self.http_port), "--no-advertise"),
            *("--state-directory", str(self.folder / "coordinator")),
            *self._coordinator_options,
        )
        environment = {}
        if self.clock_offset_s:
            environment = await asyncio.to_thread(shifted_clock, self.clock_offset_s)
        child = await self.start("coordinator", command, environment)
        await wait_for_http(self.http_url, child, "coordinator")

    async def start(
        self, name: str, command: list[str], environment: Mapping[str, str] | None = None
    ) -> ChildProcess:
        """Start a program; one that runs under this name is ended first."""
        await self.kill(name)
        variables = {**self.environment(), **(environment or {})}
        starting = asyncio.ensure_future(start_child(name, command, variables))
        self._starting[name] = starting
        # Who is cancelled here still leaves a process behind, which `close` then ends.
        child = await asyncio.shield(starting)
        self._children[name] = child
        del self._starting[name]
        return child

    def runs(self, name: str) -> bool:
        """Whether a part is running."""
        child = self._children.get(name)
        return child is not None and not child.has_ended

    def process(self, name: str) -> psutil.Process:
        """To measure a part."""
        return psutil.Process(self._children[name].pid)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a part that runs."""
        if not self.runs(name):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._children[name].pid, number)
        if number is signal.SIGSTOP:
            self._stopped.add(name)
        elif number is signal.SIGCONT:
            self._stopped.discard(name)

    async def kill(self, name: str) -> None:
        """End a part as a power cut would, with the programs that it has started itself."""
        child = self._children.pop(name, None)
        if child is None:
            return
        self._stopped.discard(name)
        pids = [child.pid]
        with contextlib.suppress(psutil.Error):
            pids += [one.pid for one in psutil.Process(child.pid).children(recursive=True)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await child.stop()

    async def close(self) -> None:
        """End everything, the last started first; what was stopped goes on to be ended."""
        for name, starting in list(self._starting.items()):
            with contextlib.suppress(OSError):
                self._children[name] = await starting
        for name in list(self._stopped):
            self.signal(name, signal.SIGCONT)
        names = list(reversed(self._children))
        first = [name for name in names if name not in ("broker", "coordinator")]
        children = [self._children.pop(name) for name in first]
        await asyncio.gather(*(child.stop() for child in children))
        for name in ("coordinator", "broker"):
            found = self._children.pop(name, None)
            if found is not None:
                await found.stop()
