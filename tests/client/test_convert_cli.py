"""`maille models convert` as a person runs it."""

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner, Result

from maille.cli import app
from maille_protocol.tiny import decode_model, self_test

RUNNER = CliRunner()


def run(*arguments: object) -> Result:
    return RUNNER.invoke(app, ["models", "convert", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of one dense layer with arg-max, and samples with labels, the model's own answers."""
    random = np.random.default_rng(3)
    weights = random.normal(size=(6, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["X", "w"], ["scores"], name="scores"),
            helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0, name="label"),
        ],
        "one",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("label", TensorProto.INT64, ["n"])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    samples = random.normal(size=(300, 6)).astype(np.float32)
    np.savez(tmp_path / "data.npz", X=samples, y=(samples @ weights).argmax(axis=1))
    return tmp_path


def test_a_person_sees_accuracy_room_and_time_of_each_board(folder: Path) -> None:
    ran = run(folder / "model.onnx", "--data", folder / "data.npz")
    assert ran.exit_code == 0, ran.output
    assert "100.00 % before" in ran.output
    for word in ("uno", "mega", "rp2040", "esp32", "multiply-accumulates", "maille models add"):
        assert word in ran.output
    model = decode_model((folder / "model.tiny").read_bytes())
    assert self_test(model) is None
    assert model.self_test_count >= 8
    assert not list(folder.glob(".*"))


def test_a_program_gets_json(folder: Path) -> None:
    target = folder / "other.tiny"
    ran = run(folder / "model.onnx", "--data", folder / "data.npz", "-o", target, "--json")
    assert ran.exit_code == 0, ran.output
    said = json.loads(ran.stdout)
    assert said["file"] == str(target)
    assert said["size_bytes"] == target.stat().st_size
    assert said["quality"]["float_accuracy"] == 1.0
    assert said["quality"]["tiny_accuracy"] > 0.95
    assert {board["board"] for board in said["boards"] if board["fits"]} >= {"uno", "esp32"}
    assert said["self_tests"] == 8
    assert all(board["cycles"].startswith(("measured", "estimated")) for board in said["boards"])


def test_errors_name_cause_and_next_step(folder: Path) -> None:
    model, data = folder / "model.onnx", folder / "data.npz"
    cases = (
        ((folder / "absent.onnx", "--data", data), 2, "is no file"),
        ((model, "--data", folder / "absent.npz"), 2, "is no file"),
        ((model, "--data", model), 2, "numpy.savez"),
        ((data, "--data", data), 1, "no ONNX file"),
        ((model, "--data", data, "--target", "pc"), 2, "Choose one of avr"),
        ((model, "--data", data, "-o", folder / "no" / "such.tiny"), 2, "cannot be written"),
    )
    for arguments, code, text in cases:
        ran = run(*arguments)
        assert ran.exit_code == code, ran.output
        assert text in " ".join(ran.output.split())
        assert "Traceback" not in ran.output
    assert not (folder / "model.tiny").exists()


def test_errors_come_as_json_too(folder: Path) -> None:
    ran = run(folder / "data.npz", "--data", folder / "data.npz", "--json")
    assert ran.exit_code == 1
    assert json.loads(ran.stderr)["error"]["kind"] == "ModelRejected"
