"""Looks into a model's file in a process of its own.

A model is somebody's file, and the library that reads it is large: whatever a file does to that
library (crash, endless loop, all memory) happens to a child that is limited and thrown away.
"""

import asyncio
import contextlib
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from maille_coordinator.models.errors import InspectionError
from maille_protocol import ModelFormat
from maille_protocol.signature import TensorSpec

_TIME_LIMIT_S = 60.0
_MAX_ANSWER_BYTES = 4 * 1024 * 1024
_CHILD_MODULE = "maille_coordinator.models.inspect_child"
_KEPT_VARIABLES = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "LANG")
"""The child gets no other environment variables: secrets may be among them."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a model takes and gives, and where it comes from."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batchable: bool
    opset: int = 0
    producer: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    format: ModelFormat = ModelFormat.ONNX
    """GGUF: a language model, without inputs and outputs; the metadata says what it is. TINY: inputs
    and outputs are the integers that travel; the container says what they mean."""


async def inspect_model(path: Path, *, time_limit_s: float = _TIME_LIMIT_S) -> Inspection:
    """Load the ONNX, GGUF or tiny file at `path` in a child process and describe it.

    Its first bytes say which of them it is.

    Raises:
        InspectionError: it is not a model that the mesh can run, or too much for the limits.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        # -P: the current directory is not searched for modules.
        "-P",
        "-m",
        _CHILD_MODULE,
        str(path),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        # One thread each, or the memory limit would have to count their stacks.
        | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )
    try:
        async with asyncio.timeout(time_limit_s):
            answer = await _read(child)
            await child.wait()
    except TimeoutError:
        raise InspectionError(
            "time",
            f"loading the model took longer than {time_limit_s:g} s and was stopped: "
            "make the model smaller, or try it with onnxruntime alone to see why",
        ) from None
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    return _parse(answer, child.returncode)


async def _read(child: asyncio.subprocess.Process) -> bytes:
    if child.stdout is None:
        raise RuntimeError("the child was started without a pipe")
    parts = bytearray()
    while part := await child.stdout.read(65536):
        parts += part
        if len(parts) > _MAX_ANSWER_BYTES:
            raise InspectionError(
                "invalid", "the model describes itself in more than 4 MiB: export it again"
            )
    return bytes(parts)


def _parse(answer: bytes, returncode: int | None) -> Inspection:
    if not answer or returncode != 0:
        raise InspectionError(
            "crash",
            f"the process that loaded the model broke down ({_death(returncode)}): the file is "
            "damaged or needs more memory than a model may; try it with onnxruntime (or llama.cpp "
            "for a GGUF) alone, or export it again",
        )
    said = json.loads(answer)
    if "error" in said:
        raise InspectionError(said["error"]["code"], said["error"]["text"])
    return Inspection(
        inputs=_specs(said["inputs"]),
        outputs=_specs(said["outputs"]),
        batchable=said["batchable"],
        opset=said["opset"],
        producer=said["producer"],
        metadata=said["metadata"],
        format=ModelFormat[said.get("format", "ONNX")],
    )


def _death(returncode: int | None) -> str:
    if returncode is not None and returncode < 0:
        return f"signal {-returncode}"
    return f"exit code {returncode}"


def _specs(items: list[tuple[str, str, list[int | str | None]]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, dtype, tuple(shape)) for name, dtype, shape in items)
