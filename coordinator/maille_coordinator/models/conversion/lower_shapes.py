"""Operators that only say where elements lie: reshapes, transposes, joins of views."""

from collections.abc import Mapping

import numpy as np

from maille_coordinator.models.conversion.builder import Builder, Handler, Value, attribute
from maille_coordinator.models.conversion.errors import UnsupportedModel
from maille_coordinator.models.conversion.graph import Node
from maille_coordinator.models.conversion.lower_functions import unchanged, unscaled
from maille_coordinator.models.conversion.operations import Linear


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
    values = [unscaled(builder, node, index) for index in range(len(node.inputs))]
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
    negative, positive = (value.function or unchanged for value in values[:2])
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


HANDLERS: Mapping[str, Handler] = {
    "Identity": same,
    "Dropout": same,
    "Cast": same,
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Concat": concat,
}
