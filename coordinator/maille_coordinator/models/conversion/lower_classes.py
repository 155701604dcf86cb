"""Operators that choose: shares, the largest, and the labels of classes."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from maille_coordinator.models.conversion.builder import Builder, Handler, Value, attribute
from maille_coordinator.models.conversion.errors import UnsupportedModel
from maille_coordinator.models.conversion.graph import Node
from maille_coordinator.models.conversion.lower_functions import logarithm, sigmoid, unscaled
from maille_coordinator.models.conversion.operations import Choice, Shares
from maille_protocol.tiny.codes import MAX_CLASSES


def softmax(builder: Builder, node: Node) -> None:
    """Softmax over a whole flat tensor."""
    value = builder.settle(node)
    builder.define(node.outputs[0], _shares(builder, node, value, node.outputs[0]))


def log_softmax(builder: Builder, node: Node) -> None:
    """LogSoftmax: the logarithm of shares, which are told apart down to 1/255."""
    value = builder.settle(node)
    shares = _shares(builder, node, value, node.outputs[0])
    builder.define(node.outputs[0], replace(shares, function=logarithm))
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
    value = unscaled(builder, node, 0)
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
    value = unscaled(builder, node, 0)
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
        builder.define(probabilities, replace(scores, function=sigmoid))
    else:
        builder.define(probabilities, scores)


HANDLERS: Mapping[str, Handler] = {
    "Softmax": softmax,
    "LogSoftmax": log_softmax,
    "ArgMax": arg_max,
    "ai.onnx.ml.ArrayFeatureExtractor": array_feature_extractor,
    "ai.onnx.ml.Normalizer": normalizer,
}
