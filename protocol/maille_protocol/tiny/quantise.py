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


def _quantise(tensor: Tensor, description: TensorDescription, array: Array) -> Array:
    name, shape = description.name, description.shape
    dtype = np.dtype(tensor.element_type.dtype)
    if array.shape in {(1, *shape), (1, *description.tiny_shape)}:
        array = array[0]
    if array.dtype == dtype and array.shape == description.tiny_shape:
        return array
    if array.shape != shape:
        raise UsageError(
            f"input {name!r} has shape {list(array.shape)}, the model takes {list(shape)}"
        )
    ordered = array.transpose(description.order)
    if array.dtype == dtype:
        return np.ascontiguousarray(ordered)
    if array.dtype.kind not in "biuf":
        raise UsageError(f"input {name!r} is {array.dtype}, the model takes numbers")
    real = ordered.astype(np.float64)
    if not np.isfinite(real).all():
        raise UsageError(f"input {name!r} holds a value that is not a finite number")
    scale, offset = _columns(description.quantisations, description.tiny_shape)
    limits = np.iinfo(dtype)
    return np.rint((real - offset) / scale).clip(limits.min, limits.max).astype(dtype)


def _dequantise(tensor: Tensor, description: TensorDescription, array: Array) -> Array:
    name = description.name
    if array.dtype != tensor.element_type.dtype or array.size != tensor.count:
        raise UsageError(
            f"output {name!r} is {array.dtype}{list(array.shape)}, "
            f"the model gives {tensor.element_type.dtype}{list(description.tiny_shape)}"
        )
    ordered = array.reshape(description.tiny_shape)
    back = np.argsort(description.order)
    if description.labels:
        if int(ordered.max()) >= len(description.labels):
            raise UsageError(f"output {name!r} is {int(ordered.max())}, which has no label")
        texts = any(isinstance(label, str) for label in description.labels)
        labels: Array = np.array(description.labels, dtype=np.object_ if texts else np.int64)
        named: Array = labels[ordered].transpose(back)
        return named
    scale, offset = _columns(description.quantisations, description.tiny_shape)
    real = offset + ordered.astype(np.float64) * scale
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
