"""A mesh of real processes, started with the `maille` command, and ways to hurt it."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import maille

START_TIMEOUT_S = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def eventually(condition: Callable[[], bool], what: str, timeout_s: float = 15.0) -> None:
    """Wait for something that has no event to wait for."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.02)


@dataclass
class RealMesh:
    """Broker, coordinator and nodes; each can be killed, stopped and started again."""

    directory: Path
    kind: str
    broker_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    extra_environment: dict[str, str] = field(default_factory=dict)

    @property
    def broker_url(self) -> str:
        return f"mqtt://127.0.0.1:{self.broker_port}"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def environment(self) -> dict[str, str]:
        home = str(self.directory / "home")
        return {
            **os.environ,
            "HOME": home,
            "XDG_STATE_HOME": f"{home}/state",
            "XDG_CACHE_HOME": f"{home}/cache",
            "XDG_CONFIG_HOME": f"{home}/config",
            "XDG_RUNTIME_DIR": f"{home}/run",
            **self.extra_environment,
        }

    def launch(self, name: str, *arguments: str, wait_for_line: bool = True) -> dict[str, object]:
        """Start `maille ...`; returns the JSON line that says it is ready."""
        # Others may not enter it, else it is not used and all meshes of this user share one.
        (self.directory / "home" / "run").mkdir(parents=True, exist_ok=True, mode=0o700)
        log = (self.directory / f"{name}.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "maille.cli", "-v", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if wait_for_line else log,
            stderr=log,
            env=self.environment(),
        )
        log.close()
        self.processes[name] = process
        if not wait_for_line:
            return {}
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
        line = process.stdout.readline() if readable else b""
        if not line:
            raise AssertionError(f"{name} did not start: {self.log(name)[-2000:]}")
        found: dict[str, object] = json.loads(line)
        return found

    def start_broker(self) -> None:
        self.launch(
            "broker",
            *("broker", "--kind", self.kind, "--port", str(self.broker_port), "--json"),
        )

    def start_coordinator(self, advertise: str = "--no-advertise") -> None:
        self.launch(
            "coordinator",
            *("coordinator", "--broker", self.broker_url, "--http-port", str(self.http_port)),
            *(advertise, "--json"),
        )

    def start_node(self, node: str, *options: str) -> None:
        self.launch(
            node,
            *("node", "--url", self.http_url, "--id", node),
            *("--cache-directory", str(self.directory / node / "cache")),
            *("--state-directory", str(self.directory / node / "state"), *options),
            wait_for_line=False,
        )

    def start(self, nodes: Sequence[str] = ("n1", "n2")) -> None:
        self.start_broker()
        self.start_coordinator()
        for node in nodes:
            self.start_node(node)
        for node in nodes:
            self.wait_for_state(node, "ready")

    def signal(self, name: str, number: signal.Signals) -> None:
        process = self.processes[name]
        process.send_signal(number)
        match number:
            case signal.SIGKILL | signal.SIGTERM:
                process.wait(START_TIMEOUT_S)
                if process.stdout is not None:
                    process.stdout.close()
                del self.processes[name]
            case signal.SIGSTOP:
                self.paused.add(name)
            case signal.SIGCONT:
                self.paused.discard(name)
            case _:
                pass

    def get(self, path: str) -> dict[str, object]:
        with urllib.request.urlopen(f"{self.http_url}{path}", timeout=10) as answer:
            found: dict[str, object] = json.load(answer)
            return found

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"{self.http_url}/metrics", timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(f"maille_{name} "):
                    return float(line.split()[1])
        raise AssertionError(f"no metric maille_{name}")

    def state(self, node: str) -> str | None:
        nodes = self.get("/api/nodes")["nodes"]
        assert isinstance(nodes, list)
        return next((str(found["state"]) for found in nodes if found["node"] == node), None)

    def wait_for_state(self, node: str, state: str, timeout_s: float = 20.0) -> None:
        eventually(lambda: self.state(node) == state, f"{node} is {state}", timeout_s)

    def client(self) -> maille.Mesh:
        return maille.Mesh(self.http_url)

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def stop(self) -> None:
        """End every process, nodes first, and make sure that none is left."""
        order = sorted(
            self.processes, key=lambda name: {"coordinator": 1, "broker": 2}.get(name, 0)
        )
        for name in order:
            process = self.processes[name]
            if name in self.paused:
                process.send_signal(signal.SIGCONT)
            process.terminate()
        for name in order:
            process = self.processes[name]
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
            if process.stdout is not None:
                process.stdout.close()


@contextlib.contextmanager
def real_mesh(
    directory: Path, kind: str, nodes: Sequence[str] = ("n1", "n2")
) -> Iterator[RealMesh]:
    """A started mesh, ended whatever happens."""
    mesh = RealMesh(directory, kind)
    try:
        mesh.start(nodes)
        yield mesh
    finally:
        mesh.stop()
