"""A tiny model as frozen dataclasses; `TINY.md` says what each field means.

Sizes are elements, offsets bytes from the start of the arena. Byte fields are the bytes of the
container, so that a layer's arithmetic is defined on what a board reads.
"""

from dataclasses import dataclass
from math import prod
from typing import ClassVar, TypeAlias

from maille_protocol.tiny.codes import ElementType, LayerKind


@dataclass(frozen=True, slots=True)
class Tensor:
    """A run of elements in the arena."""

    element_type: ElementType
    count: int
    offset: int

    @property
    def size_bytes(self) -> int:
        """Bytes it takes in the arena."""
        return self.count * self.element_type.size_bytes

    @property
    def end(self) -> int:
        """First byte behind it."""
        return self.offset + self.size_bytes


@dataclass(frozen=True, slots=True)
class Window:
    """Where a window moves: sizes of input and output, kernel, strides and padding before."""

    input_height: int
    input_width: int
    input_channels: int
    output_height: int
    output_width: int
    output_channels: int
    kernel_height: int
    kernel_width: int
    stride_height: int
    stride_width: int
    pad_top: int
    pad_left: int

    @property
    def input_count(self) -> int:
        """Elements of the input."""
        return self.input_height * self.input_width * self.input_channels

    @property
    def output_count(self) -> int:
        """Elements of the output."""
        return self.output_height * self.output_width * self.output_channels


@dataclass(frozen=True, slots=True)
class Requantisation:
    """How accumulators become uint8: records of 7 bytes, then zero point and clamp."""

    zero: int
    low: int
    high: int
    channels: bytes


@dataclass(frozen=True, slots=True)
class Dense:
    """Every output from every input; `weights` [outputs][inputs]."""

    KIND: ClassVar[LayerKind] = LayerKind.DENSE
    input: int
    output: int
    flags: int
    input_count: int
    output_count: int
    requantisation: Requantisation
    weights: bytes

    def reads(self) -> tuple[Tensor, ...]:
        """The tensors it takes."""
        return (Tensor(ElementType.UINT8, self.input_count, self.input),)

    def writes(self) -> Tensor:
        """The tensor it makes."""
        return Tensor(ElementType.UINT8, self.output_count, self.output)


@dataclass(frozen=True, slots=True)
class _Windowed:
    input: int
    output: int
    flags: int
    window: Window

    def reads(self) -> tuple[Tensor, ...]:
        """The tensors it takes."""
        return (Tensor(ElementType.UINT8, self.window.input_count, self.input),)

    def writes(self) -> Tensor:
        """The tensor it makes."""
        return Tensor(ElementType.UINT8, self.window.output_count, self.output)


@dataclass(frozen=True, slots=True)
class Conv2d(_Windowed):
    """Convolution; `weights` [output channel][kernel row][kernel column][input channel]."""

    KIND: ClassVar[LayerKind] = LayerKind.CONV2D
    pad_value: int
    requantisation: Requantisation
    weights: bytes


@dataclass(frozen=True, slots=True)
class DepthwiseConv2d(_Windowed):
    """Convolution of each channel alone; `weights` [output channel][kernel row][kernel column]."""

    KIND: ClassVar[LayerKind] = LayerKind.DEPTHWISE_CONV2D
    pad_value: int
    requantisation: Requantisation
    weights: bytes


@dataclass(frozen=True, slots=True)
class MaxPool(_Windowed):
    """Largest element under the window; padding does not count."""

    KIND: ClassVar[LayerKind] = LayerKind.MAX_POOL


@dataclass(frozen=True, slots=True)
class AveragePool(_Windowed):
    """Sum under the window, requantised by one record."""

    KIND: ClassVar[LayerKind] = LayerKind.AVERAGE_POOL
    pad_value: int
    requantisation: Requantisation


@dataclass(frozen=True, slots=True)
class Add:
    """Weighted sum of two tensors of one size."""

    KIND: ClassVar[LayerKind] = LayerKind.ADD
    input: int
    output: int
    second_input: int
    count: int
    weight: int
    second_weight: int
    requantisation: Requantisation

    def reads(self) -> tuple[Tensor, ...]:
        """The tensors it takes."""
        return (
            Tensor(ElementType.UINT8, self.count, self.input),
            Tensor(ElementType.UINT8, self.count, self.second_input),
        )

    def writes(self) -> Tensor:
        """The tensor it makes."""
        return Tensor(ElementType.UINT8, self.count, self.output)


@dataclass(frozen=True, slots=True)
class Lookup:
    """Each element replaced by the table's entry."""

    KIND: ClassVar[LayerKind] = LayerKind.LOOKUP
    input: int
    output: int
    count: int
    table: bytes

    def reads(self) -> tuple[Tensor, ...]:
        """The tensors it takes."""
        return (Tensor(ElementType.UINT8, self.count, self.input),)

    def writes(self) -> Tensor:
        """The tensor it makes."""
        return Tensor(ElementType.UINT8, self.count, self.output)


@dataclass(frozen=True, slots=True)
class ArgMax:
    """Index of the first largest element, one byte."""

    KIND: ClassVar[LayerKind] = LayerKind.ARG_MAX
    input: int
    output: int
    element_type: ElementType
    count: int

    def reads(self) -> tuple[Tensor, ...]:
        """The tensors it takes."""
        return (Tensor(self.element_type, self.count, self.input),)

    def writes(self) -> Tensor:
        """The tensor it makes."""
        return Tensor(ElementType.UINT8, 1, self.output)


@dataclass(frozen=True, slots=True)
class Softmax:
    """Shares of 255 by a table of uint16 exponentials of the distance to the largest element."""

    KIND: ClassVar[LayerKind] = LayerKind.SOFTMAX
    input: int
    output: int
    count: int
    table: bytes

    def reads(self) -> tuple[Tensor, ...]:
        """The tensors it takes."""
        return (Tensor(ElementType.UINT8, self.count, self.input),)

    def writes(self) -> Tensor:
        """The tensor it makes."""
        return Tensor(ElementType.UINT8, self.count, self.output)


@dataclass(frozen=True, slots=True)
class Forest:
    """Decision trees whose leaves add rows of int16 to int32 sums.

    `bases` int32 [output]; `roots` uint16 [tree]; `nodes` records of 5 bytes; `leaves` int16
    [row][output].
    """

    KIND: ClassVar[LayerKind] = LayerKind.FOREST
    input: int
    output: int
    feature_count: int
    output_count: int
    bases: bytes
    roots: bytes
    nodes: bytes
    leaves: bytes

    def reads(self) -> tuple[Tensor, ...]:
        """The tensors it takes."""
        return (Tensor(ElementType.INT16, self.feature_count, self.input),)

    def writes(self) -> Tensor:
        """The tensor it makes."""
        return Tensor(ElementType.INT32, self.output_count, self.output)


Layer: TypeAlias = (
    Dense
    | Conv2d
    | DepthwiseConv2d
    | MaxPool
    | AveragePool
    | Add
    | Lookup
    | ArgMax
    | Softmax
    | Forest
)


@dataclass(frozen=True, slots=True)
class Quantisation:
    """`real = offset + scale * integer`, both as mantissa times a power of two."""

    scale_mantissa: int
    scale_exponent: int
    offset_mantissa: int
    offset_exponent: int

    @property
    def scale(self) -> float:
        """Size of one step."""
        return float(self.scale_mantissa) * 2.0**self.scale_exponent

    @property
    def offset(self) -> float:
        """Real value of the integer 0."""
        return float(self.offset_mantissa) * 2.0**self.offset_exponent


@dataclass(frozen=True, slots=True)
class TensorDescription:
    """An input or output as people see it.

    `shape` is the original model's without the batch; the tiny tensor is that transposed by `order`
    (so that channels are last). One quantisation for all elements, or one for each in the tiny
    tensor's order. `labels` name the values of a tensor of indices.
    """

    name: str
    shape: tuple[int, ...]
    order: tuple[int, ...]
    quantisations: tuple[Quantisation, ...]
    labels: tuple[int | str, ...] = ()

    @property
    def tiny_shape(self) -> tuple[int, ...]:
        """Shape of the integer tensor that travels."""
        return tuple(self.shape[axis] for axis in self.order)

    @property
    def count(self) -> int:
        """Elements."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Description:
    """What only people and clients need; a board skips it."""

    name: str
    inputs: tuple[TensorDescription, ...]
    outputs: tuple[TensorDescription, ...]
    layer_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """A whole container. The header's other fields follow from these; see `header`."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    self_tests: bytes
    description: Description

    @property
    def input_bytes(self) -> int:
        """Bytes of all inputs together."""
        return sum(tensor.size_bytes for tensor in self.inputs)

    @property
    def output_bytes(self) -> int:
        """Bytes of all outputs together."""
        return sum(tensor.size_bytes for tensor in self.outputs)

    @property
    def self_test_count(self) -> int:
        """Embedded pairs of inputs and outputs."""
        return len(self.self_tests) // (self.input_bytes + self.output_bytes)

    @property
    def arena_bytes(self) -> int:
        """Memory for all activations."""
        tensors = [*self.inputs, *(layer.writes() for layer in self.layers)]
        return max((tensor.end for tensor in tensors), default=0)

    @property
    def peak_layer(self) -> int:
        """First layer one of whose tensors reaches the arena's end, else 0."""
        end = self.arena_bytes
        for index, layer in enumerate(self.layers):
            if any(tensor.end == end for tensor in (*layer.reads(), layer.writes())):
                return index
        return 0

    @property
    def layer_kinds(self) -> int:
        """Bit k is set where a layer of kind k is used."""
        mask = 0
        for layer in self.layers:
            mask |= 1 << layer.KIND
        return mask

    @property
    def multiply_accumulates(self) -> int:
        """Of all layers with weights, padding counted like data."""
        return sum(multiply_accumulates(layer) for layer in self.layers)


def multiply_accumulates(layer: Layer) -> int:
    """Products of one layer; 0 for layers without weights."""
    match layer:
        case Dense():
            return layer.input_count * layer.output_count
        case Conv2d():
            window = layer.window
            return window.output_count * (
                window.kernel_height * window.kernel_width * window.input_channels
            )
        case DepthwiseConv2d():
            window = layer.window
            return window.output_count * window.kernel_height * window.kernel_width
        case _:
            return 0
