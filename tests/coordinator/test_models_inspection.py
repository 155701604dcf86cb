"""A look into ONNX files: what good ones are, and what is said of bad ones."""

import asyncio
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_files import BAD_FILES, external_data, model_bytes, relu, value

from maille_coordinator.models import Inspection, InspectionError, inspect_model, inspection
from maille_protocol.signature import TensorSpec


def inspect(path: Path, data: bytes | None = None) -> Inspection:
    if data is not None:
        path.write_bytes(data)
    return asyncio.run(inspect_model(path))


def test_good_model(tmp_path: Path) -> None:
    assert inspect(tmp_path / "model", relu()) == Inspection(
        inputs=(TensorSpec("X", "float32", ("N", 4)),),
        outputs=(TensorSpec("Y", "float32", ("N", 4)),),
        batchable=True,
        opset=17,
        producer="tests",
        metadata={"author": "me"},
    )


def test_types_and_shapes(tmp_path: Path) -> None:
    found = inspect(
        tmp_path / "model",
        model_bytes(
            [
                helper.make_node("Identity", ["text"], ["text_out"]),
                helper.make_node("Not", ["flag"], ["flag_out"]),
                helper.make_node("Identity", ["scalar"], ["scalar_out"]),
            ],
            [
                value("text", TensorProto.STRING, [None, "K"]),
                value("flag", TensorProto.BOOL, [2, 3]),
                value("scalar", TensorProto.DOUBLE, []),
            ],
            [
                value("text_out", TensorProto.STRING, [None, "K"]),
                value("flag_out", TensorProto.BOOL, [2, 3]),
                value("scalar_out", TensorProto.DOUBLE, []),
            ],
        ),
    )
    assert found.inputs == (
        TensorSpec("text", "str", (None, "K")),
        TensorSpec("flag", "bool", (2, 3)),
        TensorSpec("scalar", "float64", ()),
    )
    assert not found.batchable


def test_scikit_learn_classifier_with_and_without_zipmap(tmp_path: Path) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    skl2onnx = pytest.importorskip("skl2onnx")
    samples = np.arange(80, dtype=np.float32).reshape(20, 4)
    classifier = linear_model.LogisticRegression().fit(samples / 80, np.arange(20) % 3)
    example = samples[:1]
    with_map = skl2onnx.to_onnx(classifier, example).SerializeToString()
    with pytest.raises(InspectionError, match="'zipmap': False") as caught:
        inspect(tmp_path / "model", with_map)
    assert caught.value.code == "type"
    without = skl2onnx.to_onnx(classifier, example, options={"zipmap": False})
    found = inspect(tmp_path / "model", without.SerializeToString())
    assert found.batchable
    assert [spec.dtype for spec in found.outputs] == ["int64", "float32"]


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file(tmp_path: Path, name: str) -> None:
    data, code, text = BAD_FILES[name]
    with pytest.raises(InspectionError) as caught:
        inspect(tmp_path / "model", data)
    assert (caught.value.code, text in str(caught.value)) == (code, True), str(caught.value)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(InspectionError, match=r"weights\.bin.*one file") as caught:
        inspect(external_data(tmp_path))
    assert caught.value.code == "external_data"


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_damaged_bytes_never_do_more_than_raise(tmp_path: Path, step: int) -> None:
    data = bytearray(relu())
    for position in range(step, len(data), 17):
        data[position] ^= 0xFF
    with pytest.raises(InspectionError):
        inspect(tmp_path / "model", bytes(data))


def child_that(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    (folder / "child_for_test.py").write_text(code)
    monkeypatch.setattr(inspection, "_CHILD_MODULE", "child_for_test")
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_child_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child_that(monkeypatch, tmp_path, "import time\ntime.sleep(1000)\n")
    with pytest.raises(InspectionError, match=r"longer than 0\.2 s") as caught:
        asyncio.run(inspect_model(tmp_path / "model", time_limit_s=0.2))
    assert caught.value.code == "time"


def test_child_that_crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child_that(monkeypatch, tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    with pytest.raises(InspectionError, match="signal 9") as caught:
        inspect(tmp_path / "model", relu())
    assert caught.value.code == "crash"


def test_child_that_says_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child_that(monkeypatch, tmp_path, "while True: print('x' * 100000)\n")
    with pytest.raises(InspectionError, match="4 MiB"):
        inspect(tmp_path / "model", relu())


def test_child_learns_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import json, os\nfound = [name for name in os.environ if 'MAILLE' in name]\n"
        "print(json.dumps({'error': {'code': 'seen', 'text': repr(found)}}))\n"
    )
    child_that(monkeypatch, tmp_path, code)
    monkeypatch.setenv("MAILLE_KEY", "secret")
    with pytest.raises(InspectionError, match=r"^\[\]$"):
        inspect(tmp_path / "model", relu())


@pytest.mark.skipif(sys.platform == "win32", reason="no such limits there")
def test_memory_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from maille_coordinator.models import inspect_child\n"
        "inspect_child._BASE_MEMORY_BYTES = 300_000_000\n"
        "inspect_child.describe = lambda path: {'x': len(bytearray(1_000_000_000))}\n"
        "raise SystemExit(inspect_child.main())\n"
    )
    child_that(monkeypatch, tmp_path, code)
    with pytest.raises(InspectionError, match="more memory") as caught:
        inspect(tmp_path / "model", relu())
    assert caught.value.code == "memory"


def test_child_is_gone_when_the_caller_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child_that(
        monkeypatch,
        tmp_path,
        "import os, pathlib, sys, time\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "path.with_suffix('.new').write_text(str(os.getpid()))\n"
        "path.with_suffix('.new').rename(path.with_suffix('.pid'))\n"
        "time.sleep(1000)\n",
    )

    async def scenario() -> int:
        work = asyncio.ensure_future(inspect_model(tmp_path / "model"))
        mark = tmp_path / "model.pid"
        while not mark.exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.01)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        return int(mark.read_text())

    child = asyncio.run(scenario())
    assert not Path(f"/proc/{child}").exists()
