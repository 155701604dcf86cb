"""The interpreter in C++ on this machine: every vector of the tiny format, good and bad."""

import ctypes
import json
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from avr_support import ARDUINO, FIRMWARE, REPOSITORY

ARENA_BYTES = 1 << 20
VECTORS: dict[str, Any] = json.loads(
    (REPOSITORY / "protocol/vectors/tiny.json").read_text(encoding="utf-8")
)


@cache
def library() -> ctypes.CDLL:
    built = Path(mkdtemp(prefix="maille-model-")) / "model.so"
    sources = [str(path) for path in sorted((ARDUINO / "src/maille").glob("*.cpp"))]
    command = ["g++", "-std=gnu++11", "-O2", "-Wall", "-Wextra", "-Werror", "-fno-exceptions"]
    command += ["-fsanitize=undefined", "-fno-sanitize-recover=undefined", "-shared", "-fPIC"]
    command += [f"-I{ARDUINO / 'src'}", "-o", str(built), str(FIRMWARE / "host_model.cpp")]
    subprocess.run([*command, *sources], check=True)
    loaded = ctypes.CDLL(str(built))
    loaded.maille_run.restype = ctypes.c_long
    text, size = ctypes.c_char_p, ctypes.c_size_t
    loaded.maille_check.argtypes = [text, size, ctypes.c_uint32]
    loaded.maille_self_test.argtypes = [text, size, text, ctypes.c_uint32]
    loaded.maille_run.argtypes = [text, size, text, ctypes.c_uint32, text, text]
    return loaded


def fault(document: bytes) -> int:
    """0 if the whole model is in order and its tests pass."""
    arena = ctypes.create_string_buffer(ARENA_BYTES)
    found: int = library().maille_check(document, len(document), ARENA_BYTES)
    if found == 0:
        found = library().maille_self_test(document, len(document), arena, ARENA_BYTES)
    return found


def run(document: bytes, inputs: bytes) -> bytes:
    arena = ctypes.create_string_buffer(ARENA_BYTES)
    outputs = ctypes.create_string_buffer(1 << 18)
    size = library().maille_run(document, len(document), arena, ARENA_BYTES, inputs, outputs)
    assert size >= 0
    return outputs.raw[:size]


@pytest.mark.parametrize("vector", VECTORS["good"], ids=lambda vector: str(vector["name"]))
def test_good_models(vector: dict[str, Any]) -> None:
    document = bytes.fromhex(vector["hex"])
    assert fault(document) == 0
    for case in vector["runs"]:
        assert run(document, bytes.fromhex(case["inputs"])).hex() == case["outputs"]


def test_bad_models() -> None:
    taken = [
        vector["name"]
        for vector in VECTORS["bad"]
        if vector["board"] and fault(bytes.fromhex(vector["hex"])) == 0
    ]
    assert taken == []


def test_damaged_models_do_no_harm() -> None:
    """Cut, and with one byte changed: whatever is found, nothing is read outside (sanitizer)."""
    for vector in VECTORS["good"][::4]:
        document = bytes.fromhex(vector["hex"])
        for at in range(0, len(document), 3):
            fault(document[:at])
            for change in (1, 0x80, 0xFF):
                fault(document[:at] + bytes([document[at] ^ change]) + document[at + 1 :])
