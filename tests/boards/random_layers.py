"""Random but valid tiny models of one layer, for comparing implementations byte for byte.

    for model, inputs in random_cases(seed=1, count=10_000):
        container = encode_model(model)
        wanted = run(model, inputs)

The same seed gives the same cases everywhere. Sizes are drawn so that a case runs on an AVR
(`max_arena_bytes`, `max_weight_bytes`) and in bytecode; edge values are drawn often: saturation,
negative accumulators, shift 0, multipliers 0 and 32768, padding, strides, more than 256 inputs.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from maille_protocol.tensors import Array
from maille_protocol.tiny import (
    Add,
    ArgMax,
    AveragePool,
    Conv2d,
    Dense,
    DepthwiseConv2d,
    Description,
    ElementType,
    Forest,
    Layer,
    LayerKind,
    Lookup,
    MaxPool,
    Model,
    Quantisation,
    Requantisation,
    Softmax,
    Tensor,
    TensorDescription,
    Window,
    make_self_tests,
)
from maille_protocol.tiny.codes import FLAG_ACCUMULATOR_24, TREE_LEAF

_LARGEST_32 = (1 << 31) - 1
_IDENTITY = (Quantisation(1, 0, 0, 0),)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bounds of the drawn cases."""

    max_arena_bytes: int = 1200
    max_weight_bytes: int = 2400
    max_multiply_accumulates: int = 6000


def random_cases(
    seed: int,
    count: int,
    kinds: Sequence[LayerKind] = tuple(LayerKind),
    sizes: Sizes | None = None,
) -> Iterator[tuple[Model, tuple[Array, ...]]]:
    """`count` models with one input each for `run`; kinds take turns."""
    for index in range(count):
        # Each case has a generator of its own, so that one can be drawn again alone.
        yield random_case(seed, index, kinds[index % len(kinds)], sizes)


def random_case(
    seed: int, index: int, kind: LayerKind, sizes: Sizes | None = None
) -> tuple[Model, tuple[Array, ...]]:
    """One case of `random_cases`."""
    random = np.random.default_rng([seed, index, int(kind)])
    draw = _Draw(random, sizes or Sizes())
    layer = draw.layer(kind)
    reads = tuple(dict.fromkeys(layer.reads()))
    model = single_layer_model(layer)
    inputs = tuple(draw.values(tensor) for tensor in reads)
    return model, inputs


def depthwise_case(seed: int, window: Window) -> tuple[Model, list[Array]]:
    """A depthwise convolution with this window and one input."""
    draw = _Draw(np.random.default_rng(seed), Sizes())
    model = single_layer_model(draw.depthwise(window))
    return model, [draw.values(tensor) for tensor in model.inputs]


def single_layer_model(layer: Layer) -> Model:
    """A model of this layer alone with one self-test on zeros."""
    reads = tuple(dict.fromkeys(layer.reads()))
    writes = layer.writes()
    model = Model(
        reads,
        (writes,),
        (layer,),
        b"",
        Description(
            layer.KIND.name.lower(),
            tuple(
                TensorDescription(f"x{index}", (tensor.count,), (0,), _IDENTITY)
                for index, tensor in enumerate(reads)
            ),
            (TensorDescription("y", (writes.count,), (0,), _IDENTITY),),
            (),
        ),
    )
    zeros = [np.zeros((1, tensor.count), tensor.element_type.dtype) for tensor in reads]
    return replace(model, self_tests=make_self_tests(model, zeros))


def accumulator_flags(channels: bytes, positive: Sequence[int], negative: Sequence[int]) -> int:
    """The flags that a layer with these records and sums of weights must have."""
    fits = True
    for index, (above, below) in enumerate(zip(positive, negative, strict=True)):
        (bias,) = struct.unpack_from("<i", channels, 7 * index)
        fits &= bias + 255 * above < 1 << 23 and bias + 255 * below >= -(1 << 23)
    return FLAG_ACCUMULATOR_24 if fits else 0


class _Draw:
    def __init__(self, random: np.random.Generator, sizes: Sizes) -> None:
        self.random = random
        self.sizes = sizes

    def integer(self, low: int, high: int) -> int:
        """From low to high, both possible; each end as often as a tenth of all."""
        chance = self.random.random()
        if chance < 0.1:
            return low
        if chance < 0.2:
            return high
        return int(self.random.integers(low, high + 1))

    def small(self, high: int) -> int:
        """From 1 to high, small ones more often."""
        return int(high ** self.random.random() + 0.5) if high > 1 else 1

    def values(self, tensor: Tensor) -> Array:
        dtype = np.dtype(tensor.element_type.dtype)
        limits = np.iinfo(dtype)
        style = self.integer(0, 5)
        if style == 0:
            return np.full(tensor.count, limits.min, dtype)
        if style == 1:
            return np.full(tensor.count, limits.max, dtype)
        if style == 2:
            return self.random.choice(np.array([limits.min, limits.max], dtype), tensor.count)
        if style == 3:  # few values: ties
            few = self.random.integers(limits.min, limits.max, 3, dtype, endpoint=True)
            return self.random.choice(few, tensor.count)
        return self.random.integers(limits.min, limits.max, tensor.count, dtype, endpoint=True)

    def layer(self, kind: LayerKind) -> Layer:
        match kind:
            case LayerKind.DENSE:
                return self.dense()
            case LayerKind.CONV2D:
                return self.conv2d()
            case LayerKind.DEPTHWISE_CONV2D:
                return self.depthwise()
            case LayerKind.MAX_POOL:
                window = self.window(self.small(12), None)
                return MaxPool(*self.places(window.input_count, window.output_count), 0, window)
            case LayerKind.AVERAGE_POOL:
                return self.average_pool()
            case LayerKind.ADD:
                return self.add()
            case LayerKind.LOOKUP:
                count = self.small(self.sizes.max_arena_bytes // 3)
                source, target = self.places(count, count)
                if self.random.random() < 0.3:
                    target = source
                return Lookup(source, target, count, self.random.bytes(256))
            case LayerKind.ARG_MAX:
                return self.arg_max()
            case LayerKind.SOFTMAX:
                return self.softmax()
            case LayerKind.FOREST:
                return self.forest()

    def places(self, input_bytes: int, output_bytes: int, align: int = 1) -> tuple[int, int]:
        """Offsets of one input and one output, in either order, sometimes with a gap."""
        gap = align * self.integer(0, 4)
        if self.random.random() < 0.5:
            return gap, _aligned(gap + input_bytes, align)
        return _aligned(gap + output_bytes, align), gap

    def weights(self, outputs: int, inputs: int) -> Array:
        style = self.integer(0, 4)
        if style == 0:
            return self.random.choice(np.array([1, 255], np.uint8), (outputs, inputs))
        if style == 1:
            return np.full((outputs, inputs), self.random.choice([1, 255, 128]), np.uint8)
        return self.random.integers(1, 256, (outputs, inputs), np.uint8)

    def requantisation(self, spread: Sequence[int]) -> Requantisation:
        """`spread`: for each channel, how far from the bias its accumulators may go."""
        records = bytearray()
        for far in spread:
            room = _LARGEST_32 - far
            style = self.integer(0, 5)
            if style == 0:
                bias = self.integer(-room, room)
            elif style == 1:
                bias = 0
            else:
                near = min(room, max(far, 1))
                bias = int(self.random.integers(-near, near + 1))
            style = self.integer(0, 6)
            if style == 0:
                multiplier, shift = self.integer(0, 32768), self.integer(0, 31)
            elif style == 1:
                multiplier, shift = self.integer(16384, 32768), 0
            else:
                # Spread the accumulators over about the 256 steps of the output.
                shift = (far + abs(bias)).bit_length() - 10 + self.integer(-2, 2)
                shift = min(31, max(0, shift))
                multiplier = self.integer(16384, 32768)
            records += struct.pack("<iHB", bias, multiplier, shift)
        zero = self.integer(0, 255)
        low, high = (
            (0, 255)
            if self.random.random() < 0.6
            else sorted((self.integer(0, 255), self.integer(0, 255)))
        )
        if self.random.random() < 0.3:
            low, high = zero, 255
        return Requantisation(zero, low, high, bytes(records))

    def dense(self) -> Dense:
        limit = self.sizes.max_weight_bytes
        inputs = self.small(min(limit, self.sizes.max_arena_bytes * 2 // 3))
        outputs = self.small(max(1, min(limit // inputs, self.sizes.max_arena_bytes // 4)))
        weights = self.weights(outputs, inputs)
        above, below = _weight_sums(weights)
        requantisation = self.requantisation(_spread(above, below))
        flags = accumulator_flags(requantisation.channels, above, below)
        source, target = self.places(inputs, outputs)
        return Dense(source, target, flags, inputs, outputs, requantisation, weights.tobytes())

    def conv2d(self) -> Conv2d:
        channels = self.small(8)
        window = self.window(channels, self.small(8))
        inputs = window.kernel_height * window.kernel_width * channels
        weights = self.weights(window.output_channels, inputs)
        above, below = _weight_sums(weights)
        requantisation = self.requantisation(_spread(above, below))
        flags = accumulator_flags(requantisation.channels, above, below)
        source, target = self.places(window.input_count, window.output_count)
        pad_value = self.integer(0, 255)
        return Conv2d(source, target, flags, window, pad_value, requantisation, weights.tobytes())

    def depthwise(self, window: Window | None = None) -> DepthwiseConv2d:
        if window is None:
            channels = self.small(8)
            copies = 1 if self.random.random() < 0.7 else self.small(3)
            window = self.window(channels, channels * copies, depthwise=True)
        weights = self.weights(window.output_channels, window.kernel_height * window.kernel_width)
        above, below = _weight_sums(weights)
        requantisation = self.requantisation(_spread(above, below))
        flags = accumulator_flags(requantisation.channels, above, below)
        source, target = self.places(window.input_count, window.output_count)
        pad_value = self.integer(0, 255)
        return DepthwiseConv2d(
            source, target, flags, window, pad_value, requantisation, weights.tobytes()
        )

    def average_pool(self) -> AveragePool:
        window = self.window(self.small(12), None)
        elements = window.kernel_height * window.kernel_width
        requantisation = self.requantisation([255 * elements])
        bias = self.integer(-255 * elements, 0)
        channels = struct.pack("<i", bias) + requantisation.channels[4:]
        source, target = self.places(window.input_count, window.output_count)
        return AveragePool(
            source,
            target,
            FLAG_ACCUMULATOR_24,
            window,
            self.integer(0, 255),
            replace(requantisation, channels=channels),
        )

    def window(self, channels: int, outputs: int | None, *, depthwise: bool = False) -> Window:
        """A window that keeps within the bounds; one-dimensional in a fifth of all cases."""
        out_channels = outputs or channels
        flat = self.random.random() < 0.2
        for limit in (12, 9, 7, 5, 4, 3, 2, 1):
            kernel_height = 1 if flat else self.small(min(limit, 5))
            kernel_width = self.small(min(limit, 5 if not flat else 9))
            pad_top = int(self.random.integers(0, kernel_height)) if kernel_height > 1 else 0
            pad_left = int(self.random.integers(0, kernel_width)) if kernel_width > 1 else 0
            height = 1 if flat else self.integer(1, limit)
            width = self.integer(1, limit * 4 if flat else limit)
            stride_height, stride_width = self.small(3), self.small(3)
            # From one output to the last whose window still touches the input.
            out_height = self.integer(1, (height - 1 + pad_top) // stride_height + 1)
            out_width = self.integer(1, (width - 1 + pad_left) // stride_width + 1)
            window = Window(
                *(height, width, channels, out_height, out_width, out_channels),
                *(kernel_height, kernel_width, stride_height, stride_width, pad_top, pad_left),
            )
            products = window.output_count * kernel_height * kernel_width
            products *= 1 if depthwise else channels
            if (
                window.input_count + window.output_count <= self.sizes.max_arena_bytes - 8
                and products <= self.sizes.max_multiply_accumulates
            ):
                return window
        raise AssertionError("a window of one element always fits")

    def add(self) -> Add:
        count = self.small(self.sizes.max_arena_bytes // 4)
        weight, second_weight = self.integer(0, 65535), self.integer(0, 65535)
        far = 255 * (weight + second_weight)
        requantisation = self.requantisation([far])
        offsets = [0, count, 2 * count]
        self.random.shuffle(offsets)
        source, second, target = (int(offset) for offset in offsets)
        style = self.integer(0, 5)
        if style == 0:
            second = source
        elif style == 1:
            target = source
        elif style == 2:
            target = second
        return Add(source, target, second, count, weight, second_weight, requantisation)

    def arg_max(self) -> ArgMax:
        element_type = ElementType(self.integer(0, 2))
        count = self.small(min(256, self.sizes.max_arena_bytes // 4 - 2))
        source, target = self.places(count * element_type.size_bytes, 1, element_type.size_bytes)
        return ArgMax(source, target, element_type, count)

    def softmax(self) -> Softmax:
        count = self.small(256)
        source, target = self.places(count, count)
        entries = self.small(256)
        style = self.integer(0, 3)
        if style == 0:
            table = np.full(entries, 65535)
        elif style == 1:
            table = np.sort(self.random.integers(0, 65536, entries))[::-1]
        else:
            table = np.rint(65535 * np.exp(-np.arange(entries) * self.random.random()))
        table[0] = max(table[0], 1)
        return Softmax(source, target, count, table.astype("<u2").tobytes())

    def forest(self) -> Forest:
        features, outputs = self.small(254), self.small(12)
        rows = self.small(20)
        nodes = bytearray()
        roots: list[int] = []
        for _ in range(self.small(8)):
            roots.append(len(nodes) // 5)
            nodes += self.tree(features, rows, self.integer(0, 6))
        edges = np.array([-32768, 32767, 0], np.int64)
        leaves = self.random.integers(-32768, 32768, (rows, outputs))
        if self.random.random() < 0.2:
            leaves = self.random.choice(edges, (rows, outputs))
        bases = self.random.integers(-(1 << 20), 1 << 20, outputs)
        source, target = self.places(2 * features, 4 * outputs, 4)
        return Forest(
            source,
            target,
            features,
            outputs,
            bases.astype("<i4").tobytes(),
            np.array(roots, "<u2").tobytes(),
            bytes(nodes),
            leaves.astype("<i2").tobytes(),
        )

    def tree(self, features: int, rows: int, depth: int) -> bytes:
        if depth == 0 or self.random.random() < 0.2:
            return struct.pack("<BHH", TREE_LEAF, self.integer(0, rows - 1), 0)
        left = self.tree(features, rows, depth - 1)
        right = self.tree(features, rows, depth - 1)
        feature, threshold = self.integer(0, features - 1), self.integer(-32768, 32767)
        head = struct.pack("<BhH", feature, threshold, 1 + len(left) // 5)
        return head + left + right


def _aligned(offset: int, align: int) -> int:
    return (offset + align - 1) // align * align


def _weight_sums(stored: Array) -> tuple[list[int], list[int]]:
    signed = stored.astype(np.int64) - 128
    return signed.clip(min=0).sum(axis=1).tolist(), signed.clip(max=0).sum(axis=1).tolist()


def _spread(above: Sequence[int], below: Sequence[int]) -> list[int]:
    return [255 * max(high, -low) for high, low in zip(above, below, strict=True)]
