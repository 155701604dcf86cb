"""The board library on the real interpreter in a mesh with the real coordinator."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from board_mesh import Board
from board_models import classifier

import maille
from maille.cli.demo_boards import show_boards
from maille.digits import load_digits
from maille.local_mesh import LocalMesh
from maille_protocol.tiny import encode_model, quantise_inputs, run
from maille_simulator.boards.interpreter import find_micropython

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(120)]


async def until(condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.05)


def board_of(folder: Path, parts: LocalMesh) -> Board:
    port = int(parts.broker_url.rpartition(":")[2])
    readings = [[0.1] * 64, [0.9] * 64]
    sensors = {"camera": {"kind": "fake", "readings": readings}}
    return Board(folder, port, settings={"mesh": "local", "sensors": sensors})


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt", "nats"])
def test_deploy_run_sense_and_restarts(tmp_path: Path, kind: str) -> None:
    async def scenario() -> None:
        async with LocalMesh(tmp_path / "mesh", broker=kind, nodes=()) as parts:
            board = board_of(tmp_path / "board", parts)
            board.start()
            try:
                with maille.Mesh(parts.http_url) as mesh:
                    await asyncio.to_thread(work, mesh, board, parts)
                    await restarts(mesh, board, parts)
            finally:
                board.kill()

    def there(mesh: maille.Mesh) -> bool:
        return any(board.reachable for board in mesh.boards.list())

    def work(mesh: maille.Mesh, board: Board, parts: LocalMesh) -> None:
        deadline_s = time.monotonic() + 20
        while not there(mesh):
            assert time.monotonic() < deadline_s, board.log()
            time.sleep(0.05)
        model = classifier(3)
        file = tmp_path / "digits-tiny.tiny"
        file.write_bytes(encode_model(model))
        mesh.models.add(file)
        assert mesh.boards.deploy("digits-tiny", "pico-1", timeout_s=40).state == "ready"
        images = np.random.default_rng(5).random((30, 64), np.float32)
        wanted = []
        for image in images:
            inputs = quantise_inputs(model, {"x": image})
            wanted.append(int(run(model, [inputs["x"]])[0][0]))
        found = [
            int(answer["y"].ravel()[0])
            for answer in mesh.map("digits-tiny", [{"x": image} for image in images])
        ]
        assert found == wanted
        sense = mesh.senses.start("digits-tiny", "pico-1", "camera", every_s=0.2)
        watched = mesh.senses.watch(sense.id)
        first = next(watched)
        watched.close()
        assert first.outputs is not None
        shown = mesh.boards.show("pico-1")
        assert shown.kernels["dense"] > 0
        assert shown.sensors == ("camera",)

    async def restarts(mesh: maille.Mesh, board: Board, parts: LocalMesh) -> None:
        (sense,) = mesh.senses.list()
        board.kill()
        parts.kill("coordinator")
        await parts.restart("coordinator")
        board.start()
        await until(lambda: _readings(mesh, sense.id) >= 2, "it senses again")
        (found,) = mesh.boards.list()
        assert [(model.model, model.state) for model in found.models] == [("digits-tiny", "ready")]
        mesh.senses.stop(sense.id)
        mesh.boards.evict("digits-tiny", "pico-1")
        await until(lambda: mesh.boards.show("pico-1").models == (), "the model is gone")
        before = mesh.boards.show("pico-1").calibrated
        assert mesh.boards.calibrate("pico-1").calibrated == before + 1

    asyncio.run(scenario())


def _readings(mesh: maille.Mesh, sense: int) -> int:
    try:
        return mesh.senses.show(sense).readings
    except maille.MeshUnavailable:
        return 0


def test_the_demonstration_of_a_board() -> None:
    digits, _ = load_digits()
    said: list[str] = []
    figures = asyncio.run(show_boards(digits, find_micropython(), said.append))
    assert figures["board_equal"]
    accuracy = figures["board_accuracy"]
    assert isinstance(accuracy, float)
    assert accuracy > 0.95
    assert any("over the air" in line for line in said)
