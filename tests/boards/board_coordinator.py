"""The real broker and coordinator as processes, for boards' processes to join."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import maille

Answer = dict[str, Any]


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def eventually(condition: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
    """Wait for something that has no event to wait for."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


class RealMesh:
    """Broker and coordinator; both can be killed and started again."""

    def __init__(self, directory: Path, kind: str) -> None:
        self.directory = directory
        self.kind = kind
        self.broker_port = free_port()
        self.http_port = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def _launch(self, name: str, *arguments: str) -> None:
        home = self.directory / "home"
        (home / "run").mkdir(parents=True, exist_ok=True, mode=0o700)
        environment = {
            **os.environ,
            "HOME": str(home),
            "XDG_STATE_HOME": f"{home}/state",
            "XDG_CACHE_HOME": f"{home}/cache",
            "XDG_CONFIG_HOME": f"{home}/config",
            "XDG_RUNTIME_DIR": f"{home}/run",
        }
        with (self.directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "maille.cli", "-v", *arguments, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
            )
        assert process.stdout is not None
        self.processes[name] = process
        readable, _, _ = select.select([process.stdout], [], [], 30)
        line = process.stdout.readline() if readable else b""
        assert line, (self.directory / f"{name}.log").read_text(errors="replace")[-2000:]

    def start_broker(self) -> None:
        self._launch("broker", "broker", "--kind", self.kind, "--port", str(self.broker_port))

    def start_coordinator(self) -> None:
        self._launch(
            "coordinator",
            *("coordinator", "--broker", f"mqtt://127.0.0.1:{self.broker_port}", "--mesh", "test"),
            *("--http-port", str(self.http_port), "--no-advertise"),
        )

    def end(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End a process as a power cut does, or gently."""
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(20)
        if process.stdout is not None:
            process.stdout.close()

    def stop(self) -> None:
        for name in ("coordinator", "broker"):
            if name in self.processes:
                self.end(name, signal.SIGTERM)

    def ask(self, path: str, body: Answer | None = None, method: str | None = None) -> Answer:
        """JSON of the HTTP interface."""
        request = urllib.request.Request(
            f"{self.http_url}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                found: Answer = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.code} {error.read().decode()}") from error

    def board(self, node: str) -> Answer:
        """What the coordinator knows of a board; empty before it has joined."""
        found: list[Answer] = self.ask("/api/boards")["boards"]
        return next((board for board in found if board["node"] == node), {})

    def state(self, node: str) -> str | None:
        nodes: list[Answer] = self.ask("/api/nodes")["nodes"]
        return next((str(found["state"]) for found in nodes if found["node"] == node), None)

    def wait_ready(self, node: str) -> None:
        eventually(lambda: self.state(node) == "ready", f"{node} is ready")
        eventually(lambda: self.board(node).get("said"), f"{node} says what it is")

    def deploy(self, node: str, model: str) -> Answer:
        """Bring a model onto a board; how it ended."""
        self.ask(f"/api/boards/{node}/models", {"model": model})

        def placed() -> Answer:
            models: list[Answer] = self.board(node)["models"]
            return next((m for m in models if m["model"] == model), {})

        eventually(lambda: placed().get("state") in {"ready", "failed"}, f"{model} is delivered")
        return placed()

    def client(self) -> maille.Mesh:
        return maille.Mesh(self.http_url)


@contextlib.contextmanager
def real_mesh(directory: Path, kind: str) -> Iterator[RealMesh]:
    """A started broker and coordinator, ended whatever happens."""
    mesh = RealMesh(directory, kind)
    try:
        mesh.start_broker()
        mesh.start_coordinator()
        yield mesh
    finally:
        mesh.stop()
