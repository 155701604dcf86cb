"""The program in real numbers: gives the ranges to quantise by, and proves the lowering.

What the program computes has to be what onnxruntime computes; `prove` compares them, so that a
mistake in reading a model shows as an error and never as a model that answers something else.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnxruntime

from maille_coordinator.models.conversion.errors import UnsupportedModel
from maille_coordinator.models.conversion.graph import Graph
from maille_coordinator.models.conversion.operations import (
    Choice,
    Clamped,
    InputSource,
    Linear,
    Operation,
    Pool,
    Program,
    Reals,
    Shares,
    Sum,
    Table,
    Trees,
)
from maille_coordinator.models.conversion.samples import Samples
from maille_protocol.tensors import Array
from maille_protocol.tiny import Window

_ROWS_AT_ONCE = 128
_TOLERANCE = 1e-3
_PROVED_SAMPLES = 32


def input_values(source: InputSource, samples: Samples) -> Reals:
    """What the input's tensor stands for, [sample, element in arena order]."""
    array = samples.inputs[source.name]
    moved = array.transpose(0, *(axis + 1 for axis in source.order))
    return moved.reshape(len(moved), -1) * source.gain + source.offset


def evaluate(program: Program, samples: Samples) -> Iterator[dict[int, Reals]]:
    """All tensors' values, a few rows of samples at a time."""
    for start in range(0, samples.count, _ROWS_AT_ONCE):
        part = Samples(
            {name: array[start : start + _ROWS_AT_ONCE] for name, array in samples.inputs.items()}
        )
        values: dict[int, Reals] = {}
        for tensor in program.inputs:
            source = program.tensors[tensor]
            if isinstance(source, InputSource):
                values[tensor] = input_values(source, part)
        for operation in program.operations:
            values[operation.output] = _compute(operation, values)
        yield values


def _compute(operation: Operation, values: Mapping[int, Reals]) -> Reals:
    made: Reals
    source = values[operation.inputs[0]]
    match operation:
        case Linear():
            if operation.window is None:
                made = source @ operation.weights.T + operation.bias
            else:
                made = _convolve(operation, operation.window, source)
            return _clipped(made, operation)
        case Pool():
            made = _pool(operation, source)
            return _clipped(made, operation)
        case Sum():
            made = source + values[operation.inputs[1]]
            return _clipped(made, operation)
        case Table():
            with np.errstate(all="ignore"):
                return np.asarray(operation.function(source), np.float64)
        case Shares():
            powers: Reals = np.exp(source - source.max(axis=1, keepdims=True))
            made = powers / powers.sum(axis=1, keepdims=True)
            return made
        case Choice():
            made = source.argmax(axis=1).astype(np.float64)
            return made[:, np.newaxis]
        case Trees():
            return _walk(operation, source)
    raise TypeError(type(operation).__name__)


def _clipped(made: Reals, operation: Clamped) -> Reals:
    clipped: Reals = np.clip(made, operation.low, operation.high)
    return clipped


def _places(window: Window, source: Reals, fill: float) -> Iterator[tuple[int, int, Reals]]:
    """For each place of the kernel: its row and column, and what lies under it."""
    rows = (window.output_height - 1) * window.stride_height + window.kernel_height
    columns = (window.output_width - 1) * window.stride_width + window.kernel_width
    height = max(rows, window.pad_top + window.input_height)
    width = max(columns, window.pad_left + window.input_width)
    padded = np.full((len(source), height, width, window.input_channels), fill)
    padded[
        :,
        window.pad_top : window.pad_top + window.input_height,
        window.pad_left : window.pad_left + window.input_width,
    ] = source.reshape(-1, window.input_height, window.input_width, window.input_channels)
    for row in range(window.kernel_height):
        for column in range(window.kernel_width):
            yield (
                row,
                column,
                padded[
                    :,
                    row : row + rows - window.kernel_height + 1 : window.stride_height,
                    column : column + columns - window.kernel_width + 1 : window.stride_width,
                ],
            )


def _convolve(operation: Linear, window: Window, source: Reals) -> Reals:
    shape = (window.kernel_height, window.kernel_width)
    weights = operation.weights.reshape(window.output_channels, *shape, -1)
    made = np.zeros(
        (len(source), window.output_height, window.output_width, window.output_channels)
    )
    for row, column, under in _places(window, source, 0.0):
        if operation.depthwise:
            copies = window.output_channels // window.input_channels
            made += np.repeat(under, copies, axis=-1) * weights[:, row, column, 0]
        else:
            made += under @ weights[:, row, column].T
    return (made + operation.bias).reshape(len(source), -1)


def _pool(operation: Pool, source: Reals) -> Reals:
    window = operation.window
    fill = 0.0 if operation.average else -np.inf
    parts = [under for _, _, under in _places(window, source, fill)]
    made = sum(parts) / len(parts) if operation.average else np.maximum.reduce(parts)
    return np.asarray(made, np.float64).reshape(len(source), -1)


def _walk(operation: Trees, source: Reals) -> Reals:
    made = np.tile(operation.bases, (len(source), 1))
    # ONNX compares in float32.
    compared = source.astype(np.float32)
    for tree in operation.trees:
        features = np.array([node.feature for node in tree])
        thresholds = np.array([node.threshold for node in tree], np.float32)
        left = np.array([node.left for node in tree])
        right = np.array([node.right for node in tree])
        row = np.array([node.row for node in tree])
        at = np.full(len(source), tree_root(tree))
        while (walking := row[at] < 0).any():
            index = np.nonzero(walking)[0]
            node = at[index]
            smaller = compared[index, features[node]] <= thresholds[node]
            at[index] = np.where(smaller, left[node], right[node])
        made += operation.rows[row[at]]
    return made


def tree_root(tree: Sequence[object]) -> int:
    """The node that is no other's child; the nodes are checked to form one tree elsewhere."""
    children = {
        child for node in tree for child in (getattr(node, "left", -1), getattr(node, "right", -1))
    }
    return next((index for index in range(len(tree)) if index not in children), 0)


def float_outputs(graph: Graph, samples: Samples) -> dict[str, Array]:
    """What onnxruntime computes for each output, [sample, element]."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        graph.serialized, options, providers=["CPUExecutionProvider"]
    )
    types = {item.name: item.type for item in session.get_inputs()}
    dtypes = {"tensor(double)": np.float64, "tensor(int64)": np.int64}
    inputs = {
        name: array.astype(dtypes.get(types[name], np.float32))
        for name, array in samples.inputs.items()
    }
    shapes = {item.name: item.shape for item in session.get_inputs()}
    rows: list[list[Array]] = []
    for index in range(samples.count):
        sample = {name: array[index].reshape(shapes[name]) for name, array in inputs.items()}
        rows.append([np.asarray(output).reshape(-1) for output in session.run(None, sample)])
    return {
        item.name: np.stack([row[column] for row in rows])
        for column, item in enumerate(session.get_outputs())
    }


def prove(program: Program, graph: Graph, samples: Samples) -> None:
    """UnsupportedModel unless the program computes what onnxruntime computes."""
    few = Samples({name: array[:_PROVED_SAMPLES] for name, array in samples.inputs.items()})
    wanted = float_outputs(graph, few)
    values = [next(evaluate(program, few))]
    for output in program.outputs:
        if output.name not in wanted or wanted[output.name].dtype.kind != "f":
            continue
        if any("left to you" in note and repr(output.name) in note for note in program.notes):
            continue
        given = values[0][output.tensor]
        shape = tuple(output.shape[axis] for axis in output.order)
        back = (0, *(int(axis) + 1 for axis in np.argsort(output.order)))
        given = given.reshape(len(given), *shape).transpose(back).reshape(len(given), -1)
        expected = wanted[output.name].astype(np.float64)
        span = max(1e-6, float(np.abs(expected).max()))
        # A value right at a threshold may fall to either side of a tree: not of all samples.
        off = (np.abs(given - expected) > _TOLERANCE * span).any(axis=1)
        if off.mean() > 0.1:
            raise UnsupportedModel(
                f"output {output.name!r} would not be what onnxruntime computes (in "
                f"{int(off.sum())} of {few.count} samples): please report this model"
            )
