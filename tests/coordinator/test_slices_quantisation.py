"""Blocks rewritten for ONNX Runtime hold exactly the weights that the GGUF holds."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from maille_coordinator.slices.errors import UnsupportedModelError
from maille_coordinator.slices.quantisation import block_format, dense_rows

QUANTISED = [Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K]
SCALES_AT = {
    Kind.Q4_1: (0, 2),
    Kind.Q5_1: (0, 2),
    Kind.Q4_K: (0, 2),
    Kind.Q5_K: (0, 2),
    Kind.Q6_K: (208,),
}
ROWS, BLOCKS = 5, 3


def stored_rows(kind: Kind, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Rows of random bytes: every code, sub-scale and sign occurs; the float16 scales are finite."""
    generator = np.random.default_rng(seed)
    size = gguf.GGML_QUANT_SIZES[kind][1]
    blocks = generator.integers(0, 256, (ROWS * BLOCKS, size), dtype=np.uint8)
    for at in SCALES_AT.get(kind, (0,)):
        scales = generator.normal(size=(len(blocks), 1)).astype(np.float16)
        scales[seed % len(scales)] = 0
        blocks[:, at : at + 2] = scales.view(np.uint8)
    return blocks.reshape(ROWS, BLOCKS * size)


def unpacked(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Codes as the operator's description says: low bits first along the last axis."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)[
        ..., :count
    ]


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rewritten_blocks_are_the_stored_weights_bit_for_bit(kind: Kind, seed: int) -> None:
    rows = stored_rows(kind, seed)
    form = block_format(kind)

    codes = unpacked(form.packed_codes(rows), form.bits, form.block).astype(np.float32)
    scales = form.block_scales(rows)
    if form.symmetric:
        zeros = np.full(scales.shape, 2 ** (form.bits - 1), np.float32)
        offsets = np.zeros_like(scales)
    else:
        zeros = unpacked(form.packed_zeros(rows), form.bits, scales.shape[1]).astype(np.float32)
        offsets = form.block_offsets(rows)
    weights = scales[..., None] * (codes - zeros[..., None]) + offsets[..., None]

    expected = gguf.quants.dequantize(rows, kind)
    # float32 multiplies and adds in another order: at most a few units in the last place.
    tolerance = 4 * np.finfo(np.float32).eps * np.abs(expected).max()
    np.testing.assert_allclose(weights.reshape(ROWS, -1), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", [Kind.Q4_1, Kind.Q4_K], ids=lambda kind: kind.name)
def test_offsets_are_what_a_whole_zero_leaves_over(kind: Kind) -> None:
    weights = np.random.default_rng(3).normal(size=(4, 256)).astype(np.float32)
    form = block_format(kind)
    rows = gguf.quants.quantize(weights, kind) if kind is Kind.Q4_1 else stored_rows(kind, 3)

    scales, offsets = form.block_scales(rows), form.block_offsets(rows)

    if kind is Kind.Q4_1:
        assert (np.abs(offsets) <= np.abs(scales) * 0.501).all()
    assert np.isfinite(offsets).all()


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16], ids=lambda kind: kind.name)
def test_float_rows_are_the_stored_numbers(kind: Kind) -> None:
    weights = np.random.default_rng(4).normal(size=(3, 64)).astype(np.float32)
    stored = weights if kind is Kind.F32 else gguf.quants.quantize(weights, kind)

    rows = dense_rows(kind, stored.view(np.uint8).reshape(3, -1))

    np.testing.assert_array_equal(rows, gguf.quants.dequantize(stored, kind))


@pytest.mark.parametrize("kind", [Kind.Q2_K, Kind.IQ4_XS, Kind.TQ1_0], ids=lambda kind: kind.name)
def test_an_unknown_type_is_refused_by_name_with_those_that_work(kind: Kind) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"{kind.name} are not supported.*Q4_K"):
        block_format(kind)
