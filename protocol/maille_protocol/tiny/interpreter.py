"""The tiny format's arithmetic in code: integers only, each layer as `TINY.md` words it.

Written for reading, with a batch axis in front so that whole data sets can be judged. It takes
checked models only (`decode_model`, `check_model`).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from maille_protocol.errors import UsageError
from maille_protocol.tensors import Array
from maille_protocol.tiny.codes import TREE_LEAF, WEIGHT_OFFSET, ElementType
from maille_protocol.tiny.model import (
    Add,
    ArgMax,
    AveragePool,
    Conv2d,
    Dense,
    DepthwiseConv2d,
    Forest,
    Layer,
    Lookup,
    MaxPool,
    Model,
    Requantisation,
    Softmax,
    Tensor,
    Window,
)

Octets = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]

_CHANNEL = np.dtype([("bias", "<i4"), ("multiplier", "<u2"), ("shift", "u1")])
_NODE = np.dtype([("feature", "u1"), ("threshold", "<i2"), ("jump", "<u2")])
_ELEMENTS: dict[ElementType, np.dtype[np.generic]] = {
    ElementType.UINT8: np.dtype("u1"),
    ElementType.INT16: np.dtype("<i2"),
    ElementType.INT32: np.dtype("<i4"),
}


def run(model: Model, inputs: Sequence[Array]) -> tuple[Array, ...]:
    """The outputs, flat, for one input each of the model's inputs (any shape, right count and type).

    Raises:
        UsageError: the inputs are not what the model takes.
    """
    return tuple(output[0] for output in run_batch(model, [item[np.newaxis] for item in inputs]))


def run_batch(model: Model, inputs: Sequence[Array]) -> tuple[Array, ...]:
    """Like `run` for many at once: first axis of every input and output.

    Raises:
        UsageError: the inputs are not what the model takes.
    """
    if len(inputs) != len(model.inputs):
        raise UsageError(f"{len(inputs)} inputs, the model takes {len(model.inputs)}")
    rows = len(inputs[0])
    arena: Octets = np.zeros((rows, model.arena_bytes), np.uint8)
    for tensor, array in zip(model.inputs, inputs, strict=True):
        dtype = tensor.element_type.dtype
        if array.dtype != dtype or array.size != rows * tensor.count or len(array) != rows:
            raise UsageError(
                f"an input of {array.dtype}{list(array.shape)}, "
                f"the model takes {tensor.count} elements of {dtype}"
            )
        _write(arena, tensor, array.reshape(rows, tensor.count))
    for layer in model.layers:
        _write(arena, layer.writes(), run_layer(layer, arena))
    return tuple(_read(arena, tensor).astype(tensor.element_type.dtype) for tensor in model.outputs)


def self_test(model: Model) -> int | None:
    """The index of the first embedded test that fails, or None."""
    size = model.input_bytes + model.output_bytes
    tests = np.frombuffer(model.self_tests, np.uint8).reshape(-1, size)
    inputs: list[Array] = []
    start = 0
    for tensor in model.inputs:
        part = np.ascontiguousarray(tests[:, start : start + tensor.size_bytes])
        inputs.append(part.view(_ELEMENTS[tensor.element_type]))
        start += tensor.size_bytes
    given = np.concatenate([_octets(output) for output in run_batch(model, inputs)], axis=1)
    wrong = (given != tests[:, start:]).any(axis=1)
    return int(wrong.argmax()) if wrong.any() else None


def make_self_tests(model: Model, inputs: Sequence[Array]) -> bytes:
    """The bytes of self-tests for `inputs` (as for `run_batch`), in order."""
    outputs = run_batch(model, inputs)
    rows = len(outputs[0])
    parts = [_octets(array.reshape(rows, -1)) for array in (*inputs, *outputs)]
    return np.concatenate(parts, axis=1).tobytes()


def requantise(accumulators: Integers, requantisation: Requantisation) -> Octets:
    """The one rounding rule: accumulators [..., channel] to uint8."""
    channels = np.frombuffer(requantisation.channels, _CHANNEL)
    multiplier = channels["multiplier"].astype(np.int64)
    shift = channels["shift"].astype(np.int64)
    scaled = (accumulators * multiplier) >> 16
    half = np.where(shift == 0, 0, np.int64(1) << np.maximum(shift - 1, 0))
    rounded = (scaled + half) >> shift
    clamped: Integers = (requantisation.zero + rounded).clip(
        requantisation.low, requantisation.high
    )
    return clamped.astype(np.uint8)


def run_layer(layer: Layer, arena: Octets) -> Array:
    """What the layer writes, [row, element], from an arena [row, byte]."""
    source = _read(arena, layer.reads()[0])
    match layer:
        case Dense():
            weights = _weights(layer.weights, (layer.output_count, layer.input_count))
            sums = source.astype(np.int64) @ weights.T
            return requantise(_biased(sums, layer.requantisation), layer.requantisation)
        case Conv2d() | DepthwiseConv2d():
            return _convolve(layer, source)
        case AveragePool():
            padded = _pad(source, layer.window, layer.pad_value)
            sums = np.zeros(_output_shape(padded, layer.window), np.int64)
            for row, column in _kernel_places(layer.window):
                sums += _slide(padded, layer.window, row, column)
            return _flat(requantise(_biased(sums, layer.requantisation), layer.requantisation))
        case MaxPool():
            # No element is below 0, so padding of 0 never wins over an element of the input.
            padded = _pad(source, layer.window, 0)
            largest = np.zeros(_output_shape(padded, layer.window), np.int64)
            for row, column in _kernel_places(layer.window):
                largest = np.maximum(largest, _slide(padded, layer.window, row, column))
            return _flat(largest.astype(np.uint8))
        case Add():
            second = _read(arena, layer.reads()[1])
            sums = source.astype(np.int64) * layer.weight
            sums += second.astype(np.int64) * layer.second_weight
            sums = _biased(sums[..., np.newaxis], layer.requantisation)
            return _flat(requantise(sums, layer.requantisation))
        case Lookup():
            replaced: Octets = np.frombuffer(layer.table, np.uint8)[source]
            return replaced
        case ArgMax():
            indices: Integers = source.argmax(axis=1)
            return indices.astype(np.uint8)[:, np.newaxis]
        case Softmax():
            return _softmax(layer, source)
        case Forest():
            return _forest(layer, source)


def _convolve(layer: Conv2d | DepthwiseConv2d, source: Array) -> Array:
    window = layer.window
    padded = _pad(source, window, layer.pad_value)
    kernel = (window.kernel_height, window.kernel_width)
    sums = np.zeros(_output_shape(padded, window), np.int64)
    if isinstance(layer, Conv2d):
        shape = (window.output_channels, *kernel, window.input_channels)
        weights = _weights(layer.weights, shape)
        for row, column in _kernel_places(window):
            sums += _slide(padded, window, row, column) @ weights[:, row, column].T
    else:
        weights = _weights(layer.weights, (window.output_channels, *kernel))
        copies = window.output_channels // window.input_channels
        for row, column in _kernel_places(window):
            elements = np.repeat(_slide(padded, window, row, column), copies, axis=-1)
            sums += elements * weights[:, row, column]
    return _flat(requantise(_biased(sums, layer.requantisation), layer.requantisation))


def _softmax(layer: Softmax, source: Array) -> Octets:
    table = np.zeros(256, np.int64)
    entries = np.frombuffer(layer.table, "<u2")
    table[: len(entries)] = entries
    elements = source.astype(np.int64)
    shares = table[elements.max(axis=1, keepdims=True) - elements]
    total = shares.sum(axis=1, keepdims=True)
    rounded: Integers = (255 * shares + total // 2) // total
    return rounded.astype(np.uint8)


def _forest(layer: Forest, source: Array) -> Array:
    nodes = np.frombuffer(layer.nodes, _NODE)
    features = nodes["feature"].astype(np.int64)
    thresholds = nodes["threshold"].astype(np.int64)
    jumps = nodes["jump"].astype(np.int64)
    leaves = np.frombuffer(layer.leaves, "<i2").astype(np.int64).reshape(-1, layer.output_count)
    bases = np.frombuffer(layer.bases, "<i4").astype(np.int64)
    sums = np.tile(bases, (len(source), 1))
    every = np.arange(len(source))
    for root in np.frombuffer(layer.roots, "<u2").tolist():
        at = np.full(len(source), root, np.int64)
        while (walking := features[at] != TREE_LEAF).any():
            row, node = every[walking], at[walking]
            left = source[row, features[node]] <= thresholds[node]
            at[walking] = node + np.where(left, 1, jumps[node])
        sums += leaves[thresholds[at] & 0xFFFF]
    return sums.astype(np.int32)


def _biased(sums: Integers, requantisation: Requantisation) -> Integers:
    biases = np.frombuffer(requantisation.channels, _CHANNEL)["bias"]
    return sums + biases.astype(np.int64)


def _weights(stored: bytes, shape: tuple[int, ...]) -> Integers:
    return np.frombuffer(stored, np.uint8).astype(np.int64).reshape(shape) - WEIGHT_OFFSET


def _pad(source: Array, window: Window, value: int) -> Integers:
    rows = len(source)
    bottom = (window.output_height - 1) * window.stride_height + window.kernel_height
    right = (window.output_width - 1) * window.stride_width + window.kernel_width
    height = max(window.pad_top + window.input_height, bottom)
    width = max(window.pad_left + window.input_width, right)
    padded = np.full((rows, height, width, window.input_channels), value, np.int64)
    padded[
        :,
        window.pad_top : window.pad_top + window.input_height,
        window.pad_left : window.pad_left + window.input_width,
    ] = source.reshape(rows, window.input_height, window.input_width, window.input_channels)
    return padded


def _kernel_places(window: Window) -> list[tuple[int, int]]:
    return [
        (row, column)
        for row in range(window.kernel_height)
        for column in range(window.kernel_width)
    ]


def _slide(padded: Integers, window: Window, row: int, column: int) -> Integers:
    """The input elements under one place of the kernel, for every output position."""
    return padded[
        :,
        row : row + (window.output_height - 1) * window.stride_height + 1 : window.stride_height,
        column : column + (window.output_width - 1) * window.stride_width + 1 : window.stride_width,
    ]


def _output_shape(padded: Integers, window: Window) -> tuple[int, int, int, int]:
    return (len(padded), window.output_height, window.output_width, window.output_channels)


def _flat(elements: Octets) -> Octets:
    return elements.reshape(len(elements), -1)


def _read(arena: Octets, tensor: Tensor) -> Array:
    part = np.ascontiguousarray(arena[:, tensor.offset : tensor.end])
    elements: Array = part.view(_ELEMENTS[tensor.element_type])
    return elements


def _write(arena: Octets, tensor: Tensor, array: Array) -> None:
    arena[:, tensor.offset : tensor.end] = _octets(array.astype(_ELEMENTS[tensor.element_type]))


def _octets(array: Array) -> Octets:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).view(np.uint8).reshape(len(array), -1)
