"""Probabilities as whole numbers, the same bit for bit on every machine.

The exponential of a library may differ in its last bit between processors and versions, and a sum
of floating-point numbers depends on its order. So: 2**x comes from a table of exactly rounded
numbers and a polynomial, in operations that IEEE 754 defines to the bit (+ - * /, one at a time),
and is then rounded to a whole number; sums of whole numbers have no order.
"""

from decimal import Context, Decimal

import numpy as np
from numpy.typing import NDArray

__all__ = ["ONE", "Floats", "Whole", "weights_of"]

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

_BITS = 44
ONE = 1 << _BITS
"""Weight of the most probable token. 2**19 tokens of it still fit 63 bits; a token less probable
than it by 2**-44 has weight 0."""

_STEPS = 256
_DIGITS = Context(prec=40)
_STEP_LN = _DIGITS.divide(Decimal(2).ln(_DIGITS), Decimal(_STEPS))
_PER_STEP = float(_DIGITS.divide(Decimal(1), _STEP_LN))
_FIRST = float(_STEP_LN)
_SECOND = float(_DIGITS.divide(_DIGITS.multiply(_STEP_LN, _STEP_LN), Decimal(2)))
_LOWEST = -_BITS * _STEPS
_ROOTS = np.array(
    [
        float(_DIGITS.power(Decimal(2), _DIGITS.divide(Decimal(step), Decimal(_STEPS))))
        for step in range(_STEPS)
    ]
)
# 2**(44 + n / 256) for n from the least to 0; but 0 for the least, which stands for all below it.
_TABLE = np.append(np.outer(2.0 ** np.arange(_BITS), _ROOTS).ravel(), float(ONE))
_TABLE[0] = 0.0
# Added to a small number, it leaves the nearest whole number in the sum's lowest bits.
_MAGIC = 1.5 * 2.0**52
_SHIFT = _MAGIC - _LOWEST
_MAGIC_BITS = int(np.float64(_MAGIC).view(np.int64))
_BLOCK = 8192


def weights_of(logits: NDArray[np.floating], greatest: float, temperature: float = 1.0) -> Whole:
    """`ONE` * exp((logits - greatest) / temperature), rounded down; relative error below 1e-9.

    Args:
        logits: finite or -inf, (n,).
        greatest: of them.
        temperature: more than 1e-7.
    """
    weights = np.empty(logits.size, dtype=np.int64)
    scale = _PER_STEP / temperature
    size = min(_BLOCK, logits.size)
    scaled, near, power = np.empty(size), np.empty(size), np.empty(size)
    # In blocks, so that the working space stays in the processor's nearest cache.
    for start in range(0, logits.size, _BLOCK):
        block = logits[start : start + _BLOCK]
        if block.size < size:
            scaled, near, power = (space[: block.size] for space in (scaled, near, power))
        np.subtract(block, greatest, out=scaled, dtype=np.float64)
        np.multiply(scaled, scale, out=scaled)
        np.maximum(scaled, _LOWEST, out=scaled)
        np.add(scaled, _SHIFT, out=near)
        _TABLE.take(near.view(np.int64) - _MAGIC_BITS, out=power, mode="clip")
        np.subtract(near, _SHIFT, out=near)
        np.subtract(scaled, near, out=scaled)
        np.multiply(scaled, _SECOND, out=near)
        np.add(near, _FIRST, out=near)
        np.multiply(near, scaled, out=near)
        np.add(near, 1.0, out=near)
        np.multiply(near, power, out=near)
        weights[start : start + _BLOCK] = near
    return weights
