"""The only file that touches onnxruntime: loads sessions and names what they take and give."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import onnxruntime

from maille_node.errors import TaskProblem
from maille_protocol import ErrorCode
from maille_protocol.limits import MAX_DIMENSIONS, MAX_TENSORS
from maille_protocol.signature import TensorSpec
from maille_protocol.tensors import Array

_DTYPES: Mapping[str, str] = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
    "tensor(string)": "str",
}
_MAX_REASON_CHARACTERS = 600
_MAX_NAME_CHARACTERS = 256


class RunOptions(Protocol):
    """What stops a run from another thread."""

    terminate: bool


class Session(Protocol):
    """The part of `onnxruntime.InferenceSession` that is used."""

    def run(
        self,
        output_names: Sequence[str] | None,
        inputs: Mapping[str, Array],
        options: RunOptions | None = None,
        /,
    ) -> list[Array]:
        """All outputs, in the model's order."""
        ...


def providers() -> list[str]:
    """Execution providers of the installed onnxruntime, best first."""
    return list(onnxruntime.get_available_providers())


def version() -> str:
    """The version of onnxruntime."""
    return str(onnxruntime.__version__)


def run_options() -> RunOptions:
    """Options of one run; setting `terminate` on them ends it soon."""
    options: RunOptions = onnxruntime.RunOptions()
    return options


def open_session(
    path: Path, *, threads: int
) -> tuple[Session, tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Load a model from disk: its session, inputs and outputs.

    Raises:
        TaskProblem: MODEL_INVALID if onnxruntime cannot load it, MODEL_ERROR if the mesh cannot
            carry what it takes or gives, OUT_OF_MEMORY, ARTEFACT_UNAVAILABLE if the file is gone.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Threads that wait for work must not eat the time of the other sessions.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except MemoryError as error:
        raise TaskProblem(ErrorCode.OUT_OF_MEMORY, "no memory to load the model") from error
    # onnxruntime's exceptions have no common base below Exception.
    except Exception as error:
        if not path.exists():
            raise TaskProblem(
                ErrorCode.ARTEFACT_UNAVAILABLE, "the model's file left the cache while loading"
            ) from error
        raise _load_problem(error) from error
    inputs = tuple([_spec(item) for item in session.get_inputs()])
    outputs = tuple([_spec(item) for item in session.get_outputs()])
    _check_carried("input", inputs, "")
    _check_carried(
        "output",
        outputs,
        "; classifiers exported by skl2onnx need options={'zipmap': False}, so that they give a "
        "plain tensor of probabilities",
    )
    return session, inputs, outputs


def run_problem(error: BaseException) -> TaskProblem:
    """What a failed run means for its task."""
    if isinstance(error, TaskProblem):
        return error
    reason = reason_of(error)
    if isinstance(error, MemoryError) or "Failed to allocate memory" in reason:
        return TaskProblem(ErrorCode.OUT_OF_MEMORY, f"no memory to run the model: {reason}")
    name = type(error).__name__
    if name == "InvalidArgument" and "dimensions for input" in reason:
        return TaskProblem(ErrorCode.INPUT_SHAPE, reason)
    if name == "InvalidArgument" and "input data type" in reason:
        return TaskProblem(ErrorCode.INPUT_TYPE, reason)
    return TaskProblem(ErrorCode.MODEL_ERROR, f"the model failed on these inputs: {reason}")


def reason_of(error: BaseException) -> str:
    """An onnxruntime error in one line, without its numbers."""
    text = " ".join(str(error).split())
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    return text[:_MAX_REASON_CHARACTERS] or type(error).__name__


def _load_problem(error: Exception) -> TaskProblem:
    reason = reason_of(error)
    if "Failed to allocate memory" in reason or "bad_alloc" in reason:
        return TaskProblem(ErrorCode.OUT_OF_MEMORY, f"no memory to load the model: {reason}")
    name = type(error).__name__
    if name == "InvalidProtobuf" or "No graph was found" in reason:
        advice = "it is no ONNX file: export the model to ONNX and add it again"
    elif name == "NotImplemented" or "No Op registered" in reason or "not a registered" in reason:
        advice = "it uses an operator this onnxruntime lacks: export it with standard operators"
    elif "opset" in reason.lower() or "IR version" in reason:
        advice = f"export it for an older opset, or install a newer onnxruntime than {version()}"
    else:
        advice = "check it with onnx.checker and export it again"
    return TaskProblem(
        ErrorCode.MODEL_INVALID, f"onnxruntime cannot load the model ({reason}); {advice}"
    )


class _Argument(Protocol):
    name: str
    type: str
    shape: Sequence[int | str | None]


def _spec(argument: _Argument) -> TensorSpec:
    dtype = _DTYPES.get(argument.type, argument.type)
    shape = tuple(
        [None if isinstance(size, int) and size < 0 else size for size in argument.shape or ()]
    )
    return TensorSpec(argument.name, dtype, shape)


def _check_carried(what: str, specs: Sequence[TensorSpec], advice: str) -> None:
    if len(specs) > MAX_TENSORS:
        raise TaskProblem(
            ErrorCode.MODEL_ERROR, f"the model has {len(specs)} {what}s, {MAX_TENSORS} are allowed"
        )
    carried = set(_DTYPES.values())
    for spec in specs:
        if spec.dtype not in carried:
            raise TaskProblem(
                ErrorCode.MODEL_ERROR,
                f"{what} {spec.name!r} is {spec.dtype}, which the mesh cannot carry: export the "
                f"model so that it is a tensor of numbers, true/false or text{advice}",
            )
        if len(spec.name) > _MAX_NAME_CHARACTERS or len(spec.shape) > MAX_DIMENSIONS:
            raise TaskProblem(
                ErrorCode.MODEL_ERROR,
                f"{what} {spec.name[:40]!r} has a name over {_MAX_NAME_CHARACTERS} characters or "
                f"more than {MAX_DIMENSIONS} dimensions: export the model with less",
            )
