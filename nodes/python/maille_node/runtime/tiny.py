"""Tiny models on a PC: the reference interpreter in the place of an onnxruntime session.

So a model made for microcontrollers runs on every class of node, and gives the same bytes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from maille_node.errors import TaskProblem
from maille_node.runtime.onnx import RunOptions
from maille_protocol import ErrorCode, WireError
from maille_protocol.signature import TensorSpec
from maille_protocol.tensors import Array
from maille_protocol.tiny import Model, decode_model, is_tiny, run, self_test, signature

_HEAD_BYTES = 6


class TinySession:
    """What `onnx.Session` promises, over a tiny model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        inputs, outputs = signature(model)
        self._inputs = [spec.name for spec in inputs]
        self._shapes = {spec.name: [int(str(size)) for size in spec.shape] for spec in outputs}

    def run(
        self,
        output_names: Sequence[str] | None,
        inputs: Mapping[str, Array],
        options: RunOptions | None = None,  # noqa: ARG002 - a run takes microseconds: none is stopped
        /,
    ) -> list[Array]:
        """The outputs asked for, else all, in the model's order."""
        given = run(self._model, [inputs[name] for name in self._inputs])
        named = {
            name: output.reshape(shape)
            for (name, shape), output in zip(self._shapes.items(), given, strict=True)
        }
        return [named[name] for name in output_names or named]


def is_tiny_file(path: Path) -> bool:
    """Whether a file begins as a tiny model; False also where it cannot be read."""
    try:
        with path.open("rb") as file:
            return is_tiny(file.read(_HEAD_BYTES))
    except OSError:
        return False


def open_session(
    path: Path,
) -> tuple[TinySession, tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Load a model from disk and run its own tests: its session, inputs and outputs.

    Raises:
        TaskProblem: MODEL_INVALID if the container is broken, SELF_TEST_FAILED if it gives other
            bytes than it says, ARTEFACT_UNAVAILABLE if the file is gone.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TaskProblem(
            ErrorCode.ARTEFACT_UNAVAILABLE, f"the model's file cannot be read: {error.strerror}"
        ) from error
    try:
        model = decode_model(data)
    except WireError as error:
        raise TaskProblem(ErrorCode.MODEL_INVALID, f"no tiny model: {error}") from error
    failed = self_test(model)
    if failed is not None:
        raise TaskProblem(
            ErrorCode.SELF_TEST_FAILED, f"the model's test {failed} gives other bytes here"
        )
    return TinySession(model), *signature(model)
