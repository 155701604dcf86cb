"""MicroPython without a network behind the real gateway: the real interpreter on a pseudo terminal."""

import os
import random
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from real_mesh import RealMesh, eventually, real_mesh

from maille_protocol.tiny import Model, decode_model, run
from maille_simulator.boards.micropython_board import MicroPythonBoard
from maille_simulator.boards.sample_models import dense_model, switch_model

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(120)]

CONTAINER = dense_model(64, 10)
SENSORS = {"ramp": {"kind": "fake", "readings": [[0.1], [0.9]]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mesh")


@pytest.fixture(scope="module")
def board(folder: Path) -> Iterator[MicroPythonBoard]:
    settings = {"node": "pico", "serial": "usb", "sensors": SENSORS}
    with MicroPythonBoard(folder / "board", settings) as made:
        yield made


@pytest.fixture(scope="module")
def mesh(folder: Path, board: MicroPythonBoard) -> Iterator[RealMesh]:
    (folder / "switch.tiny").write_bytes(switch_model())
    (folder / "dense.tiny").write_bytes(CONTAINER)
    with real_mesh(folder, "mosquitto", nodes=()) as running:
        start_gateway(running, board)
        with running.client() as client:
            client.models.add(folder / "switch.tiny")
            client.models.add(folder / "dense.tiny", name="dense")
        yield running


def start_gateway(mesh: RealMesh, board: MicroPythonBoard) -> None:
    arguments = ("gateway", "--url", mesh.http_url, "--port", board.path, "--id", "gw", "--json")
    mesh.launch("gateway", *arguments)


def nodes(mesh: RealMesh, *, state: str = "ready") -> dict[str, dict[str, object]]:
    """Those of that state, by id."""
    found = mesh.get("/api/nodes")["nodes"]
    assert isinstance(found, list)
    return {str(node["node"]): node for node in found if node["state"] == state}


def behind(mesh: RealMesh) -> list[str]:
    """Ids of those that the gateway stands for."""
    return [name for name, node in nodes(mesh).items() if node["info"]["gateway"] == "gw"]  # type: ignore[index]


def joined(mesh: RealMesh) -> str:
    """The board's id, once it is there."""
    eventually(lambda: len(behind(mesh)) == 1, "the board is ready", 20)
    [name] = behind(mesh)
    return name


def expected(model: Model, image: np.typing.NDArray[np.float32]) -> int:
    """What NumPy makes of it."""
    whole = np.clip(np.round(image * 256), 0, 255).astype(np.uint8)
    return int(np.ravel(run(model, [whole])[0])[0])


def check_tasks(mesh: RealMesh, name: str, board: MicroPythonBoard | None = None) -> None:
    """Tasks give what NumPy gives, also if the board is reset amid them."""
    model = decode_model(CONTAINER)
    images = np.random.default_rng(3).random((30, 64), np.float32)
    with mesh.client() as client:
        futures = [client.submit("dense", image[np.newaxis], target=name) for image in images]
        if board is not None:
            futures[3].result(30)
            board.reset()
        found = [int(np.ravel(future.result(60)["class"])[0]) for future in futures]
    assert found == [expected(model, image) for image in images]
    assert len(set(found)) > 1


def labels(mesh: RealMesh, sense: int) -> set[str]:
    """What a sense has said so far."""
    with mesh.client() as client:
        seen = client.senses.readings(sense)
    return {str(np.asarray(one.outputs["class"]).ravel()[0]) for one in seen if one.outputs}


def test_a_board_says_the_same_with_and_without_a_network(
    mesh: RealMesh, board: MicroPythonBoard, tmp_path: Path
) -> None:
    joined(mesh)
    network = {"broker": mesh.broker_url, "name": "pico", "node": "wifi-pico", "sensors": SENSORS}
    with MicroPythonBoard(tmp_path / "network", network):
        mesh.wait_for_state("wifi-pico", "ready")
        both = nodes(mesh)
        both.pop("gw")
        infos = {key: dict(node["info"]) for key, node in both.items()}  # type: ignore[call-overload]
        over_wifi = infos.pop("wifi-pico")
        [behind_gateway] = infos.values()
        assert behind_gateway.pop("gateway") == "gw"
        assert over_wifi.pop("gateway") is None
        for info in (over_wifi, behind_gateway):
            # Measured, each time anew.
            for measured in ("multiply_accumulates_per_s", "memory_bytes", "disk_free_bytes"):
                assert info["measured"].pop(measured) > 0
        assert behind_gateway == over_wifi
        states = [dict(mesh.get(f"/api/boards/{name}")) for name in both]
        for state in states:
            del state["node"]
            kernels = state["kernels"]
            assert isinstance(kernels, list)
            assert all(kernel.pop("operations_per_s") > 0 for kernel in kernels)
            assert state.pop("free_memory_bytes") > 0  # type: ignore[operator]
        assert states[0] == states[1]


def test_a_board_without_a_network_does_what_the_others_do(
    mesh: RealMesh, board: MicroPythonBoard
) -> None:
    name = joined(mesh)
    with mesh.client() as client:
        client.boards.deploy("dense", name, timeout_s=40)
    check_tasks(mesh, name)
    # Its power fails amid tasks: the model is still there, nothing is lost.
    check_tasks(mesh, name, board)
    # Its gateway is killed; another one finds it as it was.
    mesh.signal("gateway", signal.SIGKILL)
    mesh.wait_for_state(name, "lost", 5)
    start_gateway(mesh, board)
    mesh.wait_for_state(name, "ready")
    check_tasks(mesh, name)
    # A model for its sensor takes the other one's place, and a reset does not end the sense.
    with mesh.client() as client:
        client.boards.deploy("switch", name, timeout_s=40)
        sense = client.senses.start("switch", name, "ramp", every_s=0.1)
        eventually(lambda: labels(mesh, sense.id) == {"low", "high"}, "both ends of the ramp", 20)
        board.reset()
        mark_ms = client.senses.readings(sense.id)[-1].at_unix_ms

        def goes_on() -> bool:
            return client.senses.readings(sense.id)[-1].at_unix_ms > mark_ms + 2000

        eventually(goes_on, "readings after the reset", 20)
        client.senses.stop(sense.id)


def ask_for_the_repl(board: MicroPythonBoard) -> bytes:
    """Do on the cable what mpremote does first; what the board says."""
    port = os.open(board.path, os.O_RDWR | os.O_NOCTTY)
    try:
        os.write(port, b"\r\x03")
        said = b""
        until_s = time.monotonic() + 10
        while b"stopped" not in said and time.monotonic() < until_s:
            if select.select([port], [], [], 0.2)[0]:
                said += os.read(port, 4096)
        return said
    finally:
        os.close(port)


def test_noise_on_the_line_costs_time_and_nothing_else(
    mesh: RealMesh, board: MicroPythonBoard
) -> None:
    name = joined(mesh)
    with mesh.client() as client:
        client.boards.deploy("switch", name, timeout_s=40)
        randomness = random.Random(5)
        values = [randomness.random() for _ in range(40)]
        futures = []
        for value in values:
            board.noise(randomness.randbytes(randomness.randrange(1, 200)))
            futures.append(client.submit("switch", np.array([[value]], np.float32), target=name))
        found = [str(np.ravel(future.result(60)["class"])[0]) for future in futures]
    assert found == ["high" if value > 0.5 else "low" for value in values]
    assert "Traceback" not in board.errors()


def test_a_tool_on_the_cable_gets_the_repl_once_the_gateway_is_gone(
    mesh: RealMesh, board: MicroPythonBoard
) -> None:
    name = joined(mesh)
    # With a gateway there it is noise.
    board.noise(b"\0\r\x03\0")
    mesh.wait_for_state(name, "ready")
    mesh.signal("gateway", signal.SIGTERM)
    said = ask_for_the_repl(board)
    assert b"stopped by hand" in said
    assert board.process is not None
    board.process.wait(10)
    assert "Traceback" not in board.errors()
