"""Tiny models that every implementation must run, with inputs and outputs.

Where `wanted` is given, it was worked out by hand; elsewhere the reference interpreter says it.
"""

import struct
from collections.abc import Sequence
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
from maille_protocol.tiny.codes import TREE_LEAF

IDENTITY = (Quantisation(1, 0, 0, 0),)
U8, I16, I32 = ElementType.UINT8, ElementType.INT16, ElementType.INT32


@dataclass(frozen=True, slots=True)
class TinyCase:
    """A model, inputs (one row each of all inputs' bytes) and outputs where worked out by hand."""

    name: str
    model: Model
    inputs: tuple[bytes, ...]
    wanted: tuple[bytes, ...] = ()


def requantisation(
    *channels: tuple[int, int, int], zero: int = 0, low: int = 0, high: int = 255
) -> Requantisation:
    """From (bias, multiplier, shift) of each channel."""
    records = b"".join(struct.pack("<iHB", *channel) for channel in channels)
    return Requantisation(zero, low, high, records)


def stored(*weights: int) -> bytes:
    """Weights as the container has them."""
    return bytes(weight + 128 for weight in weights)


def model_of(
    layers: Sequence[Layer],
    inputs: Sequence[Tensor] | None = None,
    outputs: Sequence[Tensor] | None = None,
    name: str = "",
) -> Model:
    """A model with a few self-tests; inputs and outputs of the first and last layer if not given."""
    reads = tuple(inputs or dict.fromkeys(layers[0].reads()))
    writes = tuple(outputs or (layers[-1].writes(),))
    model = Model(
        reads,
        writes,
        tuple(layers),
        b"",
        Description(
            name or layers[0].KIND.name.lower(),
            tuple(_described(f"x{index}", tensor) for index, tensor in enumerate(reads)),
            tuple(_described(f"y{index}", tensor) for index, tensor in enumerate(writes)),
            (),
        ),
    )
    rows = [_pattern(tensor, 3) for tensor in reads]
    return replace(model, self_tests=make_self_tests(model, rows))


def _described(name: str, tensor: Tensor) -> TensorDescription:
    return TensorDescription(name, (tensor.count,), (0,), IDENTITY)


def _pattern(tensor: Tensor, rows: int) -> Array:
    """Reproducible elements over the whole range of the type."""
    dtype = np.dtype(tensor.element_type.dtype)
    index = np.arange(rows * tensor.count, dtype=np.uint64)
    mixed = (index * np.uint64(2654435761) + np.uint64(97)) >> np.uint64(7)
    return mixed.astype(dtype).reshape(rows, tensor.count)


def pattern(count: int, start: int = 0) -> bytes:
    """Reproducible bytes."""
    return bytes(((index + start) * 2654435761 >> 9) & 0xFF for index in range(count))


def weights(count: int, start: int = 0) -> bytes:
    """Reproducible stored weights."""
    return bytes(max(1, value) for value in pattern(count, start))


def _dense(
    inputs: int, *channels: tuple[int, int, int], stored_weights: bytes, flags: int = 1, **how: int
) -> Dense:
    return Dense(
        *(0, inputs, flags, inputs, len(channels)), requantisation(*channels, **how), stored_weights
    )


def _records(count: int, shift: int = 6) -> list[tuple[int, int, int]]:
    return [(700 * index - 1500, 20000 + 1111 * index % 12769, shift) for index in range(count)]


def _window(
    size: tuple[int, int, int],
    output: tuple[int, int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    pad: tuple[int, int] = (0, 0),
) -> Window:
    return Window(*size, *output, *kernel, *stride, *pad)


def _conv(window: Window, pad_value: int = 0, shift: int = 6, flags: int = 1) -> Conv2d:
    count = window.output_channels
    each = window.kernel_height * window.kernel_width * window.input_channels
    return Conv2d(
        *(0, window.input_count, flags, window, pad_value),
        requantisation(*_records(count, shift), zero=100),
        weights(count * each, 5),
    )


def _depthwise(window: Window, pad_value: int = 0) -> DepthwiseConv2d:
    count = window.output_channels
    return DepthwiseConv2d(
        *(0, window.input_count, 1, window, pad_value),
        requantisation(*_records(count, 4), zero=90),
        weights(count * window.kernel_height * window.kernel_width, 9),
    )


def _max(window: Window) -> MaxPool:
    return MaxPool(0, window.input_count, 0, window)


def _average(window: Window, record: tuple[int, int, int], pad_value: int = 0) -> AveragePool:
    return AveragePool(
        *(0, window.input_count, 1, window, pad_value),
        requantisation(record),
    )


def _forest(
    features: int, bases: Sequence[int], trees: Sequence[bytes], leaves: Sequence[Sequence[int]]
) -> Forest:
    outputs = len(bases)
    roots = [sum(map(len, trees[:index])) // 5 for index in range(len(trees))]
    target = (2 * features + 3) // 4 * 4
    return Forest(
        *(0, target, features, outputs),
        struct.pack(f"<{outputs}i", *bases),
        struct.pack(f"<{len(roots)}H", *roots),
        b"".join(trees),
        b"".join(struct.pack(f"<{outputs}h", *row) for row in leaves),
    )


def node(feature: int, threshold: int, jump: int) -> bytes:
    """One inner node of a tree."""
    return struct.pack("<BhH", feature, threshold, jump)


def leaf(row: int) -> bytes:
    """One leaf of a tree."""
    return struct.pack("<BHH", TREE_LEAF, row, 0)


STUMP = node(0, 10, 2) + leaf(0) + leaf(1)


def _words(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}h", *numbers)


def _longs(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}i", *numbers)


_IDENTITY_RECORD = (0, 32768, 1)
"""A real multiplier of 1/4."""

LINEAR_CASES = (
    TinyCase(
        "dense_by_hand",
        model_of([_dense(2, (10, 32768, 0), stored_weights=stored(3, -2), zero=7)]),
        # (10 + 3*20 - 2*5) / 2 + 7; (10 + 0 - 2*100) / 2 + 7 is below 0
        (bytes([20, 5]), bytes([0, 100]), bytes([255, 0])),
        (bytes([37]), bytes([0]), bytes([255])),
    ),
    TinyCase(
        "dense_rounds_half_up_on_both_sides_of_zero",
        # acc = x - 8 at a multiplier of 1/4: -2.0 -1.75 -1.5 -1.25 ... rounds to floor(v + 1/2)
        model_of([_dense(1, (-8, 32768, 1), stored_weights=stored(1), zero=50)]),
        tuple(bytes([x]) for x in range(17)),
        tuple(bytes([50 + (x - 8 + 2) // 4]) for x in range(17)),
    ),
    TinyCase(
        "dense_shift_0_rounds_down",
        model_of([_dense(1, (-8, 32768, 0), stored_weights=stored(1), zero=50)]),
        tuple(bytes([x]) for x in range(17)),
        tuple(bytes([50 + (x - 8) // 2]) for x in range(17)),
    ),
    TinyCase(
        "dense_multiplier_0",
        model_of([_dense(1, (12345, 0, 5), stored_weights=stored(127), zero=9)]),
        (b"\0", b"\xff"),
        (b"\x09", b"\x09"),
    ),
    TinyCase(
        "dense_shift_31",
        # The largest accumulator is 2^31 - 1: t = 2^30 - 1, (t + 2^30) >> 31 = 0; the smallest: -2^30
        # + 2^30 = 0. Nothing overflows and nothing is left.
        model_of(
            [
                _dense(
                    1,
                    (2147483647, 32768, 31),
                    (-2147483648, 32768, 31),
                    stored_weights=stored(0, 0),
                    flags=0,
                    zero=3,
                )
            ]
        ),
        (b"\0", b"\xff"),
        (b"\x03\x03", b"\x03\x03"),
    ),
    TinyCase(
        "dense_largest_accumulators_shift_22",
        model_of(
            [
                _dense(
                    1,
                    (2147483647, 32768, 22),
                    (-2147483648, 32768, 22),
                    stored_weights=stored(0, 0),
                    flags=0,
                    zero=128,
                )
            ]
        ),
        (b"\0",),
        # 2^30 / 2^22 = 256 up (clamped), 256 down (clamped)
        (b"\xff\x00",),
    ),
    TinyCase(
        "dense_just_fits_24_bits",
        model_of(
            [_dense(1, (8388607 - 255 * 127, 32768, 15), stored_weights=stored(127), flags=1)]
        ),
        (b"\0", b"\xff"),
        # 8388607 / 2^16 = 127.99 and 8356222 / 2^16 = 127.51
        (b"\x80", b"\x80"),
    ),
    TinyCase(
        "dense_just_needs_more_than_24_bits",
        model_of(
            [_dense(1, (8388608 - 255 * 127, 32768, 15), stored_weights=stored(127), flags=0)]
        ),
        (b"\0", b"\xff"),
        (b"\x80", b"\x80"),
    ),
    TinyCase(
        "dense_relu_and_clamp",
        model_of(
            [
                _dense(
                    2,
                    *_records(3, 3),
                    stored_weights=weights(6),
                    zero=60,
                    low=60,
                    high=200,
                )
            ]
        ),
        (bytes([0, 0]), bytes([255, 255]), bytes([0, 255]), bytes([90, 3])),
    ),
    TinyCase(
        "dense_all_weights_at_their_ends",
        model_of(
            [
                _dense(
                    40,
                    (0, 32768, 9),
                    (0, 32768, 9),
                    stored_weights=bytes([255] * 40 + [1] * 40),
                    zero=128,
                )
            ]
        ),
        (b"\xff" * 40, b"\0" * 40, bytes(range(40))),
    ),
    TinyCase(
        "dense_300_inputs",
        model_of([_dense(300, *_records(4, 8), stored_weights=weights(1200), zero=128)]),
        (pattern(300), pattern(300, 77), b"\xff" * 300),
    ),
    TinyCase(
        "dense_1_input_65_outputs",
        model_of([_dense(1, *_records(65, 1), stored_weights=weights(65), zero=33)]),
        (b"\0", b"\x80", b"\xff"),
    ),
    TinyCase(
        "conv_1x1_by_hand",
        model_of(
            [
                Conv2d(
                    *(0, 4, 1, _window((1, 2, 2), (1, 2, 1), (1, 1)), 0),
                    requantisation(_IDENTITY_RECORD),
                    stored(2, 1),
                )
            ]
        ),
        (bytes([10, 4, 40, 20]),),
        (bytes([6, 25]),),
    ),
    TinyCase(
        "conv_3x3_padded",
        model_of([_conv(_window((4, 5, 2), (4, 5, 3), (3, 3), pad=(1, 1)), pad_value=77)]),
        (pattern(40), b"\0" * 40, b"\xff" * 40),
    ),
    TinyCase(
        "conv_stride_2_padding_before_only",
        model_of([_conv(_window((5, 5, 1), (3, 3, 2), (3, 3), (2, 2), (1, 1)), pad_value=255)]),
        (pattern(25), pattern(25, 3)),
    ),
    TinyCase(
        "conv_padding_behind_only",
        model_of([_conv(_window((4, 4, 1), (2, 2, 2), (3, 3), (2, 2)), pad_value=9)]),
        (pattern(16), pattern(16, 3)),
    ),
    TinyCase(
        "conv_leaves_input_unused",
        model_of([_conv(_window((6, 7, 1), (2, 2, 1), (2, 3), (3, 2)))]),
        (pattern(42), pattern(42, 3)),
    ),
    TinyCase(
        "conv_1d",
        model_of([_conv(_window((1, 20, 3), (1, 10, 4), (1, 5), (1, 2), (0, 2)), pad_value=128)]),
        (pattern(60), pattern(60, 3)),
    ),
    TinyCase(
        "conv_uneven_kernel_and_stride",
        model_of([_conv(_window((6, 6, 2), (4, 2, 3), (3, 2), (1, 3), (0, 0)))]),
        (pattern(72), pattern(72, 3)),
    ),
    TinyCase(
        "conv_kernel_larger_than_the_input",
        model_of([_conv(_window((2, 2, 1), (2, 2, 1), (5, 5), pad=(2, 2)), pad_value=31, shift=5)]),
        (pattern(4), pattern(4, 3)),
    ),
    TinyCase(
        "conv_more_than_256_products",
        model_of([_conv(_window((3, 3, 40), (1, 1, 3), (3, 3)), shift=9)]),
        (pattern(360), pattern(360, 3), b"\xff" * 360),
    ),
    TinyCase(
        "depthwise_3x3_padded",
        model_of([_depthwise(_window((4, 4, 3), (4, 4, 3), (3, 3), pad=(1, 1)), 55)]),
        (pattern(48), b"\xff" * 48),
    ),
    TinyCase(
        "depthwise_two_outputs_each",
        model_of([_depthwise(_window((3, 3, 2), (2, 2, 4), (2, 2)))]),
        (pattern(18), pattern(18, 3)),
    ),
    TinyCase(
        "depthwise_stride_2",
        model_of([_depthwise(_window((5, 6, 2), (3, 3, 2), (3, 3), (2, 2), (1, 1)), 200)]),
        (pattern(60), pattern(60, 3)),
    ),
    TinyCase(
        "depthwise_1d",
        model_of([_depthwise(_window((1, 12, 2), (1, 10, 2), (1, 3)))]),
        (pattern(24), pattern(24, 3)),
    ),
)

OTHER_CASES = (
    TinyCase(
        "max_pool_2x2",
        model_of([_max(_window((2, 4, 1), (1, 2, 1), (2, 2), (2, 2)))]),
        (bytes([1, 9, 3, 4, 5, 2, 255, 0]),),
        (bytes([9, 255]),),
    ),
    TinyCase(
        "max_pool_padded_ignores_padding",
        model_of([_max(_window((3, 3, 2), (2, 2, 2), (3, 3), (2, 2), (1, 1)))]),
        (pattern(18), b"\0" * 18),
    ),
    TinyCase(
        "max_pool_overlapping",
        model_of([_max(_window((5, 5, 2), (3, 3, 2), (3, 3)))]),
        (pattern(50), pattern(50, 3)),
    ),
    TinyCase(
        "max_pool_1d",
        model_of([_max(_window((1, 9, 2), (1, 3, 2), (1, 3), (1, 3)))]),
        (pattern(18), pattern(18, 3)),
    ),
    TinyCase(
        "average_pool_2x2_by_hand",
        # Sums of 17, 18 and 19 over 4: 4.25, 4.5 rounds up, 4.75
        model_of([_average(_window((2, 6, 1), (1, 3, 1), (2, 2), (2, 2)), (0, 32768, 1))]),
        (bytes([1, 2, 1, 2, 1, 2, 6, 8, 6, 9, 6, 10]),),
        (bytes([4, 5, 5]),),
    ),
    TinyCase(
        "average_pool_global",
        model_of([_average(_window((4, 4, 3), (1, 1, 3), (4, 4)), (0, 32768, 3))]),
        (pattern(48), b"\xff" * 48),
    ),
    TinyCase(
        "average_pool_padded_with_another_scale",
        model_of(
            [
                _average(
                    _window((3, 4, 2), (2, 2, 2), (3, 3), (2, 2), (1, 1)),
                    (-9 * 70, 29127, 1),
                    pad_value=70,
                )
            ]
        ),
        (pattern(24), b"\xff" * 24),
    ),
    TinyCase(
        "average_pool_1d_300_places",
        model_of([_average(_window((1, 300, 1), (1, 1, 1), (1, 300)), (0, 27962, 7))]),
        (pattern(300), b"\xff" * 300),
    ),
    TinyCase(
        "add_by_hand",
        # (3*x + 5*x2 - 100) / 4
        model_of([Add(0, 4, 2, 2, 3, 5, requantisation((-100, 32768, 1), zero=20))]),
        (bytes([10, 200, 30, 40]),),
        (bytes([(30 + 150 - 100 + 2) // 4 + 20, (600 + 200 - 100 + 2) // 4 + 20]),),
    ),
    TinyCase(
        "add_largest_weights",
        model_of(
            [
                Add(
                    *(0, 6, 3, 3, 65535, 65535),
                    requantisation((-65535 * 255, 32768, 16), zero=128),
                )
            ]
        ),
        (bytes([255, 0, 128, 255, 0, 127]),),
    ),
    TinyCase(
        "add_a_tensor_to_itself",
        model_of([Add(0, 3, 0, 3, 1, 1, requantisation((0, 32768, 1)))]),
        (bytes([255, 7, 8]),),
        (bytes([128, 4, 4]),),
    ),
    TinyCase(
        "add_over_its_second_input",
        model_of([Add(0, 3, 3, 3, 16384, 8192, requantisation((-50000, 32768, 14)))]),
        (pattern(6), b"\xff" * 6),
    ),
    TinyCase(
        "lookup",
        model_of([Lookup(0, 256, 256, bytes(255 - value for value in range(256)))]),
        (bytes(range(256)),),
        (bytes(255 - value for value in range(256)),),
    ),
    TinyCase(
        "lookup_in_place",
        model_of([Lookup(0, 0, 5, pattern(256))]),
        (bytes([0, 1, 254, 255, 0]),),
    ),
    TinyCase(
        "arg_max_first_of_equals",
        model_of([ArgMax(0, 5, U8, 5)]),
        (bytes([1, 9, 3, 9, 9]), bytes(5), b"\xff" * 5),
        (b"\x01", b"\0", b"\0"),
    ),
    TinyCase(
        "arg_max_256_elements",
        model_of([ArgMax(0, 256, U8, 256)]),
        (bytes(range(256)), bytes(reversed(range(256)))),
        (b"\xff", b"\0"),
    ),
    TinyCase(
        "arg_max_int16",
        model_of([ArgMax(0, 8, I16, 4)]),
        (_words(-32768, -1, -2, -1), _words(255, 256, 32767, -32768)),
        (b"\x01", b"\x02"),
    ),
    TinyCase(
        "arg_max_int32",
        model_of([ArgMax(4, 0, I32, 3)]),
        (_longs(-2147483648, -65536, -65537), _longs(65535, 65536, 2147483647)),
        (b"\x01", b"\x02"),
    ),
    TinyCase(
        "softmax_by_hand",
        # Shares of 100 + 50 + 0: 170, 85, 0
        model_of([Softmax(0, 3, 3, struct.pack("<3H", 100, 50, 50))]),
        (bytes([9, 8, 0]), bytes([0, 0, 0]), bytes([200, 202, 201])),
        (bytes([170, 85, 0]), bytes([85, 85, 85]), bytes([64, 128, 64])),
    ),
    TinyCase(
        "softmax_one_entry",
        model_of([Softmax(0, 4, 4, struct.pack("<H", 65535))]),
        (bytes([1, 2, 3, 3]),),
        (bytes([0, 0, 128, 128]),),
    ),
    TinyCase(
        "softmax_256_largest_entries",
        model_of([Softmax(0, 256, 256, struct.pack("<H", 65535) * 256)]),
        (bytes(range(256)),),
        (b"\x01" * 256,),
    ),
    TinyCase(
        "softmax_full_table",
        model_of(
            [Softmax(0, 10, 10, b"".join(struct.pack("<H", 65535 >> (i // 8)) for i in range(256)))]
        ),
        (pattern(10), bytes([255] + [0] * 9), bytes([7] * 10)),
    ),
    TinyCase(
        "forest_stump_equal_goes_left",
        model_of([_forest(1, [1000], [STUMP], [[-5], [7]])]),
        (_words(9), _words(10), _words(11), _words(-32768), _words(32767)),
        (_longs(995), _longs(995), _longs(1007), _longs(995), _longs(1007)),
    ),
    TinyCase(
        "forest_of_a_leaf",
        model_of([_forest(3, [0, -1], [leaf(1)], [[1, 2], [-32768, 32767]])]),
        (_words(1, 2, 3),),
        (_longs(-32768, 32766),),
    ),
    TinyCase(
        "forest_three_trees",
        model_of(
            [
                _forest(
                    5,
                    [0, 0, 0],
                    [
                        node(4, -100, 4) + node(0, 0, 2) + leaf(0) + leaf(1) + leaf(2),
                        STUMP,
                        node(1, 32767, 2) + leaf(1) + leaf(0),
                    ],
                    [[10, 0, 0], [0, 10, 0], [0, 0, 10]],
                )
            ]
        ),
        (
            _words(0, 0, 0, 0, -101),
            _words(1, 0, 0, 0, -100),
            _words(11, 0, 0, 0, -99),
        ),
        (_longs(20, 10, 0), _longs(10, 20, 0), _longs(0, 20, 10)),
    ),
    TinyCase(
        "forest_254_features",
        model_of(
            [
                _forest(
                    255,
                    [0],
                    [node(254, -1, 2) + leaf(0) + leaf(1), node(0, 5, 2) + leaf(1) + leaf(0)],
                    [[3], [500]],
                )
            ]
        ),
        (_words(*range(255)), _words(*range(0, -255, -1))),
    ),
)


def _network() -> Model:
    """Convolution, depthwise, add, pools, dense, softmax and arg-max; tensors share their places."""
    first = Conv2d(
        *(0, 64, 1, _window((8, 8, 1), (4, 4, 4), (3, 3), (2, 2), (1, 1)), 3),
        requantisation(*_records(4, 4), zero=40, low=40),
        weights(36, 1),
    )
    second = DepthwiseConv2d(
        *(64, 0, 1, _window((4, 4, 4), (4, 4, 4), (3, 3), pad=(1, 1)), 40),
        requantisation(*_records(4, 4), zero=100),
        weights(36, 2),
    )
    third = Add(0, 0, 64, 64, 9000, 16384, requantisation((-1555360, 32768, 14), zero=30))
    fourth = MaxPool(0, 64, 0, _window((4, 4, 4), (2, 2, 4), (2, 2), (2, 2)))
    fifth = Dense(64, 0, 1, 16, 10, requantisation(*_records(10, 6), zero=128), weights(160, 3))
    table = b"".join(struct.pack("<H", 65535 * 15**i // 16**i) for i in range(150))
    sixth = Softmax(0, 16, 10, table)
    seventh = ArgMax(0, 26, U8, 10)
    return model_of(
        [first, second, third, fourth, fifth, sixth, seventh],
        outputs=[seventh.writes(), sixth.writes()],
        name="small network",
    )


def _time_series() -> Model:
    first = Conv2d(
        *(0, 96, 1, _window((1, 32, 3), (1, 16, 6), (1, 5), (1, 2), (0, 2)), 128),
        requantisation(*_records(6, 5), zero=20, low=20, high=220),
        weights(90, 4),
    )
    second = AveragePool(
        96, 0, 1, _window((1, 16, 6), (1, 1, 6), (1, 16)), 0, requantisation((-320, 32768, 3))
    )
    third = Dense(0, 6, 1, 6, 4, requantisation(*_records(4, 3), zero=128), weights(24, 6))
    fourth = Lookup(6, 6, 4, bytes(min(255, value * value // 255) for value in range(256)))
    fifth = ArgMax(6, 10, U8, 4)
    return model_of([first, second, third, fourth, fifth], name="vibration")


def _two_inputs() -> Model:
    first = Dense(0, 8, 1, 3, 4, requantisation(*_records(4, 2), zero=128), weights(12, 7))
    second = Dense(3, 12, 1, 5, 4, requantisation(*_records(4, 3), zero=128), weights(20, 8))
    third = Add(8, 8, 12, 4, 16384, 16384, requantisation((-4194304, 32768, 13), zero=128))
    return model_of(
        [first, second, third],
        inputs=[Tensor(U8, 3, 0), Tensor(U8, 5, 3)],
        name="two inputs",
    )


def _forest_classifier() -> Model:
    trees = [
        node(0, -50, 4) + node(1, 200, 2) + leaf(0) + leaf(1) + leaf(2),
        node(3, 1000, 2) + leaf(1) + leaf(2),
        node(2, 0, 2) + leaf(0) + leaf(1),
    ]
    forest = _forest(4, [0, 1, 0], trees, [[100, 0, 0], [0, 100, 0], [0, 0, 100]])
    return model_of(
        [forest, ArgMax(forest.output, 0, I32, 3)],
        outputs=[Tensor(U8, 1, 0), forest.writes()],
        name="forest classifier",
    )


WHOLE_CASES = (
    TinyCase("network", _network(), tuple(pattern(64, start) for start in range(0, 512, 64))),
    TinyCase("time_series", _time_series(), tuple(pattern(96, start) for start in (0, 100, 200))),
    TinyCase("two_inputs", _two_inputs(), tuple(pattern(8, start) for start in (0, 8, 16, 24))),
    TinyCase(
        "forest_classifier",
        _forest_classifier(),
        tuple(
            _words(*numbers)
            for numbers in ((-50, 200, 0, 1000), (-49, 0, 1, 1001), (-51, 201, -1, 999))
        ),
    ),
)

ALL_CASES: tuple[TinyCase, ...] = (*LINEAR_CASES, *OTHER_CASES, *WHOLE_CASES)
