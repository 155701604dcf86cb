"""Real numbers as the integers of the tiny format."""

import struct
from dataclasses import dataclass
from math import frexp

from maille_protocol.tiny import Quantisation
from maille_protocol.tiny.codes import MAX_MULTIPLIER, MAX_SHIFT

_MANTISSA_BITS = 24
LARGEST_MULTIPLIER = 0.5


@dataclass(frozen=True, slots=True)
class Steps:
    """Quantisation of a tensor inside the model: `real = scale * (integer - zero)`."""

    scale: float
    zero: int

    def integer(self, real: float) -> int:
        """The nearest integer in 0 to 255."""
        if real == float("inf"):
            return 255
        if real == float("-inf"):
            return 0
        return min(255, max(0, self.zero + round(real / self.scale)))


def steps_between(low: float, high: float) -> Steps:
    """The finest steps that reach both ends and have 0 among them."""
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low < 1e-9:
        high = low + 1.0
    scale = (high - low) / 255
    return Steps(scale, min(255, max(0, round(-low / scale))))


def record(bias: int, real_multiplier: float) -> bytes:
    """One channel's 7 bytes. A shift of 0 rounds down, so half a step goes into the bias."""
    multiplier, shift = multiplier_and_shift(real_multiplier)
    if shift == 0 and multiplier:
        bias += round(32768 / multiplier)
    return struct.pack("<iHB", bias, multiplier, shift)


def multiplier_and_shift(real: float) -> tuple[int, int]:
    """Give m and s with m * 2^-(16 + s) nearest to `real` (0 to 0.5)."""
    if not 0 <= real <= LARGEST_MULTIPLIER * (1 + 1e-9):
        raise ValueError(f"multiplier {real}")
    if real == 0:
        return 0, 0
    # real = fraction * 2^exponent with the fraction in [0.5, 1): m in [2^14, 2^15] at s = -1 - exponent
    _, exponent = frexp(real)
    shift = min(MAX_SHIFT, max(0, -1 - exponent))
    multiplier = round(real * 2.0 ** (16 + shift))
    return min(multiplier, MAX_MULTIPLIER), shift


def described(scale: float, offset: float) -> Quantisation:
    """A descriptor's quantisation with mantissas of 24 bits."""
    return Quantisation(*_parts(scale), *_parts(offset))


def _parts(real: float) -> tuple[int, int]:
    if real == 0:
        return 0, 0
    fraction, exponent = frexp(real)
    mantissa = round(fraction * 2**_MANTISSA_BITS)
    exponent -= _MANTISSA_BITS
    while mantissa % 2 == 0:
        mantissa //= 2
        exponent += 1
    if not -127 <= exponent <= 127:
        return (0, 0) if exponent < 0 else (mantissa, 127)
    return mantissa, exponent
