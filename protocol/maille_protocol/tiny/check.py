"""The rules of the tiny format that go beyond the type and range of single fields.

All raise `WireError` and name the layer. What is checked here is what makes `run` a total function:
any model that passes gives the same bytes on every implementation.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from maille_protocol.errors import WireError
from maille_protocol.tiny.codes import (
    CHANNEL_BYTES,
    FLAG_ACCUMULATOR_24,
    LOOKUP_BYTES,
    MAX_ARENA_BYTES,
    MAX_CLASSES,
    MAX_FEATURES,
    MAX_LAYERS,
    MAX_MULTIPLIER,
    MAX_POOL_ELEMENTS,
    MAX_SELF_TESTS_BYTES,
    MAX_SHIFT,
    MAX_SIZE,
    MAX_SOFTMAX_ENTRIES,
    MAX_TENSORS,
    MAX_TREE_NODES,
    MAX_TREES,
    TREE_LEAF,
    TREE_NODE_BYTES,
    WEIGHT_OFFSET,
)
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
    TensorDescription,
    Window,
)

_CHANNEL = np.dtype([("bias", "<i4"), ("multiplier", "<u2"), ("shift", "u1")])
_NODE = np.dtype([("feature", "u1"), ("threshold", "<i2"), ("jump", "<u2")])
_LARGEST_32 = (1 << 31) - 1
_LARGEST_24 = (1 << 23) - 1


def check_model(model: Model) -> None:
    """WireError unless every rule of the format holds."""
    if not 1 <= len(model.layers) <= MAX_LAYERS:
        raise WireError(f"{len(model.layers)} layers, expected 1 to {MAX_LAYERS}")
    for what, tensors in (("inputs", model.inputs), ("outputs", model.outputs)):
        if not 1 <= len(tensors) <= MAX_TENSORS:
            raise WireError(f"{len(tensors)} {what}, expected 1 to {MAX_TENSORS}")
        for index, tensor in enumerate(tensors):
            _check_place(tensor, f"{what} {index}")
    for index, layer in enumerate(model.layers):
        name = f"layer {index} ({layer.KIND.name.lower()})"
        for tensor in (*layer.reads(), layer.writes()):
            _check_place(tensor, name)
        check_layer(layer, name)
    _check_flow(model)
    _check_self_tests(model)
    _check_descriptions(model.inputs, model.description.inputs, "inputs")
    _check_descriptions(model.outputs, model.description.outputs, "outputs")
    if len(model.description.layer_names) not in {0, len(model.layers)}:
        raise WireError("description: a name for each layer, or none")


def check_layer(layer: Layer, name: str) -> None:
    """WireError unless the layer's own fields fit each other."""
    match layer:
        case Dense():
            sums = weight_sums(layer.weights, layer.output_count, layer.input_count, name)
            _check_accumulators(layer.requantisation, sums, layer.flags, name)
        case Conv2d():
            window = layer.window
            _check_window(window, name)
            inputs = window.kernel_height * window.kernel_width * window.input_channels
            sums = weight_sums(layer.weights, window.output_channels, inputs, name)
            _check_accumulators(layer.requantisation, sums, layer.flags, name)
        case DepthwiseConv2d():
            window = layer.window
            _check_window(window, name)
            if window.output_channels % window.input_channels:
                raise WireError(f"{name}: output channels are no multiple of input channels")
            inputs = window.kernel_height * window.kernel_width
            sums = weight_sums(layer.weights, window.output_channels, inputs, name)
            _check_accumulators(layer.requantisation, sums, layer.flags, name)
        case MaxPool():
            _check_window(layer.window, name)
            _same_channels(layer.window, name)
            if layer.flags:
                raise WireError(f"{name}: unknown flags {layer.flags}")
        case AveragePool():
            window = layer.window
            _check_window(window, name)
            _same_channels(window, name)
            elements = window.kernel_height * window.kernel_width
            if elements > MAX_POOL_ELEMENTS:
                raise WireError(f"{name}: window of {elements}, at most {MAX_POOL_ELEMENTS}")
            sums = (np.array([elements], np.int64), np.zeros(1, np.int64))
            _check_accumulators(layer.requantisation, sums, layer.flags, name)
        case Add():
            weights = np.array([layer.weight + layer.second_weight], np.int64)
            sums = (weights, np.zeros(1, np.int64))
            _check_accumulators(layer.requantisation, sums, None, name)
        case Lookup():
            if len(layer.table) != LOOKUP_BYTES:
                raise WireError(f"{name}: table of {len(layer.table)} bytes, not {LOOKUP_BYTES}")
        case ArgMax():
            if layer.count > MAX_CLASSES:
                raise WireError(f"{name}: {layer.count} elements, at most {MAX_CLASSES}")
        case Softmax():
            _check_softmax(layer, name)
        case Forest():
            _check_forest(layer, name)


def weight_sums(
    weights: bytes, outputs: int, inputs: int, name: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sums of the positive and of the negative weights of each output channel."""
    if len(weights) != outputs * inputs:
        raise WireError(f"{name}: {len(weights)} weights, expected {outputs * inputs}")
    stored = np.frombuffer(weights, np.uint8)
    if not stored.all():
        raise WireError(f"{name}: a stored weight is 0, which no weight has")
    signed = stored.reshape(outputs, inputs).astype(np.int64) - WEIGHT_OFFSET
    return signed.clip(min=0).sum(axis=1), signed.clip(max=0).sum(axis=1)


def _check_accumulators(
    requantisation: Requantisation,
    sums: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    flags: int | None,
    name: str,
) -> None:
    count = len(sums[0])
    if len(requantisation.channels) != count * CHANNEL_BYTES:
        raise WireError(
            f"{name}: {len(requantisation.channels)} bytes of channels, "
            f"expected {count * CHANNEL_BYTES}"
        )
    if requantisation.low > requantisation.high:
        raise WireError(f"{name}: low is above high")
    channels = np.frombuffer(requantisation.channels, _CHANNEL)
    if (channels["multiplier"] > MAX_MULTIPLIER).any():
        raise WireError(f"{name}: a multiplier is above {MAX_MULTIPLIER}")
    if (channels["shift"] > MAX_SHIFT).any():
        raise WireError(f"{name}: a shift is above {MAX_SHIFT}")
    bias = channels["bias"].astype(np.int64)
    highest = int((bias + 255 * sums[0]).max())
    lowest = int((bias + 255 * sums[1]).min())
    if highest > _LARGEST_32 or lowest < -_LARGEST_32 - 1:
        raise WireError(f"{name}: an accumulator can leave 32 bits")
    if flags is None:
        return
    fits = highest <= _LARGEST_24 and lowest >= -_LARGEST_24 - 1
    if flags != (FLAG_ACCUMULATOR_24 if fits else 0):
        raise WireError(f"{name}: flags {flags}, but 24 bits are {'' if fits else 'not '}enough")


def _check_window(window: Window, name: str) -> None:
    for what, size, kernel, stride, pad, output in (
        (
            *("rows", window.input_height, window.kernel_height, window.stride_height),
            *(window.pad_top, window.output_height),
        ),
        (
            *("columns", window.input_width, window.kernel_width, window.stride_width),
            *(window.pad_left, window.output_width),
        ),
    ):
        last = (output - 1) * stride - pad
        if pad >= kernel or last >= size:
            raise WireError(f"{name}: a window lies outside the input's {what}")
    if max(window.input_count, window.output_count) > MAX_SIZE:
        raise WireError(f"{name}: a tensor has more than {MAX_SIZE} elements")


def _same_channels(window: Window, name: str) -> None:
    if window.input_channels != window.output_channels:
        raise WireError(f"{name}: a pool keeps the number of channels")


def _check_softmax(layer: Softmax, name: str) -> None:
    if layer.count > MAX_CLASSES:
        raise WireError(f"{name}: {layer.count} elements, at most {MAX_CLASSES}")
    if len(layer.table) % 2 or not 2 <= len(layer.table) <= 2 * MAX_SOFTMAX_ENTRIES:
        raise WireError(f"{name}: table of {len(layer.table)} bytes")
    table = np.frombuffer(layer.table, "<u2")
    if table[0] == 0 or (np.diff(table.astype(np.int64)) > 0).any():
        raise WireError(f"{name}: the table does not fall from above 0")


def _check_forest(layer: Forest, name: str) -> None:
    if layer.feature_count > MAX_FEATURES:
        raise WireError(f"{name}: {layer.feature_count} features, at most {MAX_FEATURES}")
    if layer.output_count > MAX_CLASSES or len(layer.bases) != 4 * layer.output_count:
        raise WireError(f"{name}: {layer.output_count} outputs, {len(layer.bases)} bytes of bases")
    row_bytes = 2 * layer.output_count
    rows = len(layer.leaves) // row_bytes
    if not rows or len(layer.leaves) % row_bytes or rows > MAX_SIZE:
        raise WireError(f"{name}: {len(layer.leaves)} bytes of leaves, rows of {row_bytes}")
    nodes = len(layer.nodes) // TREE_NODE_BYTES
    if not nodes or len(layer.nodes) % TREE_NODE_BYTES or nodes > MAX_TREE_NODES:
        raise WireError(f"{name}: {len(layer.nodes)} bytes of nodes")
    trees = len(layer.roots) // 2
    if not trees or len(layer.roots) % 2 or trees > MAX_TREES:
        raise WireError(f"{name}: {len(layer.roots)} bytes of roots")
    _check_trees(layer, nodes, rows, name)
    leaves = np.frombuffer(layer.leaves, "<i2").astype(np.int64)
    bases = np.frombuffer(layer.bases, "<i4").astype(np.int64)
    bound = int(np.abs(leaves).max()) * trees + int(np.abs(bases).max())
    if bound > _LARGEST_32:
        raise WireError(f"{name}: a sum can leave 32 bits")


def _check_trees(layer: Forest, nodes: int, rows: int, name: str) -> None:
    """Each tree is one whole preorder: a node's left child follows it, its right child `jump` on."""
    roots = np.frombuffer(layer.roots, "<u2").tolist()
    if roots[0] != 0 or any(first >= second for first, second in pairwise([*roots, nodes])):
        raise WireError(f"{name}: the roots do not rise from 0 within {nodes} nodes")
    records = np.frombuffer(layer.nodes, _NODE)
    features = records["feature"].tolist()
    thresholds = records["threshold"].tolist()
    jumps = records["jump"].tolist()
    for start, end in pairwise([*roots, nodes]):
        waiting: list[int] = []
        whole = False
        for index in range(start, end):
            feature = features[index]
            if whole:
                raise WireError(f"{name}: node {index} belongs to no tree")
            if feature != TREE_LEAF:
                if feature >= layer.feature_count:
                    raise WireError(f"{name}: node {index} asks for feature {feature}")
                waiting.append(index + jumps[index])
                continue
            if jumps[index] or thresholds[index] & 0xFFFF >= rows:
                raise WireError(f"{name}: leaf {index} is not one of {rows} rows")
            # Behind a leaf comes the right child of the innermost node that waits for one.
            if not waiting:
                whole = True
            elif waiting.pop() != index + 1:
                raise WireError(f"{name}: the tree from node {start} is not in preorder")
        if not whole:
            raise WireError(f"{name}: the tree from node {start} is not whole")


def _check_place(tensor: Tensor, name: str) -> None:
    if tensor.end > MAX_ARENA_BYTES:
        raise WireError(f"{name}: its tensor ends at {tensor.end}, at most {MAX_ARENA_BYTES}")
    if tensor.offset % tensor.element_type.size_bytes:
        raise WireError(f"{name}: offset {tensor.offset} is not aligned")


def _check_flow(model: Model) -> None:
    """Every tensor is read whole, as it was written, before anything is written over it."""
    live: set[Tensor] = set()
    for index, tensor in enumerate(model.inputs):
        if any(_overlap(tensor, other) for other in live):
            raise WireError(f"inputs {index}: overlaps another input")
        live.add(tensor)
    for index, layer in enumerate(model.layers):
        name = f"layer {index} ({layer.KIND.name.lower()})"
        target = layer.writes()
        for source in layer.reads():
            if source not in live:
                raise WireError(f"{name}: nothing it could read lies at {source.offset}")
            in_place = source == target and isinstance(layer, Lookup | Add)
            if _overlap(source, target) and not in_place:
                raise WireError(f"{name}: it writes over what it reads")
        live = {tensor for tensor in live if not _overlap(tensor, target)}
        live.add(target)
    for index, tensor in enumerate(model.outputs):
        if tensor not in live:
            raise WireError(f"outputs {index}: nothing is left at {tensor.offset} in the end")


def _overlap(first: Tensor, second: Tensor) -> bool:
    return first.offset < second.end and second.offset < first.end


def _check_self_tests(model: Model) -> None:
    size = model.input_bytes + model.output_bytes
    given = len(model.self_tests)
    if not given or given % size or given > MAX_SELF_TESTS_BYTES:
        raise WireError(f"{given} bytes of self-tests, each has {size}")


def _check_descriptions(
    tensors: Sequence[Tensor], descriptions: Sequence[TensorDescription], what: str
) -> None:
    if len(tensors) != len(descriptions):
        raise WireError(f"description: {len(descriptions)} {what}, the header has {len(tensors)}")
    names = {description.name for description in descriptions}
    if len(names) != len(descriptions):
        raise WireError(f"description: two {what} of one name")
    for tensor, description in zip(tensors, descriptions, strict=True):
        name = f"description of {what} {description.name!r}"
        if sorted(description.order) != list(range(len(description.shape))):
            raise WireError(f"{name}: its order is no permutation of its dimensions")
        if description.count != tensor.count:
            raise WireError(f"{name}: {description.count} elements, the header has {tensor.count}")
        if len(description.quantisations) not in {1, tensor.count}:
            raise WireError(f"{name}: one quantisation, or one for each element")
        if any(value.scale_mantissa <= 0 for value in description.quantisations):
            raise WireError(f"{name}: a scale is not above 0")
