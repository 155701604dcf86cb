"""Operators without weights: element by element, shapes, shares and choices, labels."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import erf

import numpy as np

from maille_coordinator.models.conversion.builder import Builder, Handler, Value, attribute, reals
from maille_coordinator.models.conversion.errors import UnsupportedModel
from maille_coordinator.models.conversion.graph import Node
from maille_coordinator.models.conversion.operations import (
    Choice,
    Function,
    InputSource,
    Linear,
    Reals,
    Shares,
    Sum,
)
from maille_protocol.tiny import ElementType
from maille_protocol.tiny.codes import MAX_CLASSES

_ARITHMETIC: Mapping[str, Callable[[Reals, Reals], Reals]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Max": np.maximum,
    "Min": np.minimum,
}


def _sigmoid(real: Reals) -> Reals:
    return 1 / (1 + np.exp(-np.clip(real, -500, 500)))


def _elu(real: Reals, alpha: float) -> Reals:
    return np.where(real > 0, real, alpha * (np.exp(np.minimum(real, 0)) - 1))


def _gelu(real: Reals) -> Reals:
    return real * 0.5 * (1 + _erf(real / np.sqrt(2)))


def _logarithm(real: Reals) -> Reals:
    return np.log(np.maximum(real, 1e-30))


def _erf(real: Reals) -> Reals:
    return np.array([erf(item) for item in real.ravel().tolist()]).reshape(real.shape)


def _unary(node: Node) -> Function:
    """The function of an operator of one element."""

    def number(name: str, default: float) -> float:
        value = node.attributes.get(name, default)
        return float(value) if isinstance(value, int | float) else default

    alpha = number(
        "alpha", {"LeakyRelu": 0.01, "HardSigmoid": 0.2, "Selu": 1.67326}.get(node.op, 1)
    )
    match node.op:
        case "Sigmoid":
            return _sigmoid
        case "Tanh":
            return np.tanh
        case "LeakyRelu":
            return lambda real: np.where(real > 0, real, alpha * real)
        case "Elu":
            return lambda real: _elu(real, alpha)
        case "Selu":
            gamma = number("gamma", 1.0507)
            return lambda real: gamma * _elu(real, alpha)
        case "HardSigmoid":
            beta = number("beta", 0.5)
            return lambda real: np.clip(alpha * real + beta, 0, 1)
        case "HardSwish":
            return lambda real: real * np.clip(real / 6 + 0.5, 0, 1)
        case "Gelu":
            return _gelu
        case "Erf":
            return _erf
        case "Softplus":
            return lambda real: np.logaddexp(0, real)
        case "Softsign":
            return lambda real: real / (1 + np.abs(real))
        case "Sqrt":
            return lambda real: np.sqrt(np.maximum(real, 0))
        case "Reciprocal":
            return lambda real: 1 / np.where(real == 0, 1e-12, real)
        case "Log":
            return lambda real: np.log(np.maximum(real, 1e-12))
        case "Exp":
            return lambda real: np.exp(np.minimum(real, 700))
        case "Neg":
            return np.negative
        case "Abs":
            return np.abs
        case "Sin":
            return np.sin
        case "Cos":
            return np.cos
        case _:
            raise UnsupportedModel(f"{node}: unknown function")


UNARY = (
    *("Sigmoid", "Tanh", "LeakyRelu", "Elu", "Selu", "HardSigmoid", "HardSwish", "Gelu", "Erf"),
    *("Softplus", "Softsign", "Sqrt", "Reciprocal", "Log", "Exp", "Neg", "Abs", "Sin", "Cos"),
)


def unary(builder: Builder, node: Node) -> None:
    """A function of one element: rides along until a layer needs its result."""
    builder.apply(node, builder.value(node), _unary(node))


def relu(builder: Builder, node: Node) -> None:
    """Relu."""
    builder.clamp(node, builder.value(node), 0.0, np.inf)


def clip(builder: Builder, node: Node) -> None:
    """Clip (ReLU6 is Clip from 0 to 6), with bounds as attributes or inputs."""
    bounds = []
    for index, (name, default) in enumerate((("min", -np.inf), ("max", np.inf)), start=1):
        given = builder.constant(node, index)
        value = node.attributes.get(name, default) if given is None else given.item()
        bounds.append(float(value) if isinstance(value, int | float) else default)
    builder.clamp(node, builder.value(node), bounds[0], bounds[1])


def prelu(builder: Builder, node: Node) -> None:
    """PRelu with one slope for all."""
    slope = builder.constant(node, 1)
    if slope is None or slope.size != 1:
        raise UnsupportedModel(
            f"{node}: a slope for each channel has no tiny counterpart: use ReLU or LeakyReLU"
        )
    factor = float(slope.item())
    builder.apply(node, builder.value(node), lambda real: np.where(real > 0, real, factor * real))


def arithmetic(builder: Builder, node: Node) -> None:
    """Add, Sub, Mul, Div, ...: with a constant, with a function of the same tensor, or a sum."""
    if len(node.inputs) != 2:
        raise UnsupportedModel(f"{node}: {len(node.inputs)} operands; only two are possible")
    operate = _ARITHMETIC[node.op]
    if builder.is_constant(node, 0) or builder.is_constant(node, 1):
        _with_constant(builder, node, operate)
        return
    first, second = _unscaled(builder, node, 0), _unscaled(builder, node, 1)
    if first.tensor == second.tensor and np.array_equal(first.positions, second.positions):
        one, other = first.function or _same, second.function or _same
        combined = replace(first, function=lambda real: operate(one(real), other(real)))
        builder.define(node.outputs[0], combined)
        return
    if node.op != "Add":
        raise UnsupportedModel(
            f"{node}: of two computed tensors only the sum has a tiny counterpart: "
            "leave the gate or scaling out of the model"
        )
    first, second = builder.settle(node, 0), builder.settle(node, 1)
    if first.shape != second.shape or not np.array_equal(first.positions, second.positions):
        raise UnsupportedModel(f"{node}: its operands differ in shape or order in memory")
    count = builder.program.tensors[first.tensor].count
    made = builder.new_tensor(node.outputs[0], count)
    builder.append(Sum(str(node), (first.tensor, second.tensor), made))
    builder.define(node.outputs[0], Value(made, first.positions))


def _unscaled(builder: Builder, node: Node, index: int) -> Value:
    """An input whose scale, if one waits, has become a layer; a function still rides along."""
    value = builder.value(node, index)
    return builder.settle(node, index) if value.scale is not None else value


def _same(real: Reals) -> Reals:
    return real


def _with_constant(builder: Builder, node: Node, operate: Callable[[Reals, Reals], Reals]) -> None:
    swapped = builder.is_constant(node, 0)
    given = builder.constant(node, 0 if swapped else 1)
    value = builder.value(node, 1 if swapped else 0)
    constant = np.asarray(given, np.float64)
    one, zero = np.ones(()), np.zeros(())
    if node.op in {"Max", "Min"} and constant.size == 1:
        bound = float(constant.item())
        bounds = (bound, np.inf) if node.op == "Max" else (-np.inf, bound)
        builder.clamp(node, value, *bounds)
    elif node.op == "Add":
        builder.affine(node, value, one, constant)
    elif node.op == "Mul":
        builder.affine(node, value, constant, zero)
    elif node.op == "Sub":
        builder.affine(node, value, -one if swapped else one, constant if swapped else -constant)
    elif node.op == "Div" and not swapped:
        builder.affine(node, value, 1 / constant, zero)
    elif constant.size == 1:
        number = float(constant.item())
        if swapped:
            builder.apply(node, value, lambda real: operate(np.full_like(real, number), real))
        else:
            builder.apply(node, value, lambda real: operate(real, np.full_like(real, number)))
    else:
        raise UnsupportedModel(f"{node}: with more than one number it has no tiny counterpart")


def scaler(builder: Builder, node: Node) -> None:
    """Scaler of scikit-learn: (x - offset) * scale, folded into the inputs' quantisation."""
    scale, offset = reals(node.attributes, "scale"), reals(node.attributes, "offset")
    builder.affine(node, builder.value(node), scale, -offset * scale)


def batch_normalization(builder: Builder, node: Node) -> None:
    """BatchNormalization of inference: a scale and an offset for each channel."""
    parts = [builder.constant(node, index) for index in range(1, 5)]
    scale, bias, mean, variance = (np.asarray(part, np.float64) for part in parts)
    epsilon = node.attributes.get("epsilon", 1e-5)
    gain = scale / np.sqrt(variance + (epsilon if isinstance(epsilon, float) else 1e-5))
    value = builder.value(node)
    shape = (-1, *[1] * (len(value.shape) - 1))
    builder.affine(node, value, gain.reshape(shape), (bias - mean * gain).reshape(shape))


# --- shapes ---------------------------------------------------------------------------------------


def same(builder: Builder, node: Node) -> None:
    """Identity, Dropout, Cast between numbers: nothing happens."""
    builder.define(node.outputs[0], builder.value(node))


def reshape(builder: Builder, node: Node) -> None:
    """Reshape to a constant shape."""
    given = builder.constant(node, 1)
    value = builder.value(node)
    if given is None:
        raise UnsupportedModel(f"{node}: without a shape")
    before = (1, *value.shape)
    sizes = [int(size) for size in given.ravel()]
    if not attribute(node.attributes, "allowzero", 0):
        sizes = [before[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    _reshaped(builder, node, value, tuple(sizes))


def flatten(builder: Builder, node: Node) -> None:
    """Flatten."""
    value = builder.value(node)
    axis = attribute(node.attributes, "axis", 1) % (len(value.shape) + 2)
    if axis > 1 and int(np.prod(value.shape[: axis - 1])) != 1:
        raise UnsupportedModel(f"{node}: it flattens into the batch (axis {axis}): use axis 1")
    _reshaped(builder, node, value, (1, -1))


def squeeze(builder: Builder, node: Node) -> None:
    """Squeeze: the axes come as attribute or input; without, all of size 1."""
    value = builder.value(node)
    axes = _axes(builder, node)
    rank = len(value.shape) + 1
    if axes is None:
        gone = [axis for axis, size in enumerate(value.shape, start=1) if size == 1]
    else:
        gone = [axis % rank for axis in axes]
    shape = [size for axis, size in enumerate(value.shape, start=1) if axis not in gone]
    _reshaped(builder, node, value, (1, *shape))


def unsqueeze(builder: Builder, node: Node) -> None:
    """Unsqueeze."""
    value = builder.value(node)
    axes = _axes(builder, node) or []
    rank = len(value.shape) + 1 + len(axes)
    shape = [1, *value.shape]
    for axis in sorted(axis % rank for axis in axes):
        shape.insert(axis, 1)
    _reshaped(builder, node, value, tuple(shape))


def transpose(builder: Builder, node: Node) -> None:
    """Transpose that leaves the batch in front."""
    value = builder.value(node)
    given = node.attributes.get("perm")
    order = (
        list(given) if isinstance(given, list | tuple) else list(range(len(value.shape), -1, -1))
    )
    if order[0] != 0:
        raise UnsupportedModel(f"{node}: it moves the batch, which has to stay in front")
    builder.view(node, value.positions.transpose([axis - 1 for axis in order[1:]]))


def _axes(builder: Builder, node: Node) -> list[int] | None:
    given = node.attributes.get("axes")
    if isinstance(given, list | tuple):
        return [int(axis) for axis in given]
    constant = builder.constant(node, 1)
    return None if constant is None else [int(axis) for axis in constant.ravel()]


def _reshaped(builder: Builder, node: Node, value: Value, shape: tuple[int, ...]) -> None:
    try:
        positions = value.positions.reshape(shape)
    except ValueError:
        raise UnsupportedModel(
            f"{node}: {value.positions.size} elements cannot have the shape {list(shape)}"
        ) from None
    if positions.shape[:1] != (1,):
        raise UnsupportedModel(f"{node}: the shape {list(shape)} does not keep the batch in front")
    builder.view(node, positions[0])


def concat(builder: Builder, node: Node) -> None:
    """Concat of views of one tensor, or of the two probabilities of a binary classifier."""
    values = [_unscaled(builder, node, index) for index in range(len(node.inputs))]
    axis = attribute(node.attributes, "axis", 1)
    if len(values) == 1:
        builder.define(node.outputs[0], values[0])
        return
    if len({value.tensor for value in values}) == 1:
        first = values[0]
        if all(value.function is first.function for value in values):
            rank = len(first.shape) + 1
            positions = np.concatenate([value.positions for value in values], axis % rank - 1)
            builder.view(node, positions)
            return
        if _two_probabilities(builder, node, values):
            return
    raise UnsupportedModel(
        f"{node}: joining tensors has no tiny counterpart: give the model one branch"
    )


def _two_probabilities(builder: Builder, node: Node, values: list[Value]) -> bool:
    """1 - p and p, p a function of one number z: the same function of -z and of z."""
    negative, positive = (value.function or _same for value in values[:2])
    tensor = values[0].tensor
    producer = builder.producers.get(tensor)
    probe = np.linspace(-20, 20, 201)
    if (
        len(values) != 2
        or builder.program.tensors[tensor].count != 1
        or not isinstance(producer, Linear)
        or producer.window is not None
        or not np.allclose(negative(probe), positive(-probe), atol=1e-9)
    ):
        return False
    producer.weights = np.vstack([-producer.weights, producer.weights])
    producer.bias = np.concatenate([-producer.bias, producer.bias])
    source = builder.program.tensors[tensor]
    source.count = 2
    source.value = f"±{source.value}"
    builder.define(node.outputs[0], Value(tensor, np.arange(2), positive))
    return True


# --- classes --------------------------------------------------------------------------------------


def softmax(builder: Builder, node: Node) -> None:
    """Softmax over a whole flat tensor."""
    value = builder.settle(node)
    builder.define(node.outputs[0], _shares(builder, node, value, node.outputs[0]))


def log_softmax(builder: Builder, node: Node) -> None:
    """LogSoftmax: the logarithm of shares, which are told apart down to 1/255."""
    value = builder.settle(node)
    shares = _shares(builder, node, value, node.outputs[0])
    builder.define(node.outputs[0], replace(shares, function=_logarithm))
    builder.program.notes.append(
        f"{node}: shares below 1/255 all get the same logarithm; the order of classes is kept by "
        "taking an arg-max before"
    )


def _shares(builder: Builder, node: Node, value: Value, output: str) -> Value:
    count = builder.program.tensors[value.tensor].count
    if value.positions.size != count or max(value.shape, default=1) != count:
        raise UnsupportedModel(
            f"{node}: a softmax over a part of a tensor has no tiny counterpart: apply it to the "
            "last layer's flat output"
        )
    _check_classes(node, count)
    made = builder.new_tensor(output, count)
    builder.append(Shares(str(node), (value.tensor,), made))
    return Value(made, value.positions)


def arg_max(builder: Builder, node: Node) -> None:
    """ArgMax over a whole flat tensor; of shares it is the same as of what they were made from."""
    if attribute(node.attributes, "select_last_index", 0):
        raise UnsupportedModel(f"{node}: the last of equals; a tiny arg-max takes the first")
    value = _unscaled(builder, node, 0)
    if max(value.shape, default=1) != value.positions.size:
        raise UnsupportedModel(f"{node}: an arg-max over a part of a tensor: flatten it first")
    choice = _choice(builder, node, _before_monotonic(builder, node, value), node.outputs[0])
    builder.define(node.outputs[0], choice)


def _before_monotonic(builder: Builder, node: Node, value: Value) -> Value:
    """What the largest element can be told from without loss."""
    if value.function is not None:
        probe = value.function(np.linspace(-30, 30, 601))
        if (np.diff(probe) >= 0).all():
            value = replace(value, function=None)
        else:
            value = builder.settle(node)
    producer = builder.producers.get(value.tensor)
    if isinstance(producer, Shares):
        value = replace(value, tensor=producer.inputs[0])
    return value


def _choice(builder: Builder, node: Node, value: Value, output: str) -> Value:
    count = builder.program.tensors[value.tensor].count
    _check_classes(node, count)
    if value.positions.size != count or not np.array_equal(
        value.positions.ravel(), np.arange(count)
    ):
        raise UnsupportedModel(f"{node}: an arg-max over a part of a tensor")
    made = builder.new_tensor(output, 1)
    builder.append(Choice(str(node), (value.tensor,), made))
    return Value(made, np.zeros(1, np.int64), labels=tuple(range(count)))


def _check_classes(node: Node, count: int) -> None:
    if count > MAX_CLASSES:
        raise UnsupportedModel(f"{node}: {count} classes, a tiny model has at most {MAX_CLASSES}")


def array_feature_extractor(builder: Builder, node: Node) -> None:
    """ArrayFeatureExtractor of constant classes by an arg-max: its labels."""
    classes = builder.graph.constants.get(node.inputs[0])
    value = builder.values.get(node.inputs[1])
    if classes is None or value is None or value.labels is None:
        raise UnsupportedModel(f"{node}: only class labels can be picked out")
    labels = tuple(_label(item) for item in classes.ravel().tolist())
    builder.define(node.outputs[0], replace(value, labels=labels))


def _label(item: object) -> int | str:
    if isinstance(item, bytes):
        return item.decode("utf-8", "replace")[:64]
    return int(item) if isinstance(item, int | float) else str(item)[:64]


def normalizer(builder: Builder, node: Node) -> None:
    """Normalizer of probabilities that add up to 1 already."""
    value = _unscaled(builder, node, 0)
    if not isinstance(builder.producers.get(value.tensor), Shares) or value.function is not None:
        raise UnsupportedModel(f"{node}: dividing by a norm has no tiny counterpart: leave it out")
    builder.define(node.outputs[0], value)


def classify(
    builder: Builder, node: Node, scores: Value, labels: tuple[int | str, ...], transform: object
) -> None:
    """Label and probabilities from the scores of a classifier of scikit-learn."""
    label, probabilities = node.outputs[:2]
    chosen = replace(_choice(builder, node, scores, label), labels=labels)
    builder.define(label, chosen)
    if transform == b"SOFTMAX":
        builder.define(probabilities, _shares(builder, node, scores, probabilities))
    elif transform == b"LOGISTIC":
        builder.define(probabilities, replace(scores, function=_sigmoid))
    else:
        builder.define(probabilities, scores)


def refuse_integer_input(builder: Builder, value: Value, node: Node) -> InputSource:
    """The model input that a forest reads directly."""
    source = builder.program.tensors[value.tensor]
    if not isinstance(source, InputSource) or value.function or value.scale:
        raise UnsupportedModel(
            f"{node}: trees have to read the model's input (scaled at most), not something computed"
        )
    if source.element_type is ElementType.UINT8 and not builder.alone(value):
        raise UnsupportedModel(f"{node}: the input of trees may have no other use")
    source.element_type = ElementType.INT16
    return source


HANDLERS: Mapping[str, Handler] = {
    **dict.fromkeys(UNARY, unary),
    **dict.fromkeys(_ARITHMETIC, arithmetic),
    "Relu": relu,
    "Clip": clip,
    "PRelu": prelu,
    "ai.onnx.ml.Scaler": scaler,
    "BatchNormalization": batch_normalization,
    "Identity": same,
    "Dropout": same,
    "Cast": same,
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Concat": concat,
    "Softmax": softmax,
    "LogSoftmax": log_softmax,
    "ArgMax": arg_max,
    "ai.onnx.ml.ArrayFeatureExtractor": array_feature_extractor,
    "ai.onnx.ml.Normalizer": normalizer,
}
