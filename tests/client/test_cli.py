"""The `maille` command against a mesh of real processes: broker, coordinator, node."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import psutil
import pytest
from typer.testing import CliRunner, Result

import maille
from maille.cli import app

pytestmark = [pytest.mark.broker, pytest.mark.end_to_end, pytest.mark.timeout(60)]

RUNNER = CliRunner()
COMMAND = [sys.executable, "-m", "maille.cli"]


@dataclass
class Up:
    """A running `maille up`."""

    process: subprocess.Popen[str]
    environment: dict[str, str]
    http_url: str
    pids: dict[str, int]
    directory: Path

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(15)


def environment(directory: Path) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAILLE_")}
    return own | {
        "MAILLE_RUNTIME_DIRECTORY": str(directory / "runtime"),
        "MAILLE_CONFIG": os.devnull,
        "XDG_STATE_HOME": str(directory / "state"),
        "XDG_CACHE_HOME": str(directory / "cache"),
    }


@contextlib.contextmanager
def running(directory: Path, *flags: str) -> Iterator[Up]:
    with subprocess.Popen(
        [*COMMAND, "up", "--json", "--no-advertise", "--port", "0", "--http-port", "0", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(directory),
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            line = process.stdout.readline()
            assert line, process.stderr.read()
            told = json.loads(line)
            yield Up(process, environment(directory), told["http_url"], told["pids"], directory)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait(15)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("up"), "--broker", "mosquitto") as up:
        with maille.Mesh(up.http_url) as opened:
            deadline = time.monotonic() + 15
            while not any(node.state == "ready" for node in opened.nodes()):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            opened.models.add(affine_model(up.directory), "affine")
        yield up


def affine_model(directory: Path) -> Path:
    """y = 2x + 1, for float32 [batch, 2]."""
    helper = onnx.helper
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "two"], ["doubled"]),
            helper.make_node("Add", ["doubled", "one"], ["y"]),
        ],
        "affine",
        [helper.make_tensor_value_info("x", float32, ["batch", 2])],
        [helper.make_tensor_value_info("y", float32, ["batch", 2])],
        [
            helper.make_tensor("two", float32, [], [2.0]),
            helper.make_tensor("one", float32, [], [1.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path = directory / "affine.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(autouse=True)
def _towards_the_mesh(mesh: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in mesh.environment.items():
        if name.startswith(("MAILLE_", "XDG_")):
            monkeypatch.setenv(name, value)


def call(*arguments: str, expect: int = 0, stdin: bytes | None = None) -> Result:
    result = RUNNER.invoke(app, list(arguments), input=stdin)
    assert result.exit_code == expect, result.output
    return result


def test_nodes_are_found_without_an_address() -> None:
    (node,) = json.loads(call("nodes", "--json").stdout)
    assert node["state"] == "ready"
    assert node["kind"] == "pc"
    assert node["multiply_accumulates_per_s"] > 0
    table = call("nodes").stdout
    assert node["name"] in table
    assert "MAC/s" in table


def test_nodes_can_be_watched_until_ctrl_c(mesh: Up) -> None:
    with subprocess.Popen(
        [*COMMAND, "nodes", "--watch", "--json"],
        env=mesh.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for _ in range(2):
            assert json.loads(process.stdout.readline())[0]["state"] == "ready"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


def test_models_come_and_go(mesh: Up) -> None:
    path = affine_model(mesh.directory)
    added = call("models", "add", str(path), "--name", "twice", "--description", "two of it")
    assert "twice version 1" in added.stdout
    assert "float32[batch, 2]" in added.stdout
    assert "two of it" in added.stdout
    names = [model["name"] for model in json.loads(call("models", "list", "--json").stdout)]
    assert names == ["affine", "twice"]
    assert "twice" in call("models", "list").stdout
    shown = json.loads(call("models", "show", "twice", "--json").stdout)
    assert shown["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 2]}]
    call("models", "remove", "twice")
    gone = call("models", "show", "twice", expect=1)
    assert "No model is called 'twice'" in gone.stderr


def test_a_file_that_is_no_model_is_refused(mesh: Up, tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"this is no model")
    assert "ONNX" in call("models", "add", str(bad), expect=1).stderr
    missing = call("models", "add", str(tmp_path / "none.onnx"), expect=1)
    assert "cannot be read" in missing.stderr
    error = json.loads(call("models", "add", str(bad), "--json", expect=1).stderr)
    assert error["error"]["kind"] == "ModelRejected"


def test_run_takes_literals_files_and_standard_input(tmp_path: Path) -> None:
    x = np.array([[1, 2]], np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    (tmp_path / "x.json").write_text("[[1, 2]]")
    raw = io.BytesIO()
    np.save(raw, x)
    for text in (
        "[[1, 2]]",
        "x=[[1, 2]]",
        str(tmp_path / "x.npy"),
        f"x={tmp_path / 'x.npy'}",
        str(tmp_path / "x.npz"),
        str(tmp_path / "x.json"),
        '{"x": [[1, 2]]}',
    ):
        answer = json.loads(call("run", "affine", "-i", text, "--json").stdout)
        assert answer["outputs"] == {"y": [[3.0, 5.0]]}, text
    answer = json.loads(call("run", "affine", "-i", "-", "--json", stdin=raw.getvalue()).stdout)
    assert answer["outputs"] == {"y": [[3.0, 5.0]]}
    told = call("run", "affine", "-i", "[[1, 2]]")
    assert "[[3. 5.]]" in told.stdout
    assert "in the model" in told.stderr
    call("run", "affine", "-i", "[[1, 2]]", "-o", str(tmp_path / "y.npz"))
    with np.load(tmp_path / "y.npz") as saved:
        assert saved["y"].tolist() == [[3.0, 5.0]]


def test_casting_is_done_only_when_asked_for(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[1.0, 2.0]]))
    refused = call("run", "affine", "-i", str(tmp_path / "x.npy"), expect=1)
    assert "float64, the model takes float32" in refused.stderr
    call("run", "affine", "-i", str(tmp_path / "x.npy"), "--cast")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["run", "affin", "-i", "1"], 1, "did you mean affine"),
        (["run", "affine", "-i", "[[1, 2, 3]]"], 1, "shape [1, 3]"),
        (["run", "affine", "-i", "z=[[1, 2]]"], 1, "no input is called 'z'"),
        (["run", "affine", "-i", "[[1, 2]"], 1, "is not JSON"),
        (["run", "affine", "-i", "none.npy"], 1, "cannot be read"),
        (["run", "affine", "-i", "what"], 2, "no .npy, .npz or .json file"),
        (["run", "affine", "-i", "[[1, 2]]", "--node", "nobody"], 1, "nobody"),
        (["run", "affine", "-i", "[[1, 2]]", "--deadline", "0"], 2, "deadline_s"),
        (["run", "affine"], 2, "--input"),
        (["map", "affine", "-i", "data.txt"], 2, "not read"),
        (["tasks", "show", "12"], 2, "no task id"),
        (["tasks", "show", "00" * 16], 1, "No task"),
        (["node", "drain", "nobody"], 1, "nobody"),
        (["node", "forget", "nobody"], 1, "nobody"),
        (["node", "--url", "http://127.0.0.1:9"], 4, "cannot be reached"),
        (["nodes", "--url", "ftp://x"], 4, "is no address"),
        (["nodes", "--mesh", "other", "--url", "http://127.0.0.1:9"], 4, "cannot be reached"),
        (["coordinator", "--journal-sync", "maybe"], 2, "choose normal or full"),
        (["coordinator", "--broker", "http://x"], 2, "mqtt://"),
        (["broker", "--kind", "other"], 2, "Choose auto, amqtt, mosquitto"),
        (["broker", "--kind", "amqtt", "--host", "0.0.0.0"], 2, "amqtt is only for this machine"),
        (["node", "--id", "Not An Id"], 2, "cannot stand in a topic"),
        (["doctor", "mqtt://127.0.0.1:9"], 4, "127.0.0.1:9"),
    ],
)
def test_errors_name_the_cause_and_the_next_step(
    arguments: list[str], code: int, told: str
) -> None:
    result = call(*arguments, expect=code)
    assert told in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_map_reads_and_writes_files(tmp_path: Path) -> None:
    whole = np.arange(40, dtype=np.float32).reshape(20, 2)
    np.save(tmp_path / "x.npy", whole)
    out = tmp_path / "y.npz"
    told = call("map", "affine", "-i", str(tmp_path / "x.npy"), "-o", str(out), "--rows", "3")
    assert "7 of 7" in told.stderr
    with np.load(out) as saved:
        assert np.array_equal(saved["y"], whole * 2 + 1)
    np.savetxt(tmp_path / "x.csv", whole, delimiter=",", header="a,b", comments="")
    lines = call("map", "affine", "-i", str(tmp_path / "x.csv"), "-q").stdout.splitlines()
    assert len(lines) == 20
    assert json.loads(lines[3])["outputs"]["y"] == [[13.0, 15.0]]


def test_map_of_json_lines_goes_on_after_a_failure(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('[[1, 2]]\n{"x": [[3, 4]]}\n')
    told = call("map", "affine", "-i", str(tmp_path / "x.jsonl"), "-o", str(tmp_path / "y.jsonl"))
    assert "2: " in told.stderr
    lines = (tmp_path / "y.jsonl").read_text().splitlines()
    assert [json.loads(line)["outputs"]["y"] for line in lines] == [[[3.0, 5.0]], [[7.0, 9.0]]]
    (tmp_path / "bad.jsonl").write_text("[[1, 2]]\n[[1, 2\n")
    assert "bad.jsonl, line 2" in call(
        "map", "affine", "-i", str(tmp_path / "bad.jsonl"), expect=1
    ).stderr.replace("\n", " ")


def test_tasks_are_listed_and_shown() -> None:
    answer = json.loads(call("run", "affine", "-i", "[[1, 2]]", "--json").stdout)
    listed = json.loads(call("tasks", "list", "--json", "--limit", "5").stdout)
    assert answer["task_id"] in [task["task_id"] for task in listed]
    assert "affine:1" in call("tasks", "list", "--limit", "5").stdout
    assert "state: done" in call("tasks", "show", answer["task_id"]).stdout
    shown = json.loads(call("tasks", "show", answer["task_id"], "--json").stdout)
    assert shown["state"] == "done"


def test_a_node_is_drained_and_resumed_and_a_waiting_task_cancelled(mesh: Up) -> None:
    (node,) = json.loads(call("nodes", "--json").stdout)
    call("node", "drain", node["name"])

    def wait_for(state: str) -> None:
        deadline = time.monotonic() + 10
        while json.loads(call("nodes", "--json").stdout)[0]["state"] != state:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    wait_for("draining")
    with maille.Mesh(mesh.http_url) as opened:
        task = opened.submit("affine", [[1, 2]])
        call("tasks", "cancel", task.id)
        with pytest.raises(maille.TaskCancelled):
            task.result(10)
        waiting = opened.submit("affine", [[1, 2]])
        call("node", "resume", node["name"])
        wait_for("ready")
        assert waiting.result(10)["y"].tolist() == [[3.0, 5.0]]
    assert "stop it first" in call("node", "forget", node["name"], expect=1).stderr


def test_doctor_finds_the_broker_and_calls_it_good() -> None:
    told = json.loads(call("doctor", "--json").stdout)
    assert told["broker"]["verdict"] in {"good", "usable"}
    assert told["installed"]["maille"]


def test_version_help_and_completion() -> None:
    assert call("--version").stdout.startswith("maille ")
    told = call("--help").stdout
    for command in ("up", "broker", "coordinator", "node", "nodes", "models", "run", "map",
                    "tasks", "doctor", "demo", "bench"):  # fmt: skip
        assert f" {command} " in told
    assert "Exit codes" in told
    # Completion is made for the shell that asks; "; true" keeps bash alive as the one.
    asked = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m maille.cli --show-completion; true"],
        capture_output=True,
        text=True,
    )
    assert "complete" in asked.stdout, asked.stderr


def test_up_ends_everything_on_ctrl_c(tmp_path: Path) -> None:
    with running(tmp_path, "--broker", "mosquitto", "--mesh", "garden") as up:
        assert set(up.pids) == {"coordinator", "node"}
        family = psutil.Process(up.process.pid).children(recursive=True)
        assert len(family) >= 3
        for process in family:
            assert "MAILLE_KEY" not in " ".join(process.cmdline())
        assert up.stop() == 0
        _, alive = psutil.wait_procs(family, timeout=5)
        assert not alive
        assert not list((tmp_path / "runtime").glob("*.json"))


def test_up_says_which_part_ended(tmp_path: Path) -> None:
    with running(tmp_path, "--broker", "mosquitto") as up:
        os.kill(up.pids["node"], signal.SIGKILL)
        assert up.process.wait(15) == 1
        assert up.process.stderr is not None
        assert "The node has ended" in up.process.stderr.read()


def test_up_refuses_a_port_in_use(mesh: Up, tmp_path: Path) -> None:
    port = mesh.http_url.rpartition(":")[2]
    result = subprocess.run(
        [*COMMAND, "up", "--http-port", port, "--port", "0", "--no-advertise"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 2
    assert f"Port {port} is in use" in result.stderr


@pytest.mark.parametrize("broker", ["mosquitto", "nats"])
def test_up_on_the_lan_makes_a_private_key_that_opens_the_mesh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broker: str
) -> None:
    with running(tmp_path, "--broker", broker, "--lan") as up:
        file = tmp_path / "state" / "maille" / "home" / "key"
        assert file.stat().st_mode & 0o777 == 0o600
        key = file.read_text().strip()
        assert len(key) >= 16
        monkeypatch.setenv("MAILLE_RUNTIME_DIRECTORY", str(tmp_path / "elsewhere"))
        closed = call("nodes", "--url", up.http_url, expect=3)
        assert "MAILLE_KEY" in closed.stderr
        second = subprocess.Popen(
            [*COMMAND, "node", "--id", "second", "--state-directory", str(tmp_path / "second")],
            env=environment(tmp_path) | {"MAILLE_URL": up.http_url, "MAILLE_KEY": key},
            stderr=subprocess.PIPE,
        )
        with second, maille.Mesh(up.http_url, key=key) as mesh:
            deadline = time.monotonic() + 20
            while [node.state for node in mesh.nodes()] != ["ready", "ready"]:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            mesh.models.add(affine_model(tmp_path), "affine")
            whole = np.ones((50, 2), np.float32)
            assert all(out["y"].tolist() == [[3.0, 3.0]] for out in mesh.map("affine", whole))
            second.terminate()
        monkeypatch.setenv("MAILLE_KEY", "another-key-altogether")
        assert "refuses this key" in call("nodes", "--url", up.http_url, expect=3).stderr
        call("nodes", "--url", up.http_url, "--key-file", str(file), "--json")
        monkeypatch.setenv("MAILLE_KEY", key)
        call("nodes", "--url", up.http_url, "--json")
        for process in psutil.Process(up.process.pid).children(recursive=True):
            assert key not in " ".join(process.cmdline())


def test_broker_and_coordinator_run_alone(tmp_path: Path) -> None:
    own = environment(tmp_path)
    with subprocess.Popen(
        [*COMMAND, "broker", "--port", "0", "--json"], stdout=subprocess.PIPE, text=True, env=own
    ) as broker:
        assert broker.stdout is not None
        url = json.loads(broker.stdout.readline())["url"]
        with subprocess.Popen(
            [*COMMAND, "coordinator", "--http-port", "0", "--no-advertise", "--json"],
            stdout=subprocess.PIPE,
            text=True,
            env=own | {"MAILLE_BROKER": url},
        ) as coordinator:
            assert coordinator.stdout is not None
            http_url = json.loads(coordinator.stdout.readline())["http_url"]
            with maille.Mesh(http_url) as opened:
                assert opened.nodes() == []
            coordinator.send_signal(signal.SIGTERM)
            assert coordinator.wait(10) == 0
        broker.send_signal(signal.SIGINT)
        assert broker.wait(10) == 0


def test_the_demonstration_keeps_its_promise(tmp_path: Path) -> None:
    result = subprocess.run(
        [*COMMAND, "demo", "--fast", "--json", "--no-boards"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=55,
    )
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["equal"]
    assert (told["done"], told["lost"], told["failed"]) == (1797, 0, 0)
    assert told["accuracy"] > 0.95
    assert told["killed_at"] >= 898
    assert len(told["by_node"]) == 2


def test_the_demonstration_cleans_up_after_ctrl_c(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "demo"],
        env=environment(tmp_path) | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        while "3/4" not in process.stdout.readline():
            assert process.poll() is None
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 4
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        _, alive = psutil.wait_procs(family, timeout=5)
        assert not alive
        assert not list(tmp_path.glob("maille-demo-*"))
