"""Real values to a tiny model's integers and back: what clients do, so that boards need no floats."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from maille_protocol.errors import UsageError
from maille_protocol.signature import TensorSpec
from maille_protocol.tensors import Array
from maille_protocol.tiny.model import Model, Quantisation, Tensor, TensorDescription


def signature(model: Model) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as a task carries them: integers, channels last, no batch."""
    described = model.description
    return (
        _specs(model.inputs, described.inputs),
        _specs(model.outputs, described.outputs),
    )


def quantise_inputs(model: Model, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The integer tensors of a task, from real values in the shapes of the original model.

    An array may have a batch axis of 1 in front. One that has the tensor's own integer type
    counts as quantised already and may have either shape; it is only brought into order. Values
    beyond the range are clamped.

    Raises:
        UsageError: a name, shape or type that does not fit, or a value that is no number.
    """
    described = model.description.inputs
    _same_names([item.name for item in described], arrays, "input")
    return {
        description.name: _quantise(tensor, description, arrays[description.name])
        for tensor, description in zip(model.inputs, described, strict=True)
    }


def dequantise_outputs(model: Model, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """What the original model would have given: labels (int64 or text) or float32 values.

    Raises:
        UsageError: a name, size or type that does not fit, or an index without a label.
    """
    described = model.description.outputs
    _same_names([item.name for item in described], arrays, "output")
    return {
        description.name: _dequantise(tensor, description, arrays[description.name])
        for tensor, description in zip(model.outputs, described, strict=True)
    }


def quantise_batch(model: Model, arrays: Mapping[str, Array]) -> list[Array]:
    """Real values [sample, ...] of each input as integers [sample, element], for `run_batch`.

    Raises:
        UsageError: a name, shape or type that does not fit, or a value that is no number.
    """
    described = model.description.inputs
    _same_names([item.name for item in described], arrays, "input")
    quantised: list[Array] = []
    for tensor, description in zip(model.inputs, described, strict=True):
        array = arrays[description.name]
        if array.shape[1:] != description.shape:
            raise UsageError(_wrong_shape(description, array.shape[1:]))
        integers = _to_integers(tensor, description, array)
        quantised.append(integers.reshape(len(array), tensor.count))
    return quantised


def dequantise_batch(model: Model, outputs: Sequence[Array]) -> dict[str, Array]:
    """What `run_batch` gave, [sample, element], as the original model's outputs [sample, ...].

    Raises:
        UsageError: an index without a label.
    """
    return {
        description.name: _to_real(description, output.reshape(-1, *description.tiny_shape))
        for description, output in zip(model.description.outputs, outputs, strict=True)
    }


def _quantise(tensor: Tensor, description: TensorDescription, array: Array) -> Array:
    shape = description.shape
    dtype = np.dtype(tensor.element_type.dtype)
    if array.shape in {(1, *shape), (1, *description.tiny_shape)}:
        array = array[0]
    if array.dtype == dtype:
        if array.shape == description.tiny_shape:
            return array
        if array.shape == shape:
            return np.ascontiguousarray(array.transpose(description.order))
    if array.shape != shape:
        raise UsageError(_wrong_shape(description, array.shape))
    integers: Array = _to_integers(tensor, description, array[np.newaxis])[0]
    return integers


def _wrong_shape(description: TensorDescription, shape: tuple[int, ...]) -> str:
    return (
        f"input {description.name!r} has shape {list(shape)}, "
        f"the model takes {list(description.shape)}"
    )


def _to_integers(tensor: Tensor, description: TensorDescription, array: Array) -> Array:
    """[sample, ...] in the original's shape to [sample, ...] in the tiny shape."""
    name = description.name
    dtype = np.dtype(tensor.element_type.dtype)
    if array.dtype.kind not in "biuf":
        raise UsageError(f"input {name!r} is {array.dtype}, the model takes numbers")
    real = array.transpose(0, *(axis + 1 for axis in description.order)).astype(np.float64)
    if not np.isfinite(real).all():
        raise UsageError(f"input {name!r} holds a value that is not a finite number")
    scale, offset = _columns(description.quantisations, description.tiny_shape)
    limits = np.iinfo(dtype)
    return np.rint((real - offset) / scale).clip(limits.min, limits.max).astype(dtype)


def _dequantise(tensor: Tensor, description: TensorDescription, array: Array) -> Array:
    if array.dtype != tensor.element_type.dtype or array.size != tensor.count:
        raise UsageError(
            f"output {description.name!r} is {array.dtype}{list(array.shape)}, "
            f"the model gives {tensor.element_type.dtype}{list(description.tiny_shape)}"
        )
    real: Array = _to_real(description, array.reshape(1, *description.tiny_shape))[0]
    return real


def _to_real(description: TensorDescription, array: Array) -> Array:
    """[sample, ...] in the tiny shape to [sample, ...] in the original's."""
    back = (0, *(int(axis) + 1 for axis in np.argsort(description.order)))
    if description.labels:
        highest = int(array.max())
        if not 0 <= int(array.min()) <= highest < len(description.labels):
            raise UsageError(f"output {description.name!r} is {highest}, which has no label")
        texts = any(isinstance(label, str) for label in description.labels)
        labels: Array = np.array(description.labels, dtype=np.object_ if texts else np.int64)
        named: Array = labels[array.astype(np.int64)].transpose(back)
        return named
    scale, offset = _columns(description.quantisations, description.tiny_shape)
    real = offset + array.astype(np.float64) * scale
    return real.astype(np.float32).transpose(back)


def _columns(
    quantisations: Sequence[Quantisation], shape: tuple[int, ...]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    scale = np.array([value.scale for value in quantisations], np.float64)
    offset = np.array([value.offset for value in quantisations], np.float64)
    if len(quantisations) == 1:
        return scale, offset
    return scale.reshape(shape), offset.reshape(shape)


def _same_names(wanted: Sequence[str], given: Mapping[str, Array], what: str) -> None:
    if set(wanted) != set(given):
        raise UsageError(
            f"{what}s {', '.join(map(repr, given)) or 'none'}, the model has "
            f"{', '.join(map(repr, wanted))}"
        )


def _specs(
    tensors: Sequence[Tensor], descriptions: Sequence[TensorDescription]
) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(description.name, tensor.element_type.dtype, description.tiny_shape)
        for tensor, description in zip(tensors, descriptions, strict=True)
    )
