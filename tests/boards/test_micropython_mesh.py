"""Boards on the real interpreter in a mesh with the real coordinator."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from board_coordinator import RealMesh, eventually, real_mesh
from board_mesh import Board
from board_models import classifier, random_input, sensor_model

from maille.cli.demo_boards import show_boards
from maille.digits import load_digits
from maille_protocol.tiny import encode_model, run
from maille_simulator.boards.interpreter import find_micropython

SENSORS = {"turning": {"kind": "fake", "readings": [[0.9, 0, 0, 0], [0, 0, 0.9, 0]]}}
MODEL = classifier(1)


@pytest.fixture(params=["amqtt", "mosquitto", "nats"])
def mesh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RealMesh]:
    with real_mesh(tmp_path, request.param) as running:
        yield running


def start_board(mesh: RealMesh, node: str = "pico-1", folder: str = "board") -> Board:
    made = Board(
        mesh.directory / folder, mesh.broker_port, node=node, settings={"sensors": SENSORS}
    )
    made.start()
    return made


def add_models(mesh: RealMesh) -> None:
    (mesh.directory / "digits.tiny").write_bytes(encode_model(MODEL))
    (mesh.directory / "highest.tiny").write_bytes(encode_model(sensor_model()))
    with mesh.client() as client:
        client.models.add(mesh.directory / "digits.tiny", name="digits-tiny")
        client.models.add(mesh.directory / "highest.tiny", name="highest")


def right(seed: int, answer: object) -> bool:
    (wanted,) = run(MODEL, [random_input(MODEL, seed)])
    return bool(np.array_equal(np.asarray(answer).ravel(), wanted))


@pytest.mark.end_to_end
@pytest.mark.timeout(180)
def test_join_deploy_infer_sense_and_every_restart(mesh: RealMesh) -> None:
    add_models(mesh)
    board = start_board(mesh)
    try:
        mesh.wait_ready("pico-1")
        assert mesh.deploy("pico-1", "digits-tiny")["state"] == "ready"
        with mesh.client() as client:

            def asked(seed: int) -> None:
                inputs = {"x": random_input(MODEL, seed)}
                answer = client.run_detailed("digits-tiny", inputs, target="pico-1")
                assert right(seed, answer.outputs["y"])
                assert answer.node == "pico-1"

            for seed in range(10):
                asked(seed)
            seeds = range(50, 80)
            found = client.map("digits-tiny", [{"x": random_input(MODEL, seed)} for seed in seeds])
            for seed, outputs in zip(seeds, found, strict=True):
                assert right(seed, outputs["y"])
            shown = client.boards.show("pico-1")
            assert shown.kernels["dense"] > 0
            assert shown.sensors == ("turning",)
            mesh.end("coordinator")
            mesh.start_coordinator()
            mesh.wait_ready("pico-1")
            asked(20)
            mesh.end("broker")
            mesh.start_broker()
            mesh.wait_ready("pico-1")
            asked(30)
            board.kill()
            board.start()
            eventually(lambda: mesh.board("pico-1").get("resets") == 2, "the board is back")
            mesh.wait_ready("pico-1")
            asked(40)
        sense = mesh.ask(
            "/api/senses",
            {"node": "pico-1", "model": "highest", "sensor": "turning", "interval_ms": 50},
        )["sense"]
        eventually(lambda: mesh.ask(f"/api/senses/{sense}")["readings"] >= 5, "readings come")
        latest = mesh.ask(f"/api/senses/{sense}")["latest"]
        assert latest["code"] == "none"
        assert np.ravel(latest["outputs"]["which"]).tolist() in ([0], [2])
        # The sense outlives the board: the coordinator wants it, so it starts again.
        board.kill()
        board.start()
        count = mesh.ask(f"/api/senses/{sense}")["readings"]
        eventually(lambda: mesh.ask(f"/api/senses/{sense}")["readings"] > count + 3, "again")
        # Nor do both at once end it.
        board.kill()
        mesh.end("coordinator")
        mesh.start_coordinator()
        board.start()
        eventually(lambda: mesh.ask(f"/api/senses/{sense}")["readings"] >= 2, "it senses again")
        with mesh.client() as client:
            models = {model.model: model.state for model in client.boards.show("pico-1").models}
            # A board holds one model; the sense's is the last that was wanted.
            assert models == {"highest": "ready"}
            first = next(client.senses.watch(sense))
            assert first.outputs is not None
            client.senses.stop(sense)
            eventually(lambda: client.senses.list() == [], "the sense is gone")
            client.boards.evict("highest", "pico-1")
            eventually(lambda: not client.boards.show("pico-1").models, "the model is gone")
            before = client.boards.show("pico-1").calibrated
            assert client.boards.calibrate("pico-1").calibrated == before + 1
    finally:
        board.kill()


@pytest.mark.end_to_end
@pytest.mark.timeout(120)
def test_the_demonstration_of_a_board() -> None:
    digits, _ = load_digits()
    said: list[str] = []
    figures = asyncio.run(show_boards(digits, find_micropython(), said.append))
    assert figures["board_equal"]
    accuracy = figures["board_accuracy"]
    assert isinstance(accuracy, float)
    assert accuracy > 0.95
    assert any("over the air" in line for line in said)


def _hurt(mesh: RealMesh, boards: list[Board], stop: threading.Event, log: list[str]) -> None:
    """Every kind of fault in turn until told to stop."""
    turn = 0
    while not stop.wait(0.7):
        kind = turn % 4
        board = boards[turn // 4 % len(boards)]
        if kind == 0:
            board.kill()
            board.start()
        elif kind == 1:
            board.pause()
            time.sleep(1.0)
            board.go_on()
        elif kind == 2 and turn % 8 == 2:
            mesh.end("coordinator")
            mesh.start_coordinator()
        elif kind == 3 and turn % 8 == 7:
            mesh.end("broker")
            mesh.start_broker()
        log.append(str(kind))
        turn += 1


def _soak(mesh: RealMesh, tasks: int, faults: int) -> None:
    """At least so many tasks on two boards during so many faults: each is answered, rightly, once."""
    add_models(mesh)
    boards = [start_board(mesh, node, node) for node in ("pico-1", "pico-2")]
    try:
        for board in boards:
            mesh.wait_ready(board.node)
            assert mesh.deploy(board.node, "digits-tiny")["state"] == "ready"
        stop, log = threading.Event(), list[str]()
        hurting = threading.Thread(target=_hurt, args=(mesh, boards, stop, log))
        done = 0
        with mesh.client() as client:
            hurting.start()
            try:
                while done < tasks or len(log) < faults:
                    seeds = range(done, done + 100)
                    answers = client.map(
                        "digits-tiny",
                        [{"x": random_input(MODEL, seed)} for seed in seeds],
                        deadline_s=120,
                    )
                    count = 0
                    for seed, answer in zip(seeds, answers, strict=True):
                        assert right(seed, answer["y"]), seed
                        count += 1
                    assert count == 100
                    done += count
            finally:
                stop.set()
                hurting.join()
        assert mesh.ask("/api/tasks?state=open")["tasks"] == []
    finally:
        for board in boards:
            board.kill()


@pytest.mark.end_to_end
@pytest.mark.timeout(180)
def test_two_thousand_tasks_with_faults(tmp_path: Path) -> None:
    with real_mesh(tmp_path, "mosquitto") as mesh:
        _soak(mesh, tasks=2000, faults=8)


@pytest.mark.end_to_end
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_thousand_tasks_with_faults(tmp_path: Path) -> None:
    with real_mesh(tmp_path, "mosquitto") as mesh:
        _soak(mesh, tasks=20_000, faults=120)


@pytest.mark.end_to_end
@pytest.mark.timeout(60)
def test_of_two_boards_with_one_id_the_newcomer_stays(tmp_path: Path) -> None:
    with real_mesh(tmp_path, "mosquitto") as mesh:
        add_models(mesh)
        board = start_board(mesh)
        twin = None
        try:
            mesh.wait_ready("pico-1")
            twin = start_board(mesh, folder="twin")
            eventually(lambda: not board.running or not twin.running, "one of them stops")
            winner, loser = (twin, board) if twin.running else (board, twin)
            assert "another node with this id" in loser.log()
            mesh.wait_ready("pico-1")
            assert mesh.deploy("pico-1", "digits-tiny")["state"] == "ready"
            with mesh.client() as client:
                answer = client.run("digits-tiny", {"x": random_input(MODEL, 3)}, target="pico-1")
                assert right(3, answer["y"])
            assert winner.running
        finally:
            board.kill()
            if twin is not None:
                twin.kill()
