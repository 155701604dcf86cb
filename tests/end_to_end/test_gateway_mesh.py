"""`maille gateway` as a process, between a board on a pseudo terminal and a mesh of real processes."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from real_mesh import RealMesh, eventually, real_mesh

VECTORS = Path(__file__).parents[2] / "protocol" / "vectors" / "tiny.json"
NODE = "uno-05060708"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A container of one dense layer, two inputs and an output."""
    good = json.loads(VECTORS.read_text("utf-8"))["good"]
    found = next(vector for vector in good if vector["name"] == "dense_by_hand")
    path = tmp_path_factory.mktemp("model") / "dense.tiny"
    path.write_bytes(bytes.fromhex(found["hex"]))
    return path


class Board:
    """The board's process."""

    def __init__(self, *models: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "maille_simulator.boards.serial_board", *map(str, models)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.path = self._process.stdout.readline().strip()

    def reset(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("reset\n")
        self._process.stdin.flush()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def board(model: Path) -> Iterator[Board]:
    made = Board(model)
    yield made
    made.close()


@pytest.fixture
def mesh(tmp_path: Path, board: Board, model: Path) -> Iterator[RealMesh]:
    with real_mesh(tmp_path, "mosquitto", nodes=()) as running:
        with running.client() as client:
            client.models.add(model, name="dense")
        start_gateway(running, board)
        running.wait_for_state(NODE, "ready")
        yield running


def start_gateway(mesh: RealMesh, board: Board) -> None:
    arguments = ("gateway", "--url", mesh.http_url, "--port", board.path, "--id", "gw", "--json")
    mesh.launch("gateway", *arguments)


def run_dense(mesh: RealMesh, count: int = 1) -> None:
    with mesh.client() as client:
        inputs = {"x0": np.array([0x14, 0x05], np.uint8)}
        futures = [client.submit("dense", inputs) for _ in range(count)]
        for future in futures:
            future.result(60)


@pytest.mark.timeout(120)
def test_tasks_survive_resets_and_the_end_of_gateway_and_broker(
    mesh: RealMesh, board: Board
) -> None:
    nodes = mesh.get("/api/nodes")["nodes"]
    assert isinstance(nodes, list)
    by_name = {node["node"]: node for node in nodes}
    assert set(by_name) == {NODE, "gw"}
    info = by_name[NODE]["info"]
    assert (info["gateway"], info["kind"]) == ("gw", "arduino")
    # The gateway is a node of its own, which runs nothing.
    info = by_name["gw"]["info"]
    assert (by_name["gw"]["state"], info["kind"], info["slots"]) == ("ready", "gateway", 0)
    run_dense(mesh, 5)
    # Reset amid tasks.
    with mesh.client() as client:
        inputs = {"x0": np.array([0x14, 0x05], np.uint8)}
        futures = [client.submit("dense", inputs) for _ in range(20)]
        board.reset()
        for future in futures:
            future.result(60)
    # The gateway dies: its board is lost at once; another gateway brings it back.
    mesh.signal("gateway", signal.SIGKILL)
    mesh.wait_for_state(NODE, "lost", 3)
    mesh.wait_for_state("gw", "lost", 3)
    start_gateway(mesh, board)
    mesh.wait_for_state(NODE, "ready")
    run_dense(mesh, 2)
    # The broker dies and comes back.
    mesh.signal("broker", signal.SIGKILL)
    mesh.start_broker()
    run_dense(mesh, 2)
    mesh.wait_for_state(NODE, "ready")
    mesh.wait_for_state("gw", "ready")
    # The gateway leaves in order.
    mesh.signal("gateway", signal.SIGTERM)
    mesh.wait_for_state(NODE, "disconnected", 5)
    mesh.wait_for_state("gw", "disconnected", 5)


@pytest.mark.timeout(60)
def test_status_lines(mesh: RealMesh, board: Board) -> None:
    process = mesh.processes["gateway"]
    assert process.stdout is not None
    lines: list[dict[str, object]] = []

    def online() -> bool:
        assert process.stdout is not None
        lines.append(json.loads(process.stdout.readline()))
        ports = lines[-1]["ports"]
        assert isinstance(ports, list)
        return bool(ports) and ports[0]["state"] == "online"

    eventually(online, "the board is online in the gateway's lines")
    ports = lines[-1]["ports"]
    assert isinstance(ports, list)
    assert ports[0]["path"] == board.path
    assert ports[0]["node"] == NODE
    assert ports[0]["counters"]["sessions"] == 1
