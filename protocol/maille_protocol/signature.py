"""What a model takes and gives: named, typed, shaped tensors, and the check of inputs against it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from maille_protocol.codes import ErrorCode
from maille_protocol.tensors import Array


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model.

    `dtype` is a NumPy name ("float32", "bool", ...; "str" for text). A dimension is a size, or a
    name (or None) where the model takes any size; equal names must be equal sizes.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        """As a person would write it: `X: float32[batch, 64]`."""
        return f"{self.name}: {self.dtype}{_shape_text(self.shape)}"


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Why inputs do not fit a model; `text` names the cause and what would fit."""

    code: ErrorCode
    text: str


def dtype_name(array: Array) -> str:
    """The name that a `TensorSpec` uses for the array's type."""
    return "str" if array.dtype.kind in "UO" else _name_of_type(array.dtype)


@lru_cache(maxsize=64)
def _name_of_type(dtype: np.dtype[np.generic]) -> str:
    # NumPy puts the name together anew each time, which takes as long as all other checks.
    return dtype.name


def check_inputs(specs: Sequence[TensorSpec], tensors: Mapping[str, Array]) -> Mismatch | None:
    """The first reason why `tensors` are not what `specs` ask for, or None."""
    names = [spec.name for spec in specs]
    unknown = [name for name in tensors if name not in names]
    missing = [name for name in names if name not in tensors]
    if unknown or missing:
        problems = [f"no input is called {name!r}" for name in unknown]
        problems += [f"input {name!r} is missing" for name in missing]
        wanted = ", ".join(str(spec) for spec in specs) or "none"
        return Mismatch(
            ErrorCode.INPUT_NAME, f"{'; '.join(problems)}. The model's inputs: {wanted}"
        )
    sizes: dict[str, int] = {}
    for spec in specs:
        array = tensors[spec.name]
        given = dtype_name(array)
        # On the wire, elements tell a text tensor from a boolean one; without any, both look alike.
        if given != spec.dtype and (array.size or {given, spec.dtype} != {"bool", "str"}):
            return Mismatch(
                ErrorCode.INPUT_TYPE,
                f"input {spec.name!r} is {given}, the model takes {spec.dtype}: convert it first",
            )
        if not _shape_fits(spec.shape, array.shape, sizes):
            return Mismatch(
                ErrorCode.INPUT_SHAPE,
                f"input {spec.name!r} has shape {list(array.shape)}, "
                f"the model takes {_shape_text(spec.shape)}",
            )
    return None


def batch_axis(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """Whether several tasks may be joined along the first axis and run as one.

    True where the first dimension of every input and output is open and every input's other
    dimensions are fixed, so that joined inputs keep one shape. Outputs may leave theirs open:
    many exporters do not say them.
    """
    if not inputs or not outputs:
        return False
    return all(
        spec.shape
        and not isinstance(spec.shape[0], int)
        and all(isinstance(size, int) for size in spec.shape[1:])
        for spec in inputs
    ) and all(spec.shape and not isinstance(spec.shape[0], int) for spec in outputs)


def _shape_fits(
    wanted: tuple[int | str | None, ...], given: tuple[int, ...], sizes: dict[str, int]
) -> bool:
    if len(wanted) != len(given):
        return False
    for want, size in zip(wanted, given, strict=True):
        if isinstance(want, int):
            if want != size:
                return False
        elif want is not None and sizes.setdefault(want, size) != size:
            return False
    return True


def _shape_text(shape: tuple[int | str | None, ...]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
