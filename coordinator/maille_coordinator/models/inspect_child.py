"""The child process of `inspection`: loads one model's file and prints what it is, as JSON.

    python -m maille_coordinator.models.inspect_child FILE

Graph optimisations stay off: they cost most of the loading time, change nothing of the signature,
and an operator without a kernel is found without them.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from maille_coordinator.models.errors import InspectionError
from maille_coordinator.models.onnx_file import OnnxOutline, read_outline
from maille_protocol import WireError
from maille_protocol.limits import MAX_TENSORS
from maille_protocol.signature import TensorSpec, batch_axis
from maille_protocol.tiny import decode_model, is_tiny, self_test, signature

_DTYPES = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "int8": "int8",
    "int16": "int16",
    "int32": "int32",
    "int64": "int64",
    "uint8": "uint8",
    "uint16": "uint16",
    "uint32": "uint32",
    "uint64": "uint64",
    "bool": "bool",
    "string": "str",
}
_BASE_MEMORY_BYTES = 4 * 1024 * 1024 * 1024
_MEMORY_PER_FILE_BYTE = 6
"""Reading, parsing and repacking weights each hold them once for a while."""
_CPU_LIMIT_S = 120
_GGUF = b"GGUF"
_MAX_METADATA = 64
_MAX_METADATA_CHARACTERS = 1000
_MAX_REASON_CHARACTERS = 600


class Argument(Protocol):
    """What onnxruntime's `NodeArg` has."""

    name: str
    type: str
    shape: Sequence[int | str | None]


def limit_resources(file_bytes: int) -> None:
    """Bound what this process may take, where the system can."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 - not there on every system

    memory = _BASE_MEMORY_BYTES + _MEMORY_PER_FILE_BYTE * file_bytes
    for what, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, _CPU_LIMIT_S),
        (resource.RLIMIT_CORE, 0),
        # It has nothing to write but its answer, which goes through a pipe.
        (resource.RLIMIT_FSIZE, 0),
    ):
        _, hard = resource.getrlimit(what)
        bounded = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (bounded, bounded))


def describe(path: Path) -> dict[str, object]:
    """The answer for a model that can be run. InspectionError for one that cannot."""
    with path.open("rb") as file:
        if file.read(len(_GGUF)) == _GGUF:
            return describe_gguf(path)
        file.seek(0)
        if is_tiny(file.read(6)):
            return describe_tiny(path)
    outline = read_outline(path)
    if outline.external_files:
        names = ", ".join(repr(name[:100]) for name in outline.external_files[:5])
        raise InspectionError(
            "external_data",
            f"the model's weights are in other files ({names}), and a model must be one file: "
            "save it with onnx.save_model(onnx.load(FILE), NEW, save_as_external_data=False)",
        )
    # Imported here, where the limits are in force.
    import onnxruntime  # noqa: PLC0415

    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except MemoryError:
        raise
    # onnxruntime's exceptions have no common base but this.
    except Exception as error:
        raise explain(str(error), outline, onnxruntime.__version__) from error
    inputs = _specs(session.get_inputs(), "input")
    outputs = _specs(session.get_outputs(), "output")
    metadata = session.get_modelmeta().custom_metadata_map
    return {
        "inputs": [[spec.name, spec.dtype, spec.shape] for spec in inputs],
        "outputs": [[spec.name, spec.dtype, spec.shape] for spec in outputs],
        "batchable": batch_axis(inputs, outputs),
        "opset": outline.opsets.get("", 0),
        "producer": outline.producer[:200],
        "metadata": {
            key[:_MAX_METADATA_CHARACTERS]: value[:_MAX_METADATA_CHARACTERS]
            for key, value in list(metadata.items())[:_MAX_METADATA]
        },
    }


def describe_gguf(path: Path) -> dict[str, object]:
    """The answer for a language model."""
    # Imported here, where the limits are in force.
    from maille_coordinator.language.model_files import quantisation_of  # noqa: PLC0415
    from maille_coordinator.slices import (  # noqa: PLC0415
        LanguageModelError,
        Tokenizer,
        UnsupportedModelError,
        read_model,
    )

    try:
        model = read_model(path)
        Tokenizer(model.vocabulary)
    except UnsupportedModelError as error:
        raise InspectionError("unsupported", _renamed(error, path)) from error
    except LanguageModelError as error:
        raise InspectionError("truncated", _renamed(error, path)) from error
    parameters = sum(matrix.rows * matrix.columns for matrix in model.tensors.values())
    return {
        "inputs": [],
        "outputs": [],
        "batchable": False,
        "opset": 0,
        "producer": "",
        "format": "GGUF",
        "metadata": {
            "name": model.name[:_MAX_METADATA_CHARACTERS],
            "architecture": model.architecture,
            "quantisation": quantisation_of(model),
            "parameters": str(parameters),
            "layers": str(model.layer_count),
            "context": str(model.context_length),
        },
    }


def describe_tiny(path: Path) -> dict[str, object]:
    """The answer for a model in the tiny format, whose own tests must pass here."""
    try:
        model = decode_model(path.read_bytes())
    except WireError as error:
        raise InspectionError(
            "invalid", f"the tiny model cannot be used: {error}. Convert it again"
        ) from error
    failed = self_test(model)
    if failed is not None:
        raise InspectionError(
            "self_test",
            f"the tiny model gives other bytes than its test {failed} says: the file was changed, "
            "or made by a faulty converter; convert it again",
        )
    inputs, outputs = signature(model)
    return {
        "inputs": [[spec.name, spec.dtype, spec.shape] for spec in inputs],
        "outputs": [[spec.name, spec.dtype, spec.shape] for spec in outputs],
        "batchable": False,
        "opset": 0,
        "producer": "",
        "format": "TINY",
        "metadata": {
            "name": model.description.name[:_MAX_METADATA_CHARACTERS],
            "layers": str(len(model.layers)),
            "arena_bytes": str(model.arena_bytes),
            "multiply_accumulates": str(model.multiply_accumulates),
            "self_tests": str(model.self_test_count),
        },
    }


def _renamed(error: Exception, path: Path) -> str:
    """The text of an error, which names the file by its SHA-256, as its owner knows it."""
    return str(error).replace(str(path), "the file").replace(path.name, "the file")


def explain(reason: str, outline: OnnxOutline, version: str) -> InspectionError:
    """What onnxruntime's message means for the person who has the model."""
    reason = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", reason)
    reason = re.sub(r"^Load model from .* failed:", "", reason)
    for pattern in (
        r"(?P<domain>[\w.]*):(?P<name>\w+)\(-?\d+\) is not a registered function/op",
        r"No Op registered for (?P<name>\w+) with domain_version of \d+",
        r"Could not find an implementation for (?P<domain>(?:[\w.]+\.)?)(?P<name>\w+)\(\d+\)",
    ):
        if found := re.search(pattern, reason):
            domain = (found.groupdict().get("domain") or "").rstrip(".")
            opset = outline.opsets.get(domain, 0)
            where = f" of the domain {domain!r}" if domain else ""
            return InspectionError(
                "operator",
                f"onnxruntime {version} cannot run the operator {found['name']!r}{where} in opset "
                f"{opset}, or not for these types: export the model with another opset, express "
                "it with standard operators, or try a newer onnxruntime; "
                "operators of your own cannot run in a mesh",
            )
    if found := re.search(
        r"Type '([^']+)' of input parameter \((.*?)\) of operator \((\w+)", reason
    ):
        return InspectionError(
            "operator",
            f"the operator {found[3]!r} of opset {outline.opsets.get('', 0)} does not take "
            f"{found[1]} (its input {found[2]!r}): convert the model to float32 and export it again",
        )
    if found := re.search(r"Opset (\d+) is under development", reason):
        newest = re.search(r"till opset (\d+)", reason)
        return InspectionError(
            "opset",
            f"the model uses opset {found[1]}, which onnxruntime {version} does not know"
            + (f" (it knows up to {newest[1]})" if newest else "")
            + ": export it with a lower opset, or update onnxruntime",
        )
    if "bad alloc" in reason or "bad_alloc" in reason:
        return _memory()
    if "xternal data" in reason:
        return InspectionError(
            "external_data",
            "a part of the model's weights is in another file, and a model must be one file: "
            "save it with onnx.save_model(onnx.load(FILE), NEW, save_as_external_data=False)",
        )
    return InspectionError(
        "invalid",
        f"onnxruntime {version} refuses the model: {reason[:_MAX_REASON_CHARACTERS].strip()}. "
        "Check it with onnx.checker.check_model and export it again",
    )


def _specs(arguments: Sequence[Argument], what: str) -> tuple[TensorSpec, ...]:
    if len(arguments) > MAX_TENSORS:
        raise InspectionError(
            "too_many_tensors",
            f"the model has {len(arguments)} {what}s, {MAX_TENSORS} are possible: "
            "join some of them into one tensor",
        )
    return tuple(_spec(argument, what) for argument in arguments)


def _spec(argument: Argument, what: str) -> TensorSpec:
    found = re.fullmatch(r"tensor\((\w+)\)", argument.type)
    if found is None:
        hint = (
            "export it with skl2onnx.to_onnx(..., options={'zipmap': False})"
            if "map" in argument.type
            else "let the model give tensors"
        )
        raise InspectionError(
            "type",
            f"{what} {argument.name!r} is a {argument.type}, and only tensors can travel: {hint}",
        )
    dtype = _DTYPES.get(found[1])
    if dtype is None:
        raise InspectionError(
            "type",
            f"{what} {argument.name!r} has elements of type {found[1]}, which cannot travel: "
            f"cast it to one of {', '.join(_DTYPES.values())} inside the model",
        )
    shape = tuple(
        size if isinstance(size, str) or (isinstance(size, int) and size >= 0) else None
        for size in argument.shape
    )
    return TensorSpec(argument.name, dtype, shape)


def _memory() -> InspectionError:
    return InspectionError(
        "memory",
        "loading the model needs more memory than a model of its size may: "
        "make it smaller, for example by quantising it",
    )


def main() -> int:
    """Print the answer for the file named on the command line."""
    path = Path(sys.argv[1])
    answer: dict[str, object]
    try:
        limit_resources(path.stat().st_size)
        answer = describe(path)
    except InspectionError as error:
        answer = {"error": {"code": error.code, "text": str(error)}}
    except MemoryError:
        memory = _memory()
        answer = {"error": {"code": memory.code, "text": str(memory)}}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
