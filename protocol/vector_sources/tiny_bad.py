"""Containers that must be refused: good ones with one thing changed.

`board`: a board must refuse it as well; else it may take it on trust, but then has to survive running
it (`TINY.md`, "What a board does").
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from maille_protocol import cbor
from maille_protocol.tiny import Model, encode_model
from maille_protocol.tiny.encode import document
from vector_sources.tiny import ALL_CASES, STUMP, leaf, node

Path = tuple[int, ...]
LAYER = 10
"""Position of the layers in the container."""


@dataclass(frozen=True, slots=True)
class BadTiny:
    """A container and what is wrong with it."""

    name: str
    why: str
    data: bytes
    board: bool


def _model(name: str) -> Model:
    return next(case.model for case in ALL_CASES if case.name == name)


def changed(name: str, *changes: tuple[Path, cbor.Plain]) -> bytes:
    """The container of a good case with the fields at these paths replaced."""
    items: list[cbor.Plain] = document(_model(name))
    for path, value in changes:
        place: list[cbor.Plain] = items
        for index in path[:-1]:
            inner = place[index]
            if not isinstance(inner, list):
                raise TypeError(f"{name}: {path} leads into no array")
            place = inner
        place[path[-1]] = value
    return cbor.encode(items)


def described(name: str, *changes: tuple[Path, cbor.Plain]) -> bytes:
    """The same inside the description."""
    items: list[cbor.Plain] = document(_model(name))
    description = cbor.decode(encode_model(_model(name)))
    if not isinstance(description, list):
        raise TypeError("a container is an array")
    inner = cbor.decode(description[12])
    for path, value in changes:
        place = inner
        for index in path[:-1]:
            place = place[index]  # type: ignore[index]
        place[path[-1]] = value  # type: ignore[index]
    items[12] = cbor.encode(inner)  # type: ignore[arg-type]
    return cbor.encode(items)


def _field(
    name: str, why: str, case: str, path: Path, value: cbor.Plain, *, board: bool = True
) -> BadTiny:
    return BadTiny(name, why, changed(case, (path, value)), board)


def _channels(*records: tuple[int, int, int]) -> bytes:
    return b"".join(struct.pack("<iHB", *record) for record in records)


def _raw() -> Sequence[BadTiny]:
    good = encode_model(_model("dense_by_hand"))
    at = good.index(b"\x01", 6)
    wide = good[:6] + b"\x18\x01" + good[at + 1 :]
    return (
        BadTiny("empty", "no bytes", b"", True),
        BadTiny("cut_in_the_header", "ends after the magic", good[:6], True),
        BadTiny("cut_in_the_layers", "ends inside a byte string", good[:40], True),
        BadTiny("last_byte_missing", "the description is cut", good[:-1], True),
        BadTiny("bytes_follow", "one byte too many", good + b"\0", False),
        BadTiny("another_magic", "not tiny", good.replace(b"tiny", b"tony"), True),
        BadTiny("a_map", "a map in place of the array", b"\xad" + good[1:], True),
        BadTiny("one_field_less", "an array of 12", b"\x8c" + good[1:], True),
        BadTiny("head_longer_than_needed", "version in two bytes", wide, False),
        BadTiny("indefinite_array", "an array without length", b"\x9f" + good[1:] + b"\xff", True),
        BadTiny(
            "length_beyond_the_end",
            "a byte string of 4294967295 bytes",
            good.replace(b"\x42\x83\x7e", b"\x5a\xff\xff\xff\xff\x83\x7e", 1),
            True,
        ),
        BadTiny("not_cbor", "an ONNX file's first bytes", bytes.fromhex("0807120473"), True),
    )


_DENSE, _CONV, _POOL, _AVERAGE = (
    "dense_by_hand",
    "conv_3x3_padded",
    "max_pool_2x2",
    "average_pool_global",
)
_FOREST, _SOFTMAX, _ADD, _NETWORK = (
    "forest_three_trees",
    "softmax_by_hand",
    "add_by_hand",
    "network",
)

TINY_BAD: tuple[BadTiny, ...] = (
    *_raw(),
    _field("version_2", "another format version", _DENSE, (1,), 2),
    _field("version_is_text", "a text as version", _DENSE, (1,), "1"),
    _field("arena_too_small", "tensors end behind arena_bytes", _DENSE, (2,), 2),
    _field("arena_too_large", "arena_bytes is not the largest end", _DENSE, (2,), 4, board=False),
    _field("peak_layer_wrong", "another layer reaches the end", _NETWORK, (3,), 4, board=False),
    _field("largest_layer_wrong", "another is larger", _NETWORK, (4,), 0, board=False),
    _field("largest_layer_bytes_wrong", "it is longer", _NETWORK, (5,), 10, board=False),
    _field("layer_kinds_wrong", "bits that no layer has", _DENSE, (6,), 6, board=False),
    _field("multiply_accumulates_wrong", "one more", _DENSE, (7,), 3, board=False),
    _field("no_inputs", "an empty list of inputs", _DENSE, (8,), []),
    _field("no_outputs", "an empty list of outputs", _DENSE, (9,), []),
    _field("no_layers", "an empty list of layers", _DENSE, (10,), []),
    _field("no_self_tests", "an empty byte string", _DENSE, (11,), b""),
    _field("half_a_self_test", "not a multiple of one test's bytes", _DENSE, (11,), b"\1\2\3\4"),
    _field("input_of_no_elements", "count 0", _DENSE, (8, 0, 1), 0),
    _field("input_of_an_unknown_type", "element type 3", _DENSE, (8, 0, 0), 3),
    _field("input_behind_the_arena", "offset 2 of 3 bytes, 2 elements", _DENSE, (8, 0, 2), 2),
    _field("input_offset_of_64_bits", "2^32", _DENSE, (8, 0, 2), 1 << 32),
    _field("input_offset_negative", "-1", _DENSE, (8, 0, 2), -1),
    _field("input_with_a_field_more", "an array of 4", _DENSE, (8, 0), [0, 2, 0, 0]),
    _field("output_behind_the_arena", "offset 3 of 3 bytes", _DENSE, (9, 0, 2), 3),
    _field(
        "output_that_nothing_wrote", "an input's second byte", _DENSE, (9, 0, 2), 1, board=False
    ),
    _field("int16_at_an_odd_offset", "not aligned", "arg_max_int16", (8, 0, 2), 1),
    _field("unknown_layer_kind", "kind 11", _DENSE, (LAYER, 0, 0), 11),
    _field("layer_kind_0", "kind 0", _DENSE, (LAYER, 0, 0), 0),
    _field("layer_is_no_array", "a byte string", _DENSE, (LAYER, 0), b"\1"),
    _field("layer_empty", "an array of 0", _DENSE, (LAYER, 0), []),
    _field("layer_of_another_kinds_length", "dense fields as lookup", _DENSE, (LAYER, 0, 0), 7),
    _field("layer_output_behind_the_arena", "offset 3 of 3", _DENSE, (LAYER, 0, 2), 3),
    _field("layer_input_behind_the_arena", "offset 2 of 3", _DENSE, (LAYER, 0, 1), 2),
    _field("layer_output_far_away", "offset 4294967295", _DENSE, (LAYER, 0, 2), 0xFFFFFFFF),
    _field("layer_reads_what_nothing_wrote", "shifted", _NETWORK, (LAYER, 4, 1), 65, board=False),
    _field("layer_writes_over_its_input", "dense in place", _DENSE, (LAYER, 0, 2), 1, board=False),
    _field(
        "flag_without_need",
        "24 bits are not enough",
        "dense_just_needs_more_than_24_bits",
        (LAYER, 0, 3),
        1,
        board=False,
    ),
    _field("flag_left_out", "24 bits are enough", _DENSE, (LAYER, 0, 3), 0, board=False),
    _field("unknown_flag", "bit 1", _DENSE, (LAYER, 0, 3), 3, board=False),
    _field("max_pool_with_flags", "has none", _POOL, (LAYER, 0, 3), 1, board=False),
    _field("dense_of_0_inputs", "count 0", _DENSE, (LAYER, 0, 4), 0),
    _field("dense_of_65536_outputs", "more than 16 bits", _DENSE, (LAYER, 0, 5), 65536),
    _field("weights_short", "one byte missing", _DENSE, (LAYER, 0, 10), b"\x83"),
    _field("weights_long", "one byte more", _DENSE, (LAYER, 0, 10), b"\x83\x7e\x80"),
    _field("weights_are_an_array", "no byte string", _DENSE, (LAYER, 0, 10), [131, 126]),
    _field("weight_of_minus_128", "stored 0", _DENSE, (LAYER, 0, 10), b"\x00\x7e", board=False),
    _field("channels_short", "6 bytes", _DENSE, (LAYER, 0, 9), bytes(6)),
    _field(
        "channels_of_two",
        "14 bytes for one output",
        _DENSE,
        (LAYER, 0, 9),
        _channels((0, 1, 1), (0, 1, 1)),
    ),
    _field("multiplier_32769", "above 2^15", _DENSE, (LAYER, 0, 9), _channels((0, 32769, 0))),
    _field("shift_32", "above 31", _DENSE, (LAYER, 0, 9), _channels((0, 1, 32))),
    _field(
        "accumulator_leaves_32_bits",
        "2^31 - 1 + 3 * 255",
        _DENSE,
        (LAYER, 0, 9),
        _channels((2147483647, 1, 0)),
        board=False,
    ),
    _field(
        "low_above_high",
        "low 9, high 8",
        _DENSE,
        (LAYER, 0),
        [1, 0, 2, 1, 2, 1, 7, 9, 8, _channels((10, 32768, 0)), b"\x83\x7e"],
        board=False,
    ),
    _field("zero_point_256", "more than 8 bits", _DENSE, (LAYER, 0, 6), 256),
    _field("window_of_0_rows", "input height 0", _CONV, (LAYER, 0, 4), 0),
    _field("conv_input_larger_than_the_arena", "65535 rows", _CONV, (LAYER, 0, 4), 65535),
    _field("conv_window_outside_below", "a seventh row", _CONV, (LAYER, 0, 7), 7),
    _field("conv_window_outside_right", "stride 3", _CONV, (LAYER, 0, 13), 3),
    _field("conv_stride_0", "stands still", _CONV, (LAYER, 0, 12), 0),
    _field(
        "conv_padding_as_large_as_the_kernel", "a window of padding alone", _CONV, (LAYER, 0, 14), 3
    ),
    _field("conv_kernel_0", "kernel height 0", _CONV, (LAYER, 0, 10), 0),
    _field("conv_weights_short", "one byte missing", _CONV, (LAYER, 0, 21), bytes([9]) * 53),
    _field("conv_pad_value_256", "more than 8 bits", _CONV, (LAYER, 0, 16), 256),
    _field(
        "conv_product_of_sizes_overflows",
        "65535 * 65535 * 2 elements",
        _CONV,
        (LAYER, 0),
        [
            2,
            0,
            40,
            1,
            65535,
            65535,
            2,
            4,
            5,
            3,
            3,
            3,
            1,
            1,
            1,
            1,
            77,
            100,
            0,
            255,
            bytes(21),
            bytes([9]) * 54,
        ],
    ),
    _field(
        "depthwise_channels_do_not_divide",
        "3 outputs of 2 inputs",
        "depthwise_two_outputs_each",
        (LAYER, 0),
        [
            3,
            0,
            18,
            1,
            3,
            3,
            2,
            2,
            2,
            3,
            2,
            2,
            1,
            1,
            0,
            0,
            0,
            90,
            0,
            255,
            _channels((0, 9, 1), (0, 9, 1), (0, 9, 1)),
            bytes([9]) * 12,
        ],
    ),
    _field("max_pool_changes_channels", "2 of 1", _POOL, (LAYER, 0, 9), 2),
    _field("average_pool_changes_channels", "2 of 3", _AVERAGE, (LAYER, 0, 9), 2, board=True),
    _field(
        "average_pool_of_three_records",
        "one is enough",
        _AVERAGE,
        (LAYER, 0, 20),
        _channels((0, 1, 1), (0, 1, 1), (0, 1, 1)),
    ),
    _field("add_reads_behind_the_arena", "second input at 5 of 6", _ADD, (LAYER, 0, 3), 5),
    _field("add_weight_65536", "more than 16 bits", _ADD, (LAYER, 0, 5), 65536),
    _field("add_writes_over_half_an_input", "offset 1", _ADD, (LAYER, 0, 2), 1, board=False),
    _field("lookup_table_short", "255 bytes", "lookup", (LAYER, 0, 4), bytes(255)),
    _field("lookup_table_long", "257 bytes", "lookup", (LAYER, 0, 4), bytes(257)),
    _field(
        "arg_max_of_257", "an index of more than 8 bits", "arg_max_256_elements", (LAYER, 0, 4), 257
    ),
    _field("arg_max_of_an_unknown_type", "element type 7", "arg_max_int32", (LAYER, 0, 3), 7),
    _field("softmax_table_of_half_an_entry", "5 bytes", _SOFTMAX, (LAYER, 0, 4), bytes([9] * 5)),
    _field("softmax_table_empty", "0 bytes", _SOFTMAX, (LAYER, 0, 4), b""),
    _field("softmax_table_from_0", "would divide by 0", _SOFTMAX, (LAYER, 0, 4), bytes(6)),
    _field("softmax_table_rises", "1, 2", _SOFTMAX, (LAYER, 0, 4), b"\1\0\2\0", board=False),
    _field("softmax_table_of_257_entries", "514 bytes", _SOFTMAX, (LAYER, 0, 4), b"\1\0" * 257),
    _field("forest_of_256_features", "255 marks a leaf", _FOREST, (LAYER, 0, 3), 256),
    _field("forest_bases_short", "11 bytes", _FOREST, (LAYER, 0, 5), bytes(11)),
    _field("forest_without_trees", "no roots", _FOREST, (LAYER, 0, 6), b""),
    _field(
        "forest_root_behind_the_nodes",
        "index 11 of 11",
        _FOREST,
        (LAYER, 0, 6),
        struct.pack("<3H", 0, 5, 11),
    ),
    _field("forest_root_of_half", "5 bytes", _FOREST, (LAYER, 0, 6), bytes(5)),
    _field(
        "forest_roots_fall",
        "5, then 3",
        _FOREST,
        (LAYER, 0, 6),
        struct.pack("<3H", 0, 5, 3),
        board=False,
    ),
    _field(
        "forest_first_root_not_0",
        "1",
        _FOREST,
        (LAYER, 0, 6),
        struct.pack("<3H", 1, 5, 8),
        board=False,
    ),
    _field("forest_nodes_of_half", "4 bytes", "forest_of_a_leaf", (LAYER, 0, 7), leaf(1)[:4]),
    _field("forest_without_nodes", "0 bytes", "forest_of_a_leaf", (LAYER, 0, 7), b""),
    _field(
        "forest_row_behind_the_leaves",
        "row 2 of 2",
        "forest_of_a_leaf",
        (LAYER, 0, 7),
        leaf(2),
        board=False,
    ),
    _field("forest_leaves_of_half", "7 bytes", "forest_of_a_leaf", (LAYER, 0, 8), bytes(7)),
    _field("forest_without_leaves", "0 bytes", "forest_of_a_leaf", (LAYER, 0, 8), b""),
    _field(
        "forest_feature_1_of_1",
        "beyond the input",
        "forest_stump_equal_goes_left",
        (LAYER, 0, 7),
        node(1, 0, 2) + leaf(0) + leaf(1),
        board=False,
    ),
    _field(
        "forest_jump_0",
        "never ends",
        "forest_stump_equal_goes_left",
        (LAYER, 0, 7),
        node(0, 10, 0) + leaf(0) + leaf(1),
        board=False,
    ),
    _field(
        "forest_jump_behind_the_nodes",
        "to node 3 of 3",
        "forest_stump_equal_goes_left",
        (LAYER, 0, 7),
        node(0, 10, 3) + leaf(0) + leaf(1),
        board=False,
    ),
    _field(
        "forest_jump_wraps_around",
        "65535",
        "forest_stump_equal_goes_left",
        (LAYER, 0, 7),
        node(0, 10, 65535) + leaf(0) + leaf(1),
        board=False,
    ),
    _field(
        "forest_tree_without_a_right_leaf",
        "cut",
        "forest_stump_equal_goes_left",
        (LAYER, 0, 7),
        node(0, 10, 2) + leaf(0),
        board=False,
    ),
    _field(
        "forest_ends_in_a_node",
        "no leaf",
        "forest_stump_equal_goes_left",
        (LAYER, 0, 7),
        node(0, 10, 2) + leaf(0) + node(0, 10, 2),
        board=False,
    ),
    _field(
        "forest_leaf_that_jumps",
        "jump 1",
        "forest_of_a_leaf",
        (LAYER, 0, 7),
        b"\xff\x01\x00\x01\x00",
        board=False,
    ),
    _field(
        "forest_nodes_of_no_tree",
        "three more",
        "forest_stump_equal_goes_left",
        (LAYER, 0, 7),
        STUMP + STUMP,
        board=False,
    ),
    _field("description_is_text", "no byte string", _DENSE, (12,), "dense"),
    _field("description_is_no_cbor", "an unfinished array", _DENSE, (12,), b"\x84", board=False),
    _field(
        "description_of_3_fields", "an array of 3", _DENSE, (12,), b"\x83\x60\x80\x80", board=False
    ),
    BadTiny("described_inputs_missing", "none for one input", described(_DENSE, ((1,), [])), False),
    BadTiny(
        "described_shape_differs", "3 elements for 2", described(_DENSE, ((1, 0, 1), [3])), False
    ),
    BadTiny(
        "described_order_is_no_permutation",
        "[1] for one dimension",
        described(_DENSE, ((1, 0, 2), [1])),
        False,
    ),
    BadTiny(
        "described_scale_0",
        "scale mantissa 0",
        described(_DENSE, ((1, 0, 3), [[0, 0, 0, 0]])),
        False,
    ),
    BadTiny(
        "described_scale_of_64_bits",
        "mantissa 2^40",
        described(_DENSE, ((1, 0, 3), [[1 << 40, 0, 0, 0]])),
        False,
    ),
    BadTiny(
        "described_by_no_quantisation", "an empty list", described(_DENSE, ((1, 0, 3), [])), False
    ),
    BadTiny("described_name_too_long", "65 characters", described(_DENSE, ((0,), "x" * 65)), False),
    BadTiny(
        "described_layer_names_too_few",
        "one name for 7 layers",
        described(_NETWORK, ((3,), ["x"])),
        False,
    ),
    BadTiny("described_name_twice", "both outputs", described(_NETWORK, ((2, 1, 0), "y0")), False),
)
