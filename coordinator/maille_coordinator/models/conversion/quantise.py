"""From the program in real numbers and the ranges of its tensors to a tiny model."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from maille_coordinator.models.conversion.arena import plan
from maille_coordinator.models.conversion.errors import UnsupportedModel
from maille_coordinator.models.conversion.evaluate import input_values
from maille_coordinator.models.conversion.forest_layer import forest_layer
from maille_coordinator.models.conversion.observe import Observed, Ranges
from maille_coordinator.models.conversion.operations import (
    Choice,
    InputSource,
    Linear,
    Operation,
    Pool,
    Positions,
    Program,
    Reals,
    Shares,
    Sum,
    Table,
    Trees,
)
from maille_coordinator.models.conversion.samples import Samples
from maille_coordinator.models.conversion.steps import (
    LARGEST_MULTIPLIER,
    Steps,
    described,
    record,
    steps_between,
)
from maille_protocol import WireError
from maille_protocol.tiny import (
    Add,
    ArgMax,
    AveragePool,
    Conv2d,
    Dense,
    DepthwiseConv2d,
    Description,
    ElementType,
    Layer,
    Lookup,
    MaxPool,
    Model,
    Quantisation,
    Requantisation,
    Softmax,
    Tensor,
    TensorDescription,
    check_model,
    make_self_tests,
)
from maille_protocol.tiny.codes import FLAG_ACCUMULATOR_24, MAX_ARENA_BYTES, MAX_SIZE, WEIGHT_OFFSET

_BIAS_LIMIT = 1 << 22
"""Keeps accumulators within 24 bits where weights allow it: fewer cycles on AVR."""
_WIDE_RATIO = 16.0
_FEATURE_STEPS = 60000
_SUM_WEIGHT = 1 << 14


def quantise(
    program: Program, samples: Samples, observed: Observed, name: str, cut: float
) -> Model:
    """The tiny model, with one self-test on zeros as placeholder.

    `cut` is the share of a tensor's values at each end that may be clamped for finer steps.

    Raises:
        UnsupportedModel: a tensor or weight set beyond the limits of the format.
    """
    return _Quantiser(program, samples, observed.ranges(cut)).model(name)


class _Quantiser:
    def __init__(self, program: Program, samples: Samples, ranges: Ranges) -> None:
        self.program = program
        self.samples = samples
        self.ranges = ranges
        self.places = plan(program)
        self.steps: dict[int, Steps] = {}
        self.descriptions: dict[int, tuple[Quantisation, ...]] = {}
        self.spread: dict[int, tuple[Reals, Reals]] = {}
        """Inputs whose elements have steps of their own: scales and offsets, for the weights."""

    def model(self, name: str) -> Model:
        for tensor, source in enumerate(self.program.tensors):
            if source.count > MAX_SIZE:
                raise UnsupportedModel(
                    f"{source.value!r} has {source.count} elements, a tiny tensor at most {MAX_SIZE}: "
                    "make the input or the layers smaller"
                )
            if (
                self.places.get(tensor, 0) + source.count * source.element_type.size_bytes
                > MAX_ARENA_BYTES
            ):
                raise UnsupportedModel(f"{source.value!r} does not fit 1 MiB of memory")
        for tensor in self.program.inputs:
            self._input(tensor)
        layers = tuple(self._layer(operation) for operation in self.program.operations)
        model = Model(
            tuple(self._tensor(tensor) for tensor in self.program.inputs),
            tuple(self._tensor(output.tensor) for output in self.program.outputs),
            layers,
            b"",
            self._description(name),
        )
        zeros = [np.zeros((1, item.count), item.element_type.dtype) for item in model.inputs]
        model = replace(model, self_tests=make_self_tests(model, zeros))
        try:
            check_model(model)
        except WireError as error:
            raise UnsupportedModel(f"the model exceeds the tiny format: {error}") from error
        return model

    # --- inputs and outputs -----------------------------------------------------------------------

    def _input(self, tensor: int) -> None:
        source = self.program.tensors[tensor]
        if not isinstance(source, InputSource):
            raise TypeError("an input without a source")
        gain = np.broadcast_to(source.gain, source.count)
        offset = np.broadcast_to(source.offset, source.count)
        values = input_values(source, self.samples)
        low, high = values.min(axis=0), values.max(axis=0)
        readers = [item for item in self.program.operations if tensor in item.inputs]
        if source.element_type is ElementType.INT16:
            # Thresholds too have to be told apart, not only the data.
            for forest in readers:
                if isinstance(forest, Trees):
                    _include_thresholds(forest, low, high)
            span = np.maximum(high - low, 1e-6)
            scales, middles = span / _FEATURE_STEPS, (low + high) / 2
            self._describe(tensor, scales / gain, (middles - offset) / gain)
            return
        only_dense = all(isinstance(item, Linear) and item.window is None for item in readers)
        used = high > low
        span = (high - low)[used]
        uneven = span.size > 0 and span.max() > _WIDE_RATIO * span.min()
        scaled = gain.size > 1 and not (np.ptp(gain) == 0 and np.ptp(offset) == 0)
        if only_dense and (uneven or scaled):
            widest = float(span.max()) if span.size else 1.0
            low, high = (
                np.where(used, low, low - widest / 2),
                np.where(used, high, high + widest / 2),
            )
            scales = (high - low) / 255
            self.spread[tensor] = (scales, low)
            self.steps[tensor] = Steps(1.0, 0)
            self._describe(tensor, scales / gain, (low - offset) / gain)
            return
        steps = steps_between(float(low.min()), float(high.max()))
        self.steps[tensor] = steps
        zeros = np.full(source.count, -steps.scale * steps.zero)
        self._describe(tensor, steps.scale / gain, (zeros - offset) / gain)

    def _describe(self, tensor: int, scales: Reals, offsets: Reals) -> None:
        pairs = list(zip(scales.tolist(), offsets.tolist(), strict=True))
        if len(set(pairs)) == 1:
            pairs = pairs[:1]
        made = tuple(described(scale, offset) for scale, offset in pairs)
        if any(item.scale_mantissa <= 0 for item in made):
            raise UnsupportedModel(
                f"input {self.program.tensors[tensor].value!r} has a range too small to tell apart"
            )
        self.descriptions[tensor] = made

    def _tensor(self, tensor: int) -> Tensor:
        source = self.program.tensors[tensor]
        return Tensor(source.element_type, source.count, self.places[tensor])

    def _description(self, name: str) -> Description:
        inputs: list[TensorDescription] = []
        for tensor in self.program.inputs:
            source = self.program.tensors[tensor]
            if isinstance(source, InputSource):
                inputs.append(
                    TensorDescription(
                        source.name[:64], source.shape, source.order, self.descriptions[tensor]
                    )
                )
        outputs: list[TensorDescription] = []
        for output in self.program.outputs:
            labels = output.labels
            steps = self.steps.get(output.tensor)
            quantisations = self.descriptions.get(output.tensor)
            if quantisations is None and steps is not None:
                quantisations = (described(steps.scale, -steps.scale * steps.zero),)
            outputs.append(
                TensorDescription(
                    *(output.name[:64], output.shape, output.order),
                    *(quantisations or (Quantisation(1, 0, 0, 0),), labels),
                )
            )
        names = tuple(operation.name[:64] for operation in self.program.operations)
        return Description(name[:64], tuple(inputs), tuple(outputs), names)

    # --- layers -----------------------------------------------------------------------------------

    def _layer(self, operation: Operation) -> Layer:
        source = self.places[operation.inputs[0]]
        target = self.places[operation.output]
        match operation:
            case Linear():
                return self._linear(operation, source, target)
            case Pool():
                return self._pool(operation, source, target)
            case Sum():
                return self._sum(operation, source, target)
            case Table():
                steps = self.steps[operation.inputs[0]]
                made = self._steps_of(operation)
                real: Reals = (np.arange(256, dtype=np.float64) - steps.zero) * steps.scale
                with np.errstate(all="ignore"):
                    wanted = np.nan_to_num(operation.function(real))
                table = np.rint(wanted / made.scale).clip(-1e6, 1e6) + made.zero
                count = self.program.tensors[operation.output].count
                return Lookup(source, target, count, table.clip(0, 255).astype(np.uint8).tobytes())
            case Shares():
                self.steps[operation.output] = Steps(1 / 255, 0)
                scale = self.steps[operation.inputs[0]].scale
                entries = np.rint(65535 * np.exp(-np.arange(256) * scale))
                entries = entries[: max(1, int((entries > 0).sum()))]
                count = self.program.tensors[operation.output].count
                return Softmax(source, target, count, entries.astype("<u2").tobytes())
            case Choice():
                self.steps[operation.output] = Steps(1.0, 0)
                taken = self.program.tensors[operation.inputs[0]]
                return ArgMax(source, target, taken.element_type, taken.count)
            case Trees():
                layer, outputs = forest_layer(
                    operation,
                    (source, target),
                    self.program.tensors[operation.inputs[0]],
                    self.descriptions[operation.inputs[0]],
                )
                self.descriptions[operation.output] = outputs
                return layer
        raise TypeError(type(operation).__name__)

    def _steps_of(self, operation: Operation, least_scale: float = 0.0) -> Steps:
        """The output's steps by its range, not finer than `least_scale`."""
        steps = steps_between(*self.ranges[operation.output])
        if steps.scale < least_scale:
            low = -steps.zero * steps.scale
            zero = min(255, max(0, round(-low / least_scale)))
            steps = Steps(least_scale, zero)
        self.steps[operation.output] = steps
        return steps

    def _linear(self, operation: Linear, source: int, target: int) -> Layer:
        given = self.steps[operation.inputs[0]]
        weights, bias = operation.weights, operation.bias
        if operation.inputs[0] in self.spread:
            scales, lows = self.spread[operation.inputs[0]]
            bias = bias + weights @ lows
            weights = weights * scales
        largest = np.abs(weights).max(axis=1)
        rough = steps_between(*self.ranges[operation.output])
        # Channels without weights: steps fine enough for their bias alone.
        weight_scales = np.where(largest > 0, largest / 127, rough.scale / given.scale / 4096)
        weight_scales = np.maximum(weight_scales, np.abs(bias) / (given.scale * _BIAS_LIMIT))
        least = given.scale * float(weight_scales.max()) / LARGEST_MULTIPLIER
        made = self._steps_of(operation, least)
        whole = np.rint(weights / weight_scales[:, np.newaxis]).clip(-127, 127).astype(np.int64)
        biases = np.rint(bias / (given.scale * weight_scales)).astype(np.int64)
        biases -= given.zero * whole.sum(axis=1)
        records = [
            record(int(offset), float(given.scale * scale / made.scale))
            for offset, scale in zip(biases, weight_scales, strict=True)
        ]
        requantisation = self._requantisation(operation, made, records)
        stored = (whole + WEIGHT_OFFSET).astype(np.uint8).tobytes()
        flags = _flags(requantisation.channels, whole)
        if operation.window is None:
            outputs, inputs = weights.shape
            return Dense(source, target, flags, inputs, outputs, requantisation, stored)
        build = DepthwiseConv2d if operation.depthwise else Conv2d
        return build(source, target, flags, operation.window, given.zero, requantisation, stored)

    def _requantisation(
        self, operation: Linear | Pool | Sum, steps: Steps, records: Sequence[bytes]
    ) -> Requantisation:
        return Requantisation(
            steps.zero,
            steps.integer(operation.low),
            steps.integer(operation.high),
            b"".join(records),
        )

    def _pool(self, operation: Pool, source: int, target: int) -> Layer:
        given = self.steps[operation.inputs[0]]
        window = operation.window
        if not operation.average:
            self.steps[operation.output] = given
            return MaxPool(source, target, 0, window)
        count = window.kernel_height * window.kernel_width
        made = self._steps_of(operation, given.scale / count / LARGEST_MULTIPLIER)
        one = record(-count * given.zero, given.scale / count / made.scale)
        return AveragePool(
            *(source, target, FLAG_ACCUMULATOR_24, window, given.zero),
            self._requantisation(operation, made, [one]),
        )

    def _sum(self, operation: Sum, source: int, target: int) -> Layer:
        first, second = (self.steps[tensor] for tensor in operation.inputs)
        unit = max(first.scale, second.scale) / _SUM_WEIGHT
        made = self._steps_of(operation, unit / LARGEST_MULTIPLIER)
        weights = [round(steps.scale / unit) for steps in (first, second)]
        bias = -(weights[0] * first.zero + weights[1] * second.zero)
        return Add(
            *(source, target, self.places[operation.inputs[1]]),
            self.program.tensors[operation.output].count,
            *(weights[0], weights[1]),
            self._requantisation(operation, made, [record(bias, unit / made.scale)]),
        )


def _include_thresholds(forest: Trees, low: Reals, high: Reals) -> None:
    for tree in forest.trees:
        for node in tree:
            if node.row < 0:
                low[node.feature] = min(low[node.feature], node.threshold)
                high[node.feature] = max(high[node.feature], node.threshold)


def _flags(channels: bytes, whole: Positions) -> int:
    """Whether 24 bits are enough, as `TINY.md` defines it."""
    biases: npt.NDArray[np.int64] = np.frombuffer(
        channels, np.dtype([("bias", "<i4"), ("multiplier", "<u2"), ("shift", "u1")])
    )["bias"].astype(np.int64)
    highest = (biases + 255 * whole.clip(min=0).sum(axis=1)).max()
    lowest = (biases + 255 * whole.clip(max=0).sum(axis=1)).min()
    return FLAG_ACCUMULATOR_24 if highest < 1 << 23 and lowest >= -(1 << 23) else 0
