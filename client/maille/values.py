"""What a program hands over as inputs, made into the arrays that a model takes, or refused.

Arrays are never cast: a wrong type is an error. Python numbers, texts and lists have no type of
their own yet and get the model's, where that changes no value beyond a float's rounding.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from maille.errors import InputError
from maille_protocol import ErrorCode, UsageError
from maille_protocol.limits import MAX_INLINE_CONTENT_BYTES
from maille_protocol.signature import TensorSpec, check_inputs
from maille_protocol.tensors import Array, encode_tensors

Inputs: TypeAlias = "Mapping[str, object] | object"
"""By name, or one value for a model with one input."""


def prepare(inputs: Inputs, specs: Sequence[TensorSpec], model: str) -> dict[str, Array]:
    """The model's inputs by name, checked against its signature.

    Raises:
        InputError: a name, type or shape that the model does not take; the text says what it does.
    """
    named = by_name(inputs, specs, model)
    specs_by_name = {spec.name: spec for spec in specs}
    arrays = {
        name: _as_array(name, value, specs_by_name.get(name)) for name, value in named.items()
    }
    mismatch = check_inputs(specs, arrays)
    if mismatch is not None:
        raise InputError(f"Model {model!r}: {mismatch.text}.", mismatch.code)
    return arrays


def encode(arrays: Mapping[str, Array], max_bytes: int) -> bytes:
    """The tensors' bytes.

    Raises:
        InputError: larger than `max_bytes`, or a type that cannot be sent.
    """
    size_bytes = sum(array.nbytes for array in arrays.values())
    if size_bytes > max_bytes:
        raise InputError(
            f"The inputs take {size_bytes:,} bytes, this mesh takes {max_bytes:,} in one task. "
            "Cut them into several tasks (map does it with rows=...).",
            ErrorCode.INPUT_TOO_LARGE,
        )
    try:
        return encode_tensors(arrays)
    except UsageError as error:
        raise InputError(f"The inputs cannot be sent: {error}.", ErrorCode.INPUT_TYPE) from error


def is_inline(content: bytes) -> bool:
    """Whether encoded tensors may stand in a message; larger ones travel as artefacts."""
    return len(content) <= MAX_INLINE_CONTENT_BYTES


def is_whole(inputs: object) -> bool:
    """Whether these are arrays to be cut into rows rather than an iterable of inputs."""
    if isinstance(inputs, Mapping):
        return True
    return _is_array(inputs)


def cut(inputs: Inputs, rows: int, specs: Sequence[TensorSpec], model: str) -> Iterator[Inputs]:
    """Pieces of `rows` along the first axis of every array; each keeps that axis.

    Raises:
        InputError: an array without that axis, or arrays of different lengths.
    """
    if rows < 1:
        raise InputError(f"rows is {rows}: give a number of 1 or more.")
    named = {name: np.asarray(value) for name, value in by_name(inputs, specs, model).items()}
    lengths = {name: len(array) if array.ndim else None for name, array in named.items()}
    different = set(lengths.values())
    if len(different) != 1 or None in different:
        told = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
        raise InputError(
            f"Model {model!r}: cannot cut the inputs into rows: {told}. "
            "Every input needs a first axis of the same length.",
            ErrorCode.INPUT_SHAPE,
        )
    (length,) = different
    for start in range(0, length or 0, rows):
        yield {name: array[start : start + rows] for name, array in named.items()}


def count(inputs: object, rows: int) -> int | None:
    """How many tasks `cut` or the iterable makes, None where that is not known before."""
    whole: object = inputs
    if isinstance(inputs, Mapping):
        whole = next(iter(inputs.values()), ())
    elif not _is_array(inputs):
        return len(inputs) if isinstance(inputs, Sequence) else None
    shape = np.asarray(whole).shape
    return -(-shape[0] // rows) if shape else None


def by_name(inputs: Inputs, specs: Sequence[TensorSpec], model: str) -> Mapping[str, object]:
    """Inputs by name, as they were given or with the name of the model's only one; InputError."""
    if isinstance(inputs, Mapping):
        return inputs
    if len(specs) == 1:
        return {specs[0].name: inputs}
    wanted = ", ".join(str(spec) for spec in specs) or "none"
    raise InputError(
        f"Model {model!r} takes {len(specs)} inputs: give them by name, as a dict. "
        f"They are: {wanted}.",
        ErrorCode.INPUT_NAME,
    )


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__")


def _as_array(name: str, value: object, spec: TensorSpec | None) -> Array:
    if isinstance(value, np.ndarray):
        return value
    if _is_array(value):
        return np.asarray(value)
    try:
        array = np.array(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(
            f"input {name!r} is not a regular array ({error}). "
            "Lists must have the same length at each depth.",
            ErrorCode.INPUT_SHAPE,
        ) from error
    if array.dtype == object and not _is_text(value):
        raise InputError(
            f"input {name!r} holds {type(value).__name__} objects that are no numbers or texts.",
            ErrorCode.INPUT_TYPE,
        )
    return array if spec is None else _converted(name, array, spec)


def _converted(name: str, array: Array, spec: TensorSpec) -> Array:
    """Python values in the model's type, where no value changes (floats may be rounded)."""
    if spec.dtype == "str":
        if array.dtype.kind in "UO" or array.size == 0:
            return array.astype(np.object_)
        raise _unsafe(name, array, spec, "texts are written in quotation marks")
    try:
        wanted = np.dtype(spec.dtype)
    except TypeError:
        return array
    if array.dtype == wanted:
        return array
    if array.size == 0:
        return array.astype(wanted)
    pair = (array.dtype.kind, wanted.kind)
    if pair == ("f", "f"):
        with np.errstate(over="ignore"):
            rounded = array.astype(wanted)
        if not np.array_equal(np.isfinite(rounded), np.isfinite(array)):
            raise _unsafe(name, array, spec, "a value is too large for it")
        return rounded
    if pair in {("i", "i"), ("i", "u"), ("u", "i"), ("u", "u"), ("i", "f"), ("u", "f")}:
        with np.errstate(over="ignore", invalid="ignore"):
            exact = array.astype(wanted)
            same = np.isfinite(exact).all() and bool(
                (exact.astype(np.object_) == array.astype(np.object_)).all()
            )
        if not same:
            raise _unsafe(name, array, spec, "a value does not fit exactly")
        return exact
    raise _unsafe(name, array, spec, f"convert it yourself to {spec.dtype} if that is meant")


def _unsafe(name: str, array: Array, spec: TensorSpec, why: str) -> InputError:
    kind = {"f": "floats", "i": "integers", "u": "integers", "b": "true/false", "U": "texts"}
    return InputError(
        f"input {name!r} was given as {kind.get(array.dtype.kind, array.dtype.name)}, the model "
        f"takes {spec.dtype}: {why}.",
        ErrorCode.INPUT_TYPE,
    )


def _is_text(value: object) -> bool:
    if isinstance(value, str):
        return True
    return isinstance(value, Sequence) and all(_is_text(item) for item in value)


def adopt(array: Array, spec: TensorSpec) -> Array:
    """Numbers that were read from text, in the model's type where that is exact; InputError."""
    return _converted(spec.name, array, spec)
