"""Tensors between JSON's nested lists and arrays, by the model's types."""

from collections.abc import Mapping, Sequence

import numpy as np

from maille_protocol import ErrorCode
from maille_protocol.limits import MAX_DIMENSIONS
from maille_protocol.signature import TensorSpec
from maille_protocol.tensors import Array


class InputProblem(Exception):
    """Raised for inputs that cannot be made what the model takes; `code` is an INPUT_ code."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


def arrays_of(specs: Sequence[TensorSpec], inputs: Mapping[str, object]) -> dict[str, Array]:
    """JSON inputs as arrays of the model's types; names and shapes are left to `check_inputs`.

    Raises:
        InputProblem: values that are of another type, out of range, or no rectangle.
    """
    by_name = {spec.name: spec for spec in specs}
    arrays: dict[str, Array] = {}
    for name, value in inputs.items():
        spec = by_name.get(name)
        arrays[name] = np.zeros(0) if spec is None else _array(spec, value)
    return arrays


def json_of(array: Array) -> object:
    """An output as nested lists; numbers that JSON does not know are None."""
    if array.dtype.kind == "f":
        finite = np.isfinite(array)
        if not finite.all():
            # Copied as Python numbers: 32-bit floats become 64-bit ones exactly.
            boxed = array.astype(np.object_)
            boxed[~finite] = None
            return boxed.tolist()
    return array.tolist()


def _array(spec: TensorSpec, value: object) -> Array:
    shape = _shape(spec, value)
    flat: list[object] = []
    _flatten(spec, value, shape, flat)
    if spec.dtype == "str":
        _require(spec, flat, str, "text")
        return np.array(flat, dtype=np.object_).reshape(shape)
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "b":
        _require(spec, flat, bool, "true or false")
    elif dtype.kind in "iu":
        flat = [int(item) if type(item) is float and item.is_integer() else item for item in flat]
        _require(spec, flat, int, "whole numbers")
        _require_range(spec, flat, dtype)
    else:
        return _floats(spec, flat, dtype).reshape(shape)
    array: Array = np.array(flat, dtype=dtype)
    return array.reshape(shape)


def _floats(spec: TensorSpec, flat: list[object], dtype: np.dtype[np.generic]) -> Array:
    flat = [np.nan if item is None else item for item in flat]
    _require(spec, flat, (int, float), "numbers")
    try:
        wide = np.array(flat, dtype=np.float64)
        with np.errstate(over="ignore"):
            array: Array = wide.astype(dtype)
    except OverflowError:
        raise _too_large(spec) from None
    if not np.array_equal(np.isfinite(wide), np.isfinite(array)):
        raise _too_large(spec)
    return array


def _too_large(spec: TensorSpec) -> InputProblem:
    return InputProblem(
        ErrorCode.INPUT_TYPE, f"input {spec.name!r} holds numbers too large for {spec.dtype}"
    )


def _require_range(spec: TensorSpec, flat: list[object], dtype: np.dtype[np.generic]) -> None:
    limits = np.iinfo(dtype.name)
    for item in flat:
        if isinstance(item, int) and not limits.min <= item <= limits.max:
            raise InputProblem(
                ErrorCode.INPUT_TYPE,
                f"input {spec.name!r} holds numbers outside of {spec.dtype} "
                f"({limits.min} to {limits.max})",
            )


def _shape(spec: TensorSpec, value: object) -> tuple[int, ...]:
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if len(shape) > MAX_DIMENSIONS:
            raise InputProblem(
                ErrorCode.INPUT_SHAPE,
                f"input {spec.name!r} is nested deeper than {MAX_DIMENSIONS} dimensions",
            )
        if not value:
            # JSON has no way to write the dimensions behind an empty one: the model's stand.
            shape += [size if isinstance(size, int) else 0 for size in spec.shape[len(shape) :]]
            break
        value = value[0]
    return tuple(shape)


def _flatten(spec: TensorSpec, value: object, shape: tuple[int, ...], flat: list[object]) -> None:
    if not shape:
        if isinstance(value, list):
            raise _ragged(spec)
        flat.append(value)
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        raise _ragged(spec)
    if len(shape) == 1:
        if any(isinstance(item, list) for item in value):
            raise _ragged(spec)
        flat += value
        return
    for item in value:
        _flatten(spec, item, shape[1:], flat)


def _ragged(spec: TensorSpec) -> InputProblem:
    return InputProblem(
        ErrorCode.INPUT_SHAPE,
        f"input {spec.name!r} has rows of different lengths: nest the lists as {spec}",
    )


def _require(
    spec: TensorSpec, flat: list[object], kind: type | tuple[type, ...], text: str
) -> None:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    for item in flat:
        # Exact types: True is no number here, although Python counts with it.
        if type(item) not in kinds:
            raise InputProblem(
                ErrorCode.INPUT_TYPE,
                f"input {spec.name!r} is {spec.dtype}, so its elements are {text}; "
                f"{str(item)[:40]!r} is not",
            )
