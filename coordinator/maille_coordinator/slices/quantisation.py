"""GGUF's weight blocks rewritten as the blocks that ONNX Runtime multiplies fastest.

`MatMulNBits` wants unsigned codes, a float32 scale a block and a whole number that stands for
zero. So every format here becomes

    weight = scale * (code - zero) + offset

Formats without a minimum are symmetric: `zero` is half the range of the codes and there is no
offset. Those with one (Q4_1, Q4_K, Q5_1, Q5_K: `scale * code + minimum`) get the whole zero next
to `-minimum / scale`, and one float32 `offset` a block for what is left. Codes are copied, never
rounded, so nothing is lost. The graph adds the offsets as a small dense product with the block
sums of the input (docs/decisions/0005-language-model-number-formats.md says why).

All functions take `uint8 [rows, bytes of a row]` and work row by row, so a caller may hand over
as few rows at a time as its memory allows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType

from maille_coordinator.slices.errors import UnsupportedModelError

__all__ = [
    "BLOCK_GROUP",
    "DENSE_TYPES",
    "BlockFormat",
    "block_format",
    "dense_rows",
    "supported_type_names",
]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

DENSE_TYPES = frozenset(
    {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16}
)
# The kernels take this many blocks of a row at a time and what is left over far more slowly, so the
# rows of a layer's matrices are filled up with blocks of zeros.
BLOCK_GROUP = 4
_SUPER_BLOCK = 256
_LOW, _FOUR = np.uint8(15), np.uint8(4)


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """How one GGUF type is written for `MatMulNBits`.

    Attributes:
        bits: bits of a code in the slice, 4 or 8.
        block: weights that share a scale.
        stored_weights: weights in one block of the GGUF file.
        stored_bytes: bytes of one block of the GGUF file.
        codes: stored blocks `[n, stored_bytes]` to codes `[n, stored_weights]`, each below
            `2 ** bits`.
        scales: stored blocks to `[n, stored_weights / block]`.
        minimums: the same for the minimums; None where the type is symmetric.
        highest: the largest code; only for types with a minimum.
    """

    bits: int
    block: int
    stored_weights: int
    stored_bytes: int
    codes: Callable[[Bytes], Bytes]
    scales: Callable[[Bytes], Floats]
    minimums: Callable[[Bytes], Floats] | None = None
    highest: int = 15

    @property
    def symmetric(self) -> bool:
        """Whether zero is half the range of the codes and there are no offsets."""
        return self.minimums is None

    def _blocks(self, rows: Bytes) -> Bytes:
        return rows.reshape(-1, self.stored_bytes)

    def packed_codes(self, rows: Bytes) -> Bytes:
        """Codes as `MatMulNBits` reads them: `[rows, blocks of a row, block * bits / 8]`."""
        codes = self.codes(self._blocks(rows)).reshape(rows.shape[0], -1, self.block)
        return self._packed(codes)

    def _packed(self, codes: Bytes) -> Bytes:
        if self.bits == 8:
            return np.ascontiguousarray(codes)
        if codes.shape[-1] % 2:
            codes = np.concatenate([codes, np.zeros_like(codes[..., :1])], axis=-1)
        return codes[..., 0::2] | (codes[..., 1::2] << _FOUR)

    def block_scales(self, rows: Bytes) -> Floats:
        """Scales `[rows, blocks of a row]`."""
        return np.ascontiguousarray(self.scales(self._blocks(rows)).reshape(rows.shape[0], -1))

    def _zeros(self, rows: Bytes) -> tuple[Floats, Floats, Floats]:
        """Whole zeros, scales and minimums, `[rows, blocks of a row]`."""
        if self.minimums is None:
            raise ValueError("this type has no minimum")
        scales = self.block_scales(rows)
        minimums = self.minimums(self._blocks(rows)).reshape(scales.shape)
        used = scales != 0
        ratio = np.divide(-minimums, scales, out=np.zeros_like(scales), where=used)
        return np.clip(np.rint(ratio), 0, self.highest), scales, minimums

    def packed_zeros(self, rows: Bytes) -> Bytes:
        """Codes that stand for zero, packed like codes: `[rows, ceil(blocks * bits / 8)]`."""
        return self._packed(self._zeros(rows)[0].astype(np.uint8))

    def block_offsets(self, rows: Bytes) -> Floats:
        """Offsets `[rows, blocks of a row]`. Only for types that are not symmetric."""
        zeros, scales, minimums = self._zeros(rows)
        return minimums + zeros * scales


def _half(blocks: Bytes, at: int) -> Floats:
    """The float16 at byte `at` of each block, as float32 `[n, 1]`."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """Low nibbles of all bytes, then their high nibbles: GGUF's order within a block."""
    return np.concatenate([packed & _LOW, packed >> _FOUR], axis=-1)


def _fifth_bits(blocks: Bytes, at: int) -> Bytes:
    """The 32 fifth bits of a Q5_0 or Q5_1 block, in place (0 or 16)."""
    return np.unpackbits(blocks[:, at : at + 4], axis=-1, bitorder="little") << _FOUR


def _q8_0_codes(blocks: Bytes) -> Bytes:
    # Adding 128 to a signed byte flips its highest bit.
    return blocks[:, 2:34] ^ np.uint8(128)


def _six_bit_pairs(blocks: Bytes) -> tuple[Floats, Floats]:
    """Scale and minimum multipliers `[n, 8]` each, of the twelve bytes at 4 of Q4_K and Q5_K."""
    first, second, third = (blocks[:, at : at + 4] for at in (4, 8, 12))
    scales = np.concatenate([first & 63, (third & 15) | ((first >> 6) << 4)], axis=-1)
    minimums = np.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], axis=-1)
    return scales.astype(np.float32), minimums.astype(np.float32)


def _k_scales(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * _six_bit_pairs(blocks)[0]


def _k_minimums(blocks: Bytes) -> Floats:
    return -_half(blocks, 2) * _six_bit_pairs(blocks)[1]


def _q4_k_codes(blocks: Bytes) -> Bytes:
    return _nibbles(blocks[:, 16:144].reshape(-1, 4, 32)).reshape(-1, _SUPER_BLOCK)


def _q5_k_codes(blocks: Bytes) -> Bytes:
    low = _nibbles(blocks[:, 48:176].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    # Byte i of the high bits holds the fifth bit of weight i of each of the eight sub-blocks.
    shifts = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    high = (blocks[:, 16:48].reshape(-1, 1, 32) >> shifts) & np.uint8(1)
    return (low | (high << _FOUR)).reshape(-1, _SUPER_BLOCK)


def _q6_k_codes(blocks: Bytes) -> Bytes:
    low = _nibbles(blocks[:, 0:128].reshape(-1, 2, 64)).reshape(-1, 8, 32)
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8).reshape(1, 1, 4, 1)
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts) & np.uint8(3)
    return _centred(low | (high.reshape(-1, 8, 32) << _FOUR), 32).reshape(-1, _SUPER_BLOCK)


def _q6_k_scales(blocks: Bytes) -> Floats:
    signed = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    return _half(blocks, 208) * signed


def _centred(codes: Bytes, centre: int) -> Bytes:
    """Codes whose zero is `centre`, moved to the 8-bit zero of 128."""
    return (codes + np.uint8(128 - centre)).astype(np.uint8)


_FORMATS = {
    GGMLQuantizationType.Q8_0: BlockFormat(
        8, 32, 32, 34, codes=_q8_0_codes, scales=lambda b: _half(b, 0)
    ),
    GGMLQuantizationType.Q4_0: BlockFormat(
        4, 32, 32, 18, codes=lambda b: _nibbles(b[:, 2:18]), scales=lambda b: _half(b, 0)
    ),
    GGMLQuantizationType.Q4_1: BlockFormat(
        4,
        32,
        32,
        20,
        codes=lambda b: _nibbles(b[:, 4:20]),
        scales=lambda b: _half(b, 0),
        minimums=lambda b: _half(b, 2),
    ),
    GGMLQuantizationType.Q5_0: BlockFormat(
        8,
        32,
        32,
        22,
        codes=lambda b: _centred(_nibbles(b[:, 6:22]) | _fifth_bits(b, 2), 16),
        scales=lambda b: _half(b, 0),
    ),
    GGMLQuantizationType.Q5_1: BlockFormat(
        8,
        32,
        32,
        24,
        codes=lambda b: _nibbles(b[:, 8:24]) | _fifth_bits(b, 4),
        scales=lambda b: _half(b, 0),
        minimums=lambda b: _half(b, 2),
        highest=31,
    ),
    GGMLQuantizationType.Q4_K: BlockFormat(
        4,
        32,
        _SUPER_BLOCK,
        144,
        codes=_q4_k_codes,
        scales=_k_scales,
        minimums=_k_minimums,
    ),
    GGMLQuantizationType.Q5_K: BlockFormat(
        8,
        32,
        _SUPER_BLOCK,
        176,
        codes=_q5_k_codes,
        scales=_k_scales,
        minimums=_k_minimums,
        highest=31,
    ),
    GGMLQuantizationType.Q6_K: BlockFormat(
        8, 16, _SUPER_BLOCK, 210, codes=_q6_k_codes, scales=_q6_k_scales
    ),
}


def supported_type_names() -> str:
    """Every type this program reads, for an error message."""
    return ", ".join(sorted(kind.name for kind in (*DENSE_TYPES, *_FORMATS)))


def block_format(kind: GGMLQuantizationType) -> BlockFormat:
    """The format for a quantised type.

    Raises:
        UnsupportedModelError: the type is not one this program rewrites.
    """
    found = _FORMATS.get(kind)
    if found is None:
        raise UnsupportedModelError(
            f"weights of type {kind.name} are not supported; "
            f"use a file with any of {supported_type_names()}"
        )
    return found


def dense_rows(kind: GGMLQuantizationType, rows: Bytes) -> Floats:
    """Rows of a float type as float32 `[rows, weights of a row]`."""
    contiguous = np.ascontiguousarray(rows)
    if kind is GGMLQuantizationType.F32:
        return contiguous.view(np.float32)
    if kind is GGMLQuantizationType.F16:
        return contiguous.view(np.float16).astype(np.float32)
    if kind is GGMLQuantizationType.BF16:
        return (contiguous.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    raise ValueError(f"{kind.name} is not a float type")
