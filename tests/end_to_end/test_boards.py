"""Boards in a real mesh: deploy, run, sense, power cuts, a coordinator that is killed.

The board is one in plain Python; the firmware of real ones is tried in tests/boards.
"""

import contextlib
import json
import select
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from real_mesh import RealMesh, eventually, real_mesh

import maille
from maille_protocol.tiny import decode_model, dequantise_outputs, quantise_inputs, run
from maille_simulator.boards.sample_models import dense_model, switch_model

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(120)]


def start_board(mesh: RealMesh, node: str, *options: str) -> None:
    log = (mesh.directory / f"{node}.log").open("ab")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "maille_simulator.boards.python_board_process"),
            *("--broker", mesh.broker_url, "--id", node),
            *("--flash", str(mesh.directory / f"{node}.flash"), *options),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        env=mesh.environment(),
    )
    log.close()
    mesh.processes[node] = process
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], 20)
    assert readable, mesh.log(node)
    assert process.stdout.readline(), mesh.log(node)


def maille_command(mesh: RealMesh, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "maille.cli", *arguments, "--url", mesh.http_url],
        capture_output=True,
        text=True,
        timeout=50,
        env=mesh.environment(),
    )


def post(mesh: RealMesh, body: dict[str, object]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{mesh.http_url}/api/tasks",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        found = json.load(error)
    return found


@contextlib.contextmanager
def mesh_with_board(
    directory: Path, kind: str, *options: str
) -> Iterator[tuple[RealMesh, maille.Mesh]]:
    with real_mesh(directory, kind, nodes=()) as mesh:
        start_board(mesh, "pico-1", *options)
        mesh.wait_for_state("pico-1", "ready")
        for name, data in (("switch", switch_model()), ("digits-tiny", dense_model(64, 10))):
            (directory / f"{name}.tiny").write_bytes(data)
        with mesh.client() as client:
            for name in ("switch", "digits-tiny"):
                client.models.add(directory / f"{name}.tiny")
            yield mesh, client


@pytest.mark.parametrize("kind", ["mosquitto", "nats", "amqtt"])
def test_a_tiny_model_on_a_board_and_on_a_pc_gives_the_same(tmp_path: Path, kind: str) -> None:
    with mesh_with_board(tmp_path, kind) as (mesh, client):
        image = np.random.default_rng(7).random((1, 64), np.float32)
        on_board = client.run_detailed("digits-tiny", image, target="pico-1")
        assert on_board.node == "pico-1"
        tiny = decode_model(dense_model(64, 10))
        inputs = quantise_inputs(tiny, {"x": image})
        wanted = dequantise_outputs(tiny, {"class": run(tiny, [inputs["x"]])[0]})["class"]
        assert on_board.outputs["class"].tolist() == wanted.tolist()
        mesh.start_node("n1")
        mesh.wait_for_state("n1", "ready")
        assert client.run("digits-tiny", image, target="n1")["class"].tolist() == wanted.tolist()
        images = np.random.default_rng(8).random((40, 64), np.float32)
        answers = list(client.map("digits-tiny", images))
        assert len(answers) == 40
        task = client.submit("digits-tiny", image)
        assert task.result(20)["class"].tolist() == wanted.tolist()
        assert client.result(task.id)["class"].tolist() == wanted.tolist()
        told = post(
            mesh,
            {"model": "switch", "inputs": [{"x": [0.1]}, {"x": [[0.9]]}], "target": "pico-1"},
        )
        assert [found["outputs"] for found in told["tasks"]] == [
            {"class": ["low"]},
            {"class": ["high"]},
        ]
        shown = mesh.get(f"/api/tasks/{told['tasks'][0]['task_id']}")
        assert shown["outputs"] == {"class": ["low"]}
        refused = post(mesh, {"model": "switch", "inputs": {"y": [0.1]}})
        assert refused["error"]["code"] == "input_name"
        assert "tiny" in {model.format for model in client.models.list()}


def test_deploy_survives_a_power_cut_and_a_killed_coordinator(tmp_path: Path) -> None:
    with mesh_with_board(tmp_path, "mosquitto", "--chunk-bytes", "8") as (mesh, client):
        model = client.boards.deploy("digits-tiny", "pico-1", wait=False)
        assert model.state in {"waiting", "sending"}
        eventually(
            lambda: (
                (found := client.boards.show("pico-1").model("digits-tiny")) is not None
                and found.received_bytes > 100
            ),
            "some chunks are there",
        )
        mesh.signal("pico-1", signal.SIGKILL)
        start_board(mesh, "pico-1", "--chunk-bytes", "64")
        mesh.signal("coordinator", signal.SIGKILL)
        mesh.start_coordinator()
        mesh.wait_for_state("pico-1", "ready")
        found = client.boards.deploy("digits-tiny", "pico-1", timeout_s=40)
        assert (found.state, found.wanted_by) == ("ready", "person")
        board = client.boards.show("pico-1")
        assert board.resets == 2
        assert board.kernels["dense"] > 0
        told = maille_command(mesh, "nodes")
        assert "digits-tiny:1" in told.stdout


def test_sense_goes_on_after_everything_was_restarted(tmp_path: Path) -> None:
    with mesh_with_board(tmp_path, "mosquitto") as (mesh, client):
        sense = client.senses.start("switch", "pico-1", "adc0", every_s=0.2, changes=True)
        watched = client.senses.watch(sense.id)
        classes = [
            reading.outputs and reading.outputs["class"]
            for reading, _ in zip(watched, range(4), strict=False)
        ]
        watched.close()
        assert classes in (
            [["high"], ["low"], ["high"], ["low"]],
            [["low"], ["high"], ["low"], ["high"]],
        )
        mesh.signal("pico-1", signal.SIGKILL)
        mesh.signal("coordinator", signal.SIGKILL)
        mesh.start_coordinator()
        start_board(mesh, "pico-1")
        mesh.wait_for_state("pico-1", "ready")
        eventually(lambda: client.senses.show(sense.id).readings >= 2, "it senses again", 30)
        (found,) = client.senses.list()
        assert (found.state, found.sensor, found.changes) == ("running", "adc0", True)
        assert client.senses.stop(sense.id).id == sense.id
        assert client.senses.list() == []
        with pytest.raises(maille.UnknownSense):
            client.senses.show(sense.id)


def test_the_commands(tmp_path: Path) -> None:
    with mesh_with_board(tmp_path, "mosquitto") as (mesh, client):
        deployed = maille_command(mesh, "deploy", "switch", "--on", "pico-1", "--json")
        assert deployed.returncode == 0, deployed.stderr
        assert json.loads(deployed.stdout)["state"] == "ready"
        ran = maille_command(mesh, "run", "switch", "-i", "[0.9]", "--on", "pico-1")
        assert ran.returncode == 0, ran.stderr
        assert "high" in ran.stdout
        started = maille_command(
            mesh, "sense", "switch", "--on", "pico-1", "--sensor", "adc0", "--every", "300ms"
        )
        assert started.returncode == 0, started.stderr
        assert "sense 1" in started.stdout
        eventually(lambda: bool(client.senses.readings(1)), "a reading")
        listed = maille_command(mesh, "sense", "--list")
        assert "running" in listed.stdout
        assert "class=" in maille_command(mesh, "sense", "--show", "1").stdout
        in_use = maille_command(mesh, "evict", "switch", "--on", "pico-1")
        assert in_use.returncode == 1
        assert "maille sense --stop 1" in in_use.stderr
        assert maille_command(mesh, "sense", "--stop", "1").returncode == 0
        evicted = maille_command(mesh, "evict", "switch", "--on", "pico-1")
        assert "gone from pico-1" in evicted.stdout, evicted.stderr
        assert client.boards.show("pico-1").models == ()
        measured = maille_command(mesh, "board", "calibrate", "pico-1", "--json")
        assert json.loads(measured.stdout)["kernels"] == {"dense": 1_000_001}
        shown = maille_command(mesh, "board", "show", "pico-1")
        assert "sensor  adc0" in shown.stdout
        assert "pico-1" in maille_command(mesh, "board", "list").stdout


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with mesh_with_board(tmp_path, "mosquitto", "--max-model-bytes", "1000") as (mesh, client):
        too_large = maille_command(mesh, "deploy", "digits-tiny", "--on", "pico-1")
        assert too_large.returncode == 1
        assert "pico-1 takes at most 1000" in too_large.stderr
        nobody = maille_command(mesh, "deploy", "switch", "--on", "pico-9")
        assert "no node is called 'pico-9'" in nobody.stderr.lower()
        no_sensor = maille_command(mesh, "sense", "switch", "--on", "pico-1", "--sensor", "gyro")
        assert "it has: adc0, adc1, pair" in no_sensor.stderr
        shape = maille_command(mesh, "sense", "switch", "--on", "pico-1", "--sensor", "pair")
        assert "gives 2 value(s), switch takes 1" in shape.stderr
        no_time = maille_command(
            mesh, "sense", "switch", "--on", "pico-1", "--sensor", "adc0", "--every", "soon"
        )
        assert (no_time.returncode, "500ms" in no_time.stderr) == (2, True)
        assert maille_command(mesh, "sense", "--stop", "77").returncode == 1
        with pytest.raises(maille.TaskFailed, match="takes at most 1000"):
            client.run("digits-tiny", np.zeros((1, 64), np.float32), target="pico-1")
        mesh.start_node("n1")
        mesh.wait_for_state("n1", "ready")
        pc = maille_command(mesh, "deploy", "switch", "--on", "n1")
        assert "fetches models by itself" in pc.stderr
        with pytest.raises(maille.InputError, match="shape"):
            client.run("switch", np.zeros((1, 3), np.float32))
