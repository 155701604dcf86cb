"""Decision trees and forests of scikit-learn, as skl2onnx writes them."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from maille_coordinator.models.conversion.builder import Builder, Value, attribute, integers, reals
from maille_coordinator.models.conversion.errors import UnsupportedModel
from maille_coordinator.models.conversion.graph import Node
from maille_coordinator.models.conversion.lower_linear import class_labels
from maille_coordinator.models.conversion.operations import (
    Choice,
    InputSource,
    Reals,
    TreeNode,
    Trees,
)
from maille_protocol.tiny import ElementType

_LEAF = "LEAF"


def tree_ensemble_classifier(builder: Builder, node: Node) -> None:
    """TreeEnsembleClassifier: sums of the leaves, and the class with the largest."""
    labels = class_labels(node)
    leaves = _leaf_values(node, "class")
    columns = {column for weights in leaves.values() for column in weights}
    transform = node.attributes.get("post_transform", b"NONE")
    if transform not in {b"NONE", b"SOFTMAX", b"LOGISTIC"}:
        raise UnsupportedModel(f"{node}: its post_transform {transform!r} has no tiny counterpart")
    bases = np.zeros(len(labels))
    given = reals(node.attributes, "base_values")
    one_sided = len(labels) == 2 and len(columns) == 1
    if one_sided:
        # ONNX adds up one class only; the other has 1 - sum where sums are probabilities, else -sum.
        positive = all(value >= 0 for weights in leaves.values() for value in weights.values())
        base = float(given[-1]) if given.size else 0.0
        bases = np.array([1.0 - base if positive else -base, base])
        leaves = {
            key: {0: -sum(weights.values()), 1: sum(weights.values())}
            for key, weights in leaves.items()
        }
    elif given.size:
        bases = bases + given
    sums = _forest(builder, node, leaves, bases, node.outputs[1])
    label = builder.new_tensor(node.outputs[0], 1)
    builder.append(Choice(str(node), (sums.tensor,), label))
    builder.define(node.outputs[0], Value(label, np.zeros(1, np.int64), labels=labels))
    if transform == b"NONE":
        builder.define(node.outputs[1], sums)
        return
    builder.program.notes.append(
        f"{node}: output {node.outputs[1]!r} gives sums of the trees, not probabilities "
        f"({transform.decode() if isinstance(transform, bytes) else transform} is left to you)"
    )
    builder.define(node.outputs[1], sums)


def tree_ensemble_regressor(builder: Builder, node: Node) -> None:
    """TreeEnsembleRegressor: sums or averages of the leaves."""
    aggregate = node.attributes.get("aggregate_function", b"SUM")
    if (
        aggregate not in {b"SUM", b"AVERAGE"}
        or node.attributes.get("post_transform", b"NONE") != b"NONE"
    ):
        raise UnsupportedModel(f"{node}: only sums and averages of trees are possible")
    leaves = _leaf_values(node, "target")
    targets = attribute(node.attributes, "n_targets", 1)
    if aggregate == b"AVERAGE":
        count = len(set(integers(node.attributes, "nodes_treeids")))
        leaves = {
            key: {column: value / count for column, value in weights.items()}
            for key, weights in leaves.items()
        }
    bases = np.zeros(targets)
    given = reals(node.attributes, "base_values")
    if given.size:
        bases = bases + given
    builder.define(node.outputs[0], _forest(builder, node, leaves, bases, node.outputs[0]))


Leaves = Mapping[tuple[int, int], Mapping[int, float]]


def _leaf_values(node: Node, kind: str) -> dict[tuple[int, int], dict[int, float]]:
    found: dict[tuple[int, int], dict[int, float]] = {}
    for tree, index, column, weight in zip(
        integers(node.attributes, f"{kind}_treeids"),
        integers(node.attributes, f"{kind}_nodeids"),
        integers(node.attributes, f"{kind}_ids"),
        reals(node.attributes, f"{kind}_weights").tolist(),
        strict=True,
    ):
        row = found.setdefault((tree, index), {})
        row[column] = row.get(column, 0.0) + float(weight)
    return found


def _forest(builder: Builder, node: Node, leaves: Leaves, bases: Reals, output: str) -> Value:
    value = builder.value(node)
    source = _integer_input(builder, value, node)
    rows: dict[tuple[float, ...], int] = {}
    trees = _trees(node, leaves, len(bases), rows)
    places = value.positions.ravel()
    moved = [
        [
            item if item.row >= 0 else replace(item, feature=int(places[item.feature]))
            for item in tree
        ]
        for tree in trees
    ]
    source.element_type = ElementType.INT16
    made = builder.new_tensor(output, len(bases), ElementType.INT32)
    builder.append(
        Trees(str(node), (value.tensor,), made, moved, np.array(list(rows), np.float64), bases)
    )
    return Value(made, np.arange(len(bases)))


def _trees(
    node: Node, leaves: Leaves, columns: int, rows: dict[tuple[float, ...], int]
) -> list[list[TreeNode]]:
    attributes = node.attributes
    modes = attributes["nodes_modes"]
    names = [
        item.decode() if isinstance(item, bytes) else str(item)
        for item in (modes if isinstance(modes, list | tuple) else [])
    ]
    numbers = [
        integers(attributes, f"nodes_{name}")
        for name in ("treeids", "nodeids", "featureids", "truenodeids", "falsenodeids")
    ]
    values = reals(attributes, "nodes_values").tolist()
    by_tree: dict[int, list[int]] = {}
    for index, tree in enumerate(numbers[0]):
        by_tree.setdefault(tree, []).append(index)
    found: list[list[TreeNode]] = []
    for tree, members in by_tree.items():
        place = {numbers[1][index]: order for order, index in enumerate(members)}
        items: list[TreeNode] = []
        for index in members:
            if names[index] == _LEAF:
                weights = leaves.get((tree, numbers[1][index]), {})
                row = tuple(weights.get(column, 0.0) for column in range(columns))
                items.append(TreeNode(row=rows.setdefault(row, len(rows))))
                continue
            yes, no = place[numbers[3][index]], place[numbers[4][index]]
            items.append(_branch(node, names[index], numbers[2][index], values[index], yes, no))
        found.append(items)
    return found


def _branch(node: Node, mode: str, feature: int, value: float, yes: int, no: int) -> TreeNode:
    below = float(np.nextafter(np.float32(value), np.float32(-np.inf)))
    match mode:
        case "BRANCH_LEQ":
            return TreeNode(feature, value, yes, no)
        case "BRANCH_LT":
            return TreeNode(feature, below, yes, no)
        case "BRANCH_GT":
            return TreeNode(feature, value, no, yes)
        case "BRANCH_GTE":
            return TreeNode(feature, below, no, yes)
        case _:
            raise UnsupportedModel(
                f"{node}: a node of mode {mode}; trees that compare by order are possible"
            )


def _integer_input(builder: Builder, value: Value, node: Node) -> InputSource:
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
