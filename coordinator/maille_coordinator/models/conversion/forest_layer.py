"""Trees in real numbers as one FOREST layer."""

import struct
from collections.abc import Sequence

import numpy as np

from maille_coordinator.models.conversion.errors import UnsupportedModel
from maille_coordinator.models.conversion.evaluate import tree_root
from maille_coordinator.models.conversion.operations import InputSource, Source, TreeNode, Trees
from maille_coordinator.models.conversion.steps import described
from maille_protocol.tiny import Forest, Quantisation
from maille_protocol.tiny.codes import (
    MAX_CLASSES,
    MAX_FEATURES,
    MAX_SIZE,
    MAX_TREE_NODES,
    MAX_TREES,
    TREE_LEAF,
)

_LARGEST_LEAF = 32767


def forest_layer(
    operation: Trees,
    places: tuple[int, int],
    source: Source,
    quantisations: Sequence[Quantisation],
) -> tuple[Forest, tuple[Quantisation, ...]]:
    """The layer, and how its sums become real.

    Thresholds are rounded as inputs are, so that `x <= threshold` keeps its answer for all values
    that the input's steps tell apart.

    Raises:
        UnsupportedModel: too many features, classes, trees or nodes.
    """
    outputs = len(operation.bases)
    for count, limit, what in (
        (source.count, MAX_FEATURES, "features"),
        (outputs, MAX_CLASSES, "outputs"),
        (len(operation.trees), MAX_TREES, "trees"),
        (sum(map(len, operation.trees)), MAX_TREE_NODES, "nodes"),
        (len(operation.rows), MAX_SIZE, "different leaves"),
    ):
        if count > limit:
            raise UnsupportedModel(
                f"{operation.name}: {count} {what}, a tiny forest has at most {limit}: "
                "train fewer or shallower trees, or select features"
            )
    # Base values may exceed leaves a thousand times, so they do not set the steps.
    largest = float(np.abs(operation.rows).max()) or 1.0
    scale = described(largest / _LARGEST_LEAF, 0.0)
    leaves = np.rint(operation.rows / scale.scale).clip(-_LARGEST_LEAF, _LARGEST_LEAF)
    bases = np.rint(operation.bases / scale.scale)
    if np.abs(bases).max() > 1 << 30:
        raise UnsupportedModel(f"{operation.name}: its base values dwarf its trees")
    steps = _input_steps(source, quantisations)
    nodes = bytearray()
    roots: list[int] = []
    for tree in operation.trees:
        roots.append(len(nodes) // 5)
        nodes += _preorder(operation, tree, steps)
    layer = Forest(
        *(*places, source.count, outputs),
        bases.astype("<i4").tobytes(),
        np.array(roots, "<u2").tobytes(),
        bytes(nodes),
        leaves.astype("<i2").tobytes(),
    )
    return layer, (scale,)


def _input_steps(
    source: Source, quantisations: Sequence[Quantisation]
) -> list[tuple[float, float]]:
    """Scale and offset of each feature, in the domain of the thresholds."""
    if not isinstance(source, InputSource):
        raise TypeError("a forest reads an input")
    gain = np.broadcast_to(source.gain, source.count)
    offset = np.broadcast_to(source.offset, source.count)
    each = list(quantisations) * (source.count if len(quantisations) == 1 else 1)
    return [
        (item.scale * float(factor), item.offset * float(factor) + float(summand))
        for item, factor, summand in zip(each, gain, offset, strict=True)
    ]


def _preorder(
    operation: Trees, tree: Sequence[TreeNode], steps: Sequence[tuple[float, float]]
) -> bytes:
    records: list[list[int]] = []
    waiting = [(tree_root(tree), -1)]
    while waiting:
        index, parent = waiting.pop()
        if len(records) >= len(tree):
            raise UnsupportedModel(f"{operation.name}: a tree leads back into itself")
        if parent >= 0:
            records[parent][2] = len(records) - parent
        node = tree[index]
        if node.row >= 0:
            records.append([TREE_LEAF, node.row, 0])
            continue
        scale, offset = steps[node.feature]
        threshold = round((node.threshold - offset) / scale)
        waiting += [(node.right, len(records)), (node.left, -1)]
        records.append([node.feature, min(32767, max(-32768, threshold)) & 0xFFFF, 0])
    return b"".join(struct.pack("<BHH", *record) for record in records)
