"""The board library on the real interpreter: every vector, every layer to the byte, constants."""

import json
import struct
import subprocess
import sys
from enum import IntEnum, IntFlag
from pathlib import Path

import pytest
from interpreter import LIBRARY, ROOT, last_words, plain_vectors, run_on_board
from random_layers import random_cases

from maille_protocol import (
    Control,
    ErrorCode,
    Kernel,
    MessageType,
    ModelCommand,
    ModelFormat,
    ModelState,
    NodeKind,
    NodeState,
    ResetCause,
    ResultStatus,
    SenseCommand,
    SenseMode,
    TaskFlag,
    limits,
)
from maille_protocol.tiny import encode_model, run
from maille_protocol.tiny.codes import FORMAT_VERSION


def test_every_vector_on_the_real_interpreter(tmp_path: Path) -> None:
    plain_vectors(ROOT / "protocol" / "vectors", tmp_path)
    lines = run_on_board("vectors.py", tmp_path, heap="64m")
    assert not [line for line in lines if line.startswith("FAULT")]
    checks, _, faults = last_words(lines)["checks"].split()
    assert int(checks) > 5000
    assert faults == "0"


@pytest.mark.timeout(180)
def test_ten_thousand_layers_give_the_bytes_of_numpy_in_viper_and_in_bytecode(
    tmp_path: Path,
) -> None:
    file = tmp_path / "cases"
    with file.open("wb") as stream:
        for model, inputs in random_cases(seed=1, count=10_000):
            outputs = run(model, inputs)
            for octets in (
                encode_model(model),
                b"".join(array.tobytes() for array in inputs),
                b"".join(array.tobytes() for array in outputs),
            ):
                stream.write(struct.pack("<I", len(octets)) + octets)
    lines = run_on_board("layers.py", file)
    assert lines == ["cases 10000"]


def test_the_twin_of_the_kernels_is_made_of_them() -> None:
    script = ROOT / "scripts" / "make_python_kernels"
    assert subprocess.run([sys.executable, str(script), "--check"]).returncode == 0


_CODES: dict[str, type[IntEnum | IntFlag]] = {
    "MessageType": MessageType,
    "NodeState": NodeState,
    "ResultStatus": ResultStatus,
    "ErrorCode": ErrorCode,
    "Control": Control,
    "TaskFlag": TaskFlag,
    "ModelCommand": ModelCommand,
    "ModelState": ModelState,
    "SenseCommand": SenseCommand,
    "SenseMode": SenseMode,
    "Kernel": Kernel,
    "ResetCause": ResetCause,
}
_PREFIXES = {
    "NodeState": "STATE_",
    "SenseCommand": "SENSE_",
    "Kernel": "KERNEL_",
    "ResetCause": "RESET_",
}
_OTHER_NAMES = {"MODEL_FAILED": ModelState.FAILED}
_ALONE = {
    "PROTOCOL_VERSION": limits.PROTOCOL_VERSION,
    "TINY_FORMAT_VERSION": FORMAT_VERSION,
    "KIND_MICROPYTHON": NodeKind.MICROPYTHON,
    "FORMAT_TINY": ModelFormat.TINY,
    "FIRST_FINAL_CODE": 100,
    "MAX_CHUNK_BYTES": limits.MAX_CHUNK_BYTES,
    "HEARTBEAT_INTERVAL_MS": limits.HEARTBEAT_INTERVAL_MS,
}


def test_constants_are_those_of_the_protocol() -> None:
    source = (LIBRARY / "maille" / "codes.py").read_text("utf-8")
    groups: list[str] = []
    checked = 0
    for line in source.splitlines():
        if line.startswith("# "):
            groups = [name.strip() for name in line[2:].split(",")]
            assert all(name in _CODES for name in groups)
        if not line or line.startswith(("#", '"', "from")):
            groups = groups if line.startswith("#") else []
            continue
        name, value = line.removesuffix(")").split(" = const(")
        if name in _ALONE:
            assert _ALONE[name] == int(value), name
        elif name in _OTHER_NAMES:
            assert _OTHER_NAMES[name] == int(value), name
        else:
            wanted = [
                _CODES[group][name.removeprefix(_PREFIXES.get(group, ""))]
                for group in groups
                if name.removeprefix(_PREFIXES.get(group, "")) in _CODES[group].__members__
            ]
            assert wanted == [int(value)], name
        checked += 1
    assert checked > 60
    assert limits.MAX_MICROCONTROLLER_PUBLISH_BYTES == 768


def test_the_package_lists_every_module() -> None:
    package = json.loads((LIBRARY / "package.json").read_text("utf-8"))
    modules = sorted(f"maille/{path.name}" for path in (LIBRARY / "maille").glob("*.py"))
    assert package["urls"] == [[name, name] for name in modules]
    init = (LIBRARY / "maille" / "__init__.py").read_text("utf-8")
    assert f'__version__ = "{package["version"]}"' in init
    assert f'version="{package["version"]}"' in (LIBRARY / "manifest.py").read_text("utf-8")


@pytest.mark.timeout(120)
def test_noise_is_refused_or_harmless(tmp_path: Path) -> None:
    """Messages, tensors and models with random damage; models never write beyond their arena."""
    plain_vectors(ROOT / "protocol" / "vectors", tmp_path)
    lines = run_on_board("noise.py", tmp_path, 7, 30_000, heap="64m")
    words = last_words(lines)
    assert "FAULT" not in words
    assert int(words["refused"]) + int(words["ran"]) == 90_000
    assert int(words["refused"]) > 5000
    assert int(words["ran"]) > 500
