"""The program under construction, and what each ONNX value is in terms of it.

An ONNX value is a view of a tensor: `positions` says where each of its elements lies in the arena.
Reshape, transpose and flatten change only positions; whoever reads a value with weights puts the
weights in the arena's order. A function that has not become a layer yet rides along.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from maille_coordinator.models.conversion.errors import UnsupportedModel
from maille_coordinator.models.conversion.graph import Graph, Node
from maille_coordinator.models.conversion.operations import (
    Function,
    InputSource,
    Linear,
    Operation,
    Output,
    Pool,
    Positions,
    Program,
    Reals,
    Source,
    Sum,
    Table,
)
from maille_protocol.tensors import Array
from maille_protocol.tiny import ElementType, Window


@dataclass(frozen=True, slots=True)
class Scale:
    """`gain * element + offset` for each element of a tensor; `node` is where it comes from."""

    node: Node
    gain: Reals
    offset: Reals


@dataclass(frozen=True, slots=True)
class Value:
    """An ONNX value without its batch: where its elements lie, and what is still to be done."""

    tensor: int
    positions: Positions
    function: Function | None = None
    labels: tuple[int | str, ...] | None = None
    scale: Scale | None = None
    """Gain and offset of each element of the tensor that the next layer is to apply."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Without the batch."""
        return self.positions.shape


Handler = Callable[["Builder", Node], None]


class Builder:
    """Collects operations; the handlers of operators call it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.program = Program()
        self.values: dict[str, Value] = {}
        self.producers: dict[int, Operation] = {}
        self._shared: set[int] = set()
        self._tables: dict[tuple[int, str], int] = {}
        for name, shape in graph.inputs.items():
            count = int(np.prod(shape))
            order = tuple(range(len(shape)))
            tensor = self._add_tensor(InputSource(name, count, name=name, shape=shape, order=order))
            self.program.inputs.append(tensor)
            self.define(name, Value(tensor, np.arange(count).reshape(shape)))

    # --- values -------------------------------------------------------------------------------

    def define(self, name: str, value: Value) -> None:
        """From here on, `name` is this value."""
        self.values[name] = value
        if self.graph.consumers.get(name, 0) > 1:
            self._shared.add(value.tensor)

    def value(self, node: Node, index: int = 0) -> Value:
        """An input of the node that depends on the model's inputs."""
        name = node.inputs[index]
        if name not in self.values:
            raise UnsupportedModel(
                f"{node}: its input {name!r} is a constant where data is expected: "
                "run onnxsim on the model, or export it again"
            )
        return self.values[name]

    def constant(self, node: Node, index: int) -> Array | None:
        """An input of the node that is fixed; None where it is left out."""
        if index >= len(node.inputs) or not node.inputs[index]:
            return None
        name = node.inputs[index]
        if name not in self.graph.constants:
            raise UnsupportedModel(
                f"{node}: its input {name!r} is computed from the data, and a tiny model needs a "
                "constant there"
            )
        return self.graph.constants[name]

    def _data_name(self, node: Node) -> str:
        """The only input of the node that is not fixed."""
        return next(name for name in node.inputs if name in self.values)

    def is_constant(self, node: Node, index: int) -> bool:
        """Whether this input is fixed."""
        return node.inputs[index] in self.graph.constants

    def view(self, node: Node, positions: Positions) -> None:
        """The node only moves elements of its first input."""
        self.define(node.outputs[0], replace(self.value(node), positions=positions))

    def alone(self, value: Value) -> bool:
        """Whether nothing else takes this tensor, so that it may still be changed."""
        return value.tensor not in self._shared and value.function is None and value.scale is None

    # --- tensors and operations ---------------------------------------------------------------

    def new_tensor(
        self, value: str, count: int, element_type: ElementType = ElementType.UINT8
    ) -> int:
        """A tensor that an operation will write."""
        return self._add_tensor(Source(value, count, element_type))

    def _add_tensor(self, source: Source) -> int:
        self.program.tensors.append(source)
        return len(self.program.tensors) - 1

    def append(self, operation: Operation) -> None:
        """The next operation."""
        self.program.operations.append(operation)
        self.producers[operation.output] = operation

    def settle(self, node: Node, index: int = 0) -> Value:
        """The node's input as a tensor of its own: a function that rides along becomes a table."""
        return self.settle_name(node.inputs[index], self.value(node, index))

    def settle_name(self, name: str, value: Value) -> Value:
        """Like `settle` for a value by name."""
        if value.scale is not None:
            value = self._scaled(name, value, value.scale)
            self.define(name, value)
        if value.function is None:
            return value
        key = (value.tensor, name)
        if key not in self._tables:
            count = self.program.tensors[value.tensor].count
            made = self.new_tensor(name, count)
            self.append(Table(name, (value.tensor,), made, value.function))
            self._tables[key] = made
        settled = Value(self._tables[key], value.positions)
        self.define(name, settled)
        return settled

    def arrange(self, node: Node, value: Value, axes: tuple[int, ...]) -> Value:
        """The value with its arena order being `axes` of its shape (channels last).

        A model input that nothing has read may still choose its order.
        """
        wanted = value.positions.transpose(axes).ravel()
        source = self.program.tensors[value.tensor]
        if np.array_equal(wanted, np.arange(source.count)):
            return value
        if isinstance(source, InputSource) and self.alone(value):
            for order in permutations(range(len(source.shape))):
                plain = np.arange(source.count).reshape(source.shape)
                if np.array_equal(plain.transpose(order).ravel(), wanted):
                    source.order = order
                    inverse = np.argsort(wanted)
                    source.gain = _reordered(source.gain, wanted)
                    source.offset = _reordered(source.offset, wanted)
                    return replace(value, positions=inverse[value.positions])
        raise UnsupportedModel(
            f"{node}: its input would have to be rearranged in memory, for which tiny models have "
            "no layer: let images enter the model as [batch, channels, height, width]"
        )

    # --- things several handlers do ---------------------------------------------------------------

    def affine(self, node: Node, value: Value, gain: Array, offset: Array) -> None:
        """The node's output is `gain * value + offset`, both broadcast over the value's shape."""
        shape = (1, *value.shape)
        try:
            gains = np.broadcast_to(np.asarray(gain, np.float64), shape).ravel()
            offsets = np.broadcast_to(np.asarray(offset, np.float64), shape).ravel()
        except ValueError:
            raise UnsupportedModel(
                f"{node}: it makes a larger tensor of its input, for which tiny models have no layer"
            ) from None
        source = self.program.tensors[value.tensor]
        spread_gain, spread_offset = np.ones(source.count), np.zeros(source.count)
        spread_gain[value.positions.ravel()] = gains
        spread_offset[value.positions.ravel()] = offsets
        output = node.outputs[0]
        if value.scale is not None:
            before = value.scale
            after = spread_gain * before.offset + spread_offset
            scale = Scale(node, spread_gain * before.gain, after)
            self.define(output, replace(value, scale=scale))
            return
        producer = self.producers.get(value.tensor)
        if isinstance(source, InputSource) and self.alone(value) and (spread_gain > 0).all():
            source.offset = source.offset * spread_gain + spread_offset
            source.gain = source.gain * spread_gain
            source.value = output
            self.define(output, value)
            return
        if isinstance(producer, Linear) and self.alone(value) and _unclamped(producer):
            channels = len(producer.bias)
            channel_gain = _of_channels(spread_gain, channels)
            channel_offset = _of_channels(spread_offset, channels)
            if channel_gain is not None and channel_offset is not None:
                producer.weights = producer.weights * channel_gain[:, np.newaxis]
                producer.bias = producer.bias * channel_gain + channel_offset
                source.value = output
                self.define(output, value)
                return
        if (gains == gains[0]).all() and (offsets == offsets[0]).all():
            factor, summand = float(gains[0]), float(offsets[0])
            self.apply(node, value, lambda real: real * factor + summand)
            return
        settled = self.settle_name(self._data_name(node), value)
        scale = Scale(node, spread_gain, spread_offset)
        self.define(output, replace(settled, scale=scale))

    def _scaled(self, name: str, value: Value, scale: Scale) -> Value:
        """A layer that does what no other layer took over."""
        node, gain, offset = scale.node, scale.gain, scale.offset
        count = len(gain)
        candidates = sorted({size for size in (*value.shape, count) if count % size == 0})
        for channels in candidates:
            channel_gain = _of_channels(gain, channels)
            channel_offset = _of_channels(offset, channels)
            if channel_gain is None or channel_offset is None:
                continue
            window = Window(
                *(1, count // channels, channels, 1, count // channels, channels),
                *(1, 1, 1, 1, 0, 0),
            )
            made = self.new_tensor(name, count)
            weights = channel_gain[:, np.newaxis]
            self.append(
                Linear(
                    *(str(node), (value.tensor,), made, weights, channel_offset),
                    window=window,
                    depthwise=True,
                )
            )
            return Value(made, value.positions)
        raise UnsupportedModel(f"{node}: its constants fit no axis of its input")

    def apply(self, node: Node, value: Value, function: Function) -> None:
        """The node's output is a function of each element of `value`."""
        if value.scale is not None:
            value = self.settle_name(self._data_name(node), value)
        before = value.function
        combined: Function = function if before is None else (lambda real: function(before(real)))
        self.define(node.outputs[0], replace(value, function=combined))

    def clamp(self, node: Node, value: Value, low: float, high: float) -> None:
        """The node's output is the value within low and high (ReLU, ReLU6, Clip)."""
        producer = self.producers.get(value.tensor)
        target, free = value, self.alone(value)
        # A maximum pool gives the same, whether its input or its output is clamped.
        while free and isinstance(producer, Pool) and not producer.average:
            target = Value(producer.inputs[0], value.positions)
            free = self.alone(target)
            producer = self.producers.get(target.tensor)
        if free and isinstance(producer, Linear | Pool | Sum):
            producer.low = min(max(producer.low, low), high)
            producer.high = max(min(producer.high, high), low)
            self.define(node.outputs[0], value)
            return
        self.apply(node, value, lambda real: np.clip(real, low, high))

    def finish(self) -> Program:
        """The program, with its outputs."""
        for name in self.graph.outputs:
            if name not in self.values:
                raise UnsupportedModel(
                    f"output {name!r} does not depend on the inputs: remove it from the model"
                )
            value = self.settle_name(name, self.values[name])
            if isinstance(self.program.tensors[value.tensor], InputSource):
                raise UnsupportedModel(f"output {name!r} is an input: there is nothing to compute")
            self.program.outputs.append(self._output(name, value))
        return self.program

    def _output(self, name: str, value: Value) -> Output:
        count = self.program.tensors[value.tensor].count
        shape = value.shape or (1,)
        positions = value.positions.reshape(shape)
        for order in permutations(range(len(shape))):
            if np.array_equal(positions.transpose(order).ravel(), np.arange(count)):
                return Output(name, value.tensor, shape, order, value.labels or ())
        raise UnsupportedModel(
            f"output {name!r} is a part or a rearrangement of what was computed, which tiny models "
            "cannot express: let the model give the whole tensor"
        )


def _unclamped(operation: Linear) -> bool:
    return operation.low == -np.inf and operation.high == np.inf


def _of_channels(spread: Reals, channels: int) -> Reals | None:
    """One number for each channel, if elements of one channel have the same."""
    rows = spread.reshape(-1, channels)
    return rows[0] if (rows == rows[0]).all() else None


def _reordered(spread: Reals, wanted: Positions) -> Reals:
    return spread[wanted] if spread.size > 1 else spread


def attribute(attributes: Mapping[str, object], name: str, default: int) -> int:
    """An integer attribute."""
    value = attributes.get(name, default)
    return int(value) if isinstance(value, int | float) else default


def integers(attributes: Mapping[str, object], name: str) -> list[int]:
    """An attribute that is a list of integers; empty where it is left out."""
    value = attributes.get(name)
    return [int(item) for item in value] if isinstance(value, list | tuple) else []


def reals(attributes: Mapping[str, object], name: str) -> Reals:
    """An attribute that is a list of numbers; empty where it is left out."""
    value = attributes.get(name)
    return np.array(value if isinstance(value, list | tuple) else [], np.float64)
