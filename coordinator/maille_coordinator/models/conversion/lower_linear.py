"""Operators with weights or windows: matrix products, convolutions, pools."""

import numpy as np

from maille_coordinator.models.conversion.builder import (
    Builder,
    Value,
    attribute,
    integers,
)
from maille_coordinator.models.conversion.errors import UnsupportedModel
from maille_coordinator.models.conversion.graph import Node
from maille_coordinator.models.conversion.lower_classes import classify
from maille_coordinator.models.conversion.operations import Linear, Pool, Positions, Reals
from maille_protocol.tiny import Window

_CHANNELS_LAST = {2: (1, 0), 3: (1, 2, 0)}
"""From [channels, ...] as ONNX has it to channels last."""


def gemm(builder: Builder, node: Node) -> None:
    """Gemm: alpha * x W + beta * c."""
    weights = builder.constant(node, 1)
    if weights is None or attribute(node.attributes, "transA", 0):
        raise UnsupportedModel(f"{node}: its weights have to be constant and x not transposed")
    matrix = np.asarray(weights, np.float64) * _number(node, "alpha")
    if attribute(node.attributes, "transB", 0):
        matrix = matrix.T
    bias = np.zeros(matrix.shape[1])
    given = builder.constant(node, 2)
    if given is not None:
        bias = bias + np.asarray(given, np.float64).reshape(-1) * _number(node, "beta")
    _product(builder, node, matrix, bias)


def matmul(builder: Builder, node: Node) -> None:
    """MatMul of data with a constant matrix."""
    if builder.is_constant(node, 0):
        raise UnsupportedModel(f"{node}: constant times data; only data times constant is possible")
    weights = builder.constant(node, 1)
    if weights is None or weights.ndim != 2:
        raise UnsupportedModel(f"{node}: it multiplies by something other than one matrix")
    matrix = np.asarray(weights, np.float64)
    _product(builder, node, matrix, np.zeros(matrix.shape[1]))


def linear_classifier(builder: Builder, node: Node) -> None:
    """LinearClassifier of scikit-learn's linear models: a dense layer, shares, a choice."""
    coefficients = np.array(node.attributes["coefficients"], np.float64)
    intercepts = np.array(node.attributes.get("intercepts", [0.0]), np.float64)
    labels = class_labels(node)
    if len(intercepts) not in {1, len(labels)} or len(intercepts) == 1 < len(labels) - 1:
        raise UnsupportedModel(f"{node}: {len(intercepts)} intercepts for {len(labels)} classes")
    matrix = coefficients.reshape(len(intercepts), -1)
    if len(intercepts) == 1:
        matrix, intercepts = np.vstack([-matrix, matrix]), np.array([-intercepts[0], intercepts[0]])
    transform = node.attributes.get("post_transform", b"NONE")
    if transform not in {b"NONE", b"SOFTMAX", b"LOGISTIC"}:
        raise UnsupportedModel(f"{node}: its post_transform {transform!r} has no tiny counterpart")
    value = builder.settle(node)
    made = _dense(builder, node, value, matrix.T, intercepts, node.outputs[1])
    classify(builder, node, made, labels, transform)


def class_labels(node: Node) -> tuple[int | str, ...]:
    """The classes of a classifier of scikit-learn."""
    for name in ("classlabels_ints", "classlabels_int64s", "classlabels_strings"):
        given = node.attributes.get(name)
        if isinstance(given, list | tuple) and given:
            return tuple(
                item.decode("utf-8", "replace")[:64] if isinstance(item, bytes) else int(item)
                for item in given
            )
    raise UnsupportedModel(f"{node}: it names no classes")


def _number(node: Node, name: str) -> float:
    value = node.attributes.get(name, 1.0)
    return float(value) if isinstance(value, int | float) else 1.0


def _product(builder: Builder, node: Node, matrix: Reals, bias: Reals) -> None:
    value = builder.value(node)
    if len(value.shape) != 1 or value.scale is None:
        value = builder.settle(node)
    if len(value.shape) == 1:
        made = _dense(builder, node, value, matrix, bias, node.outputs[0])
        builder.define(node.outputs[0], made)
        return
    # The same matrix for each row is a convolution with a window of one element.
    value = builder.arrange(node, value, tuple(range(len(value.shape))))
    *rows, inputs = value.shape
    count, outputs = int(np.prod(rows)), matrix.shape[1]
    window = Window(1, count, inputs, 1, count, outputs, 1, 1, 1, 1, 0, 0)
    tensor = builder.new_tensor(node.outputs[0], count * outputs)
    builder.append(Linear(str(node), (value.tensor,), tensor, matrix.T.copy(), bias.copy(), window))
    positions = np.arange(count * outputs).reshape(*rows, outputs)
    builder.define(node.outputs[0], Value(tensor, positions))


def _dense(
    builder: Builder, node: Node, value: Value, matrix: Reals, bias: Reals, output: str
) -> Value:
    if value.positions.size != matrix.shape[0]:
        raise UnsupportedModel(
            f"{node}: {matrix.shape[0]} rows of weights for {value.positions.size} inputs"
        )
    outputs = matrix.shape[1]
    weights = np.zeros((outputs, builder.program.tensors[value.tensor].count))
    # Elements that the value has more than once get the sum of their weights.
    np.add.at(weights.T, value.positions.ravel(), matrix)
    if value.scale is not None:
        bias = bias + weights @ value.scale.offset
        weights = weights * value.scale.gain
    tensor = builder.new_tensor(output, outputs)
    builder.append(Linear(str(node), (value.tensor,), tensor, weights, bias.copy()))
    return Value(tensor, np.arange(outputs))


def conv(builder: Builder, node: Node) -> None:
    """Conv in one or two dimensions: dense over channels, or depthwise."""
    given = builder.constant(node, 1)
    if given is None or given.ndim not in {3, 4}:
        raise UnsupportedModel(f"{node}: only convolutions in one or two dimensions are possible")
    weights = np.asarray(given, np.float64)
    if weights.ndim == 3:
        weights = weights[:, :, np.newaxis, :]
    outputs, each = weights.shape[:2]
    value = builder.settle(node)
    value = builder.arrange(node, value, _channels_last(node, value))
    builder.define(node.inputs[0], value)
    inputs = value.shape[0]
    group = attribute(node.attributes, "group", 1)
    depthwise = group == inputs and group > 1 and each == 1
    if group != 1 and not depthwise:
        raise UnsupportedModel(
            f"{node}: {group} groups over {inputs} channels; a tiny convolution has one group, or "
            "one for each channel (depthwise)"
        )
    bias = builder.constant(node, 2)
    window = _window(node, value, outputs, weights.shape[2:])
    tensor = builder.new_tensor(node.outputs[0], window.output_count)
    builder.append(
        Linear(
            str(node),
            (value.tensor,),
            tensor,
            weights.transpose(0, 2, 3, 1).reshape(outputs, -1),
            np.zeros(outputs) if bias is None else np.asarray(bias, np.float64).copy(),
            window,
            depthwise,
        )
    )
    builder.define(node.outputs[0], Value(tensor, _positions(window, len(value.shape))))


def max_pool(builder: Builder, node: Node) -> None:
    """MaxPool."""
    if len(node.outputs) > 1 and node.outputs[1]:
        raise UnsupportedModel(f"{node}: its second output (indices) has no tiny counterpart")
    _pool(builder, node, average=False)


def average_pool(builder: Builder, node: Node) -> None:
    """AveragePool."""
    _pool(builder, node, average=True)


def _pool(builder: Builder, node: Node, *, average: bool) -> None:
    value = builder.settle(node)
    value = builder.arrange(node, value, _channels_last(node, value))
    builder.define(node.inputs[0], value)
    kernel = integers(node.attributes, "kernel_shape")
    sizes = (1, *kernel) if len(kernel) == 1 else tuple(kernel)
    window = _window(node, value, value.shape[0], sizes)
    beyond_rows = (window.output_height - 1) * window.stride_height + window.kernel_height
    beyond_columns = (window.output_width - 1) * window.stride_width + window.kernel_width
    padded = (
        *(window.pad_top, window.pad_left),
        beyond_rows - window.pad_top - window.input_height,
        beyond_columns - window.pad_left - window.input_width,
    )
    if average and max(padded) > 0 and not attribute(node.attributes, "count_include_pad", 0):
        raise UnsupportedModel(
            f"{node}: an average that leaves padding out has no tiny counterpart: pool without "
            "padding, or with count_include_pad=1"
        )
    tensor = builder.new_tensor(node.outputs[0], window.output_count)
    builder.append(Pool(str(node), (value.tensor,), tensor, window, average))
    builder.define(node.outputs[0], Value(tensor, _positions(window, len(value.shape))))


def global_average_pool(builder: Builder, node: Node) -> None:
    """GlobalAveragePool: the dimensions of space become 1."""
    axes = tuple(range(1, len(builder.value(node).shape)))
    _mean(builder, node, axes, keep=True)


def reduce_mean(builder: Builder, node: Node) -> None:
    """ReduceMean over space: a global average pool."""
    axes = integers(node.attributes, "axes")
    if len(node.inputs) > 1:
        given = builder.constant(node, 1)
        axes = [] if given is None else [int(axis) for axis in given.ravel()]
    rank = len(builder.value(node).shape) + 1
    positive = sorted(axis % rank for axis in axes)
    if not positive or positive[0] == 0 or len(positive) != rank - 2:
        raise UnsupportedModel(
            f"{node}: a mean over axes {axes}; only one over all of height and width (a global "
            "average pool) is possible"
        )
    keep = bool(attribute(node.attributes, "keepdims", 1))
    _mean(builder, node, tuple(axis - 1 for axis in positive), keep=keep)


def _mean(builder: Builder, node: Node, axes: tuple[int, ...], *, keep: bool) -> None:
    value = builder.settle(node)
    (channel_axis,) = set(range(len(value.shape))) - set(axes)
    value = builder.arrange(node, value, (*axes, channel_axis))
    builder.define(node.inputs[0], value)
    channels = value.shape[channel_axis]
    count = value.positions.size // channels
    sizes = [value.shape[axis] for axis in axes]
    height, width = (sizes[0], sizes[1]) if len(sizes) == 2 else (1, count)
    window = Window(height, width, channels, 1, 1, channels, height, width, 1, 1, 0, 0)
    tensor = builder.new_tensor(node.outputs[0], channels)
    builder.append(Pool(str(node), (value.tensor,), tensor, window, average=True))
    shape = [1] * len(value.shape)
    shape[channel_axis] = channels
    positions = np.arange(channels)
    builder.define(node.outputs[0], Value(tensor, positions.reshape(shape) if keep else positions))


def _channels_last(node: Node, value: Value) -> tuple[int, ...]:
    axes = _CHANNELS_LAST.get(len(value.shape))
    if axes is None:
        raise UnsupportedModel(
            f"{node}: its input has {len(value.shape) + 1} dimensions; convolutions and pools in one "
            "or two dimensions are possible"
        )
    return axes


def _positions(window: Window, dimensions: int) -> Positions:
    shape = (window.output_height, window.output_width, window.output_channels)
    moved: Positions = np.arange(window.output_count).reshape(shape).transpose(2, 0, 1)
    return moved[:, 0] if dimensions == 2 else moved


def _window(node: Node, value: Value, outputs: int, kernel: tuple[int, ...]) -> Window:
    attributes = node.attributes
    channels, *sizes = value.shape
    height, width = (1, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])
    if any(size != 1 for size in integers(attributes, "dilations")):
        raise UnsupportedModel(
            f"{node}: a dilated window has no tiny counterpart: use a larger kernel or a stride"
        )
    strides = integers(attributes, "strides") or [1] * len(sizes)
    pads = integers(attributes, "pads") or [0] * (2 * len(sizes))
    if len(sizes) == 1:
        strides, pads = [1, *strides], [0, pads[0], 0, pads[1]]
    places: list[tuple[int, int]] = []
    for axis, size in enumerate((height, width)):
        places.append(_place(node, size, kernel[axis], strides[axis], (pads[axis], pads[axis + 2])))
    (rows, top), (columns, left) = places
    return Window(
        *(height, width, channels, rows, columns, outputs),
        *(kernel[0], kernel[1], strides[0], strides[1], top, left),
    )


def _place(
    node: Node, size: int, kernel: int, stride: int, pads: tuple[int, int]
) -> tuple[int, int]:
    """Number of windows along an axis, and padding before the first."""
    mode = node.attributes.get("auto_pad", b"NOTSET")
    before, behind = pads
    if mode in {b"SAME_UPPER", b"SAME_LOWER"}:
        count = -(-size // stride)
        total = max(0, (count - 1) * stride + kernel - size)
        before = total // 2 if mode == b"SAME_UPPER" else total - total // 2
        return count, before
    if mode == b"VALID":
        before = behind = 0
    room = size + before + behind - kernel
    if room < 0 or min(before, behind) < 0:
        raise UnsupportedModel(f"{node}: its window of {kernel} does not fit its input of {size}")
    count = room // stride + 1
    if attribute(node.attributes, "ceil_mode", 0):
        count = -(-room // stride) + 1
        # As ONNX has it: no window may start in the padding behind the input.
        if (count - 1) * stride >= size + before:
            count -= 1
    if before >= kernel or (count - 1) * stride - before >= size:
        raise UnsupportedModel(
            f"{node}: a window would lie in padding alone, which tiny models do not have: pad less"
        )
    return count, before
