"""Operators that work element by element: functions, clamps, arithmetic, scalings."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import erf

import numpy as np

from maille_coordinator.models.conversion.builder import Builder, Handler, Value, reals
from maille_coordinator.models.conversion.errors import UnsupportedModel
from maille_coordinator.models.conversion.graph import Node
from maille_coordinator.models.conversion.operations import Function, Reals, Sum

_ARITHMETIC: Mapping[str, Callable[[Reals, Reals], Reals]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Max": np.maximum,
    "Min": np.minimum,
}


def sigmoid(real: Reals) -> Reals:
    """1 / (1 + e^-x), without overflow."""
    return 1 / (1 + np.exp(-np.clip(real, -500, 500)))


def _elu(real: Reals, alpha: float) -> Reals:
    return np.where(real > 0, real, alpha * (np.exp(np.minimum(real, 0)) - 1))


def _gelu(real: Reals) -> Reals:
    return real * 0.5 * (1 + _erf(real / np.sqrt(2)))


def logarithm(real: Reals) -> Reals:
    """The natural logarithm; of 0 that of a very small number."""
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
            return sigmoid
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


_UNARY = (
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
    first, second = unscaled(builder, node, 0), unscaled(builder, node, 1)
    if first.tensor == second.tensor and np.array_equal(first.positions, second.positions):
        one, other = first.function or unchanged, second.function or unchanged
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


def unscaled(builder: Builder, node: Node, index: int) -> Value:
    """An input whose scale, if one waits, has become a layer; a function still rides along."""
    value = builder.value(node, index)
    return builder.settle(node, index) if value.scale is not None else value


def unchanged(real: Reals) -> Reals:
    """The function of a value without one."""
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


HANDLERS: Mapping[str, Handler] = {
    **dict.fromkeys(_UNARY, unary),
    **dict.fromkeys(_ARITHMETIC, arithmetic),
    "Relu": relu,
    "Clip": clip,
    "PRelu": prelu,
    "ai.onnx.ml.Scaler": scaler,
    "BatchNormalization": batch_normalization,
}
