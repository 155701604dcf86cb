"""Rotary position embedding: which angle each position turns each pair of a head by."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Rope"]


@dataclass(frozen=True, slots=True)
class Rope:
    """What a model file says about its rotary embedding.

    Attributes:
        interleaved: pairs are neighbours (0, 1), (2, 3)… as GGUF stores Q and K of the llama
            architecture; otherwise the first half pairs with the second (qwen2).
        inverse_frequencies: radians a position for each pair, after all scaling.
    """

    interleaved: bool
    inverse_frequencies: tuple[float, ...]

    @classmethod
    def of(
        cls,
        *,
        interleaved: bool,
        dimension: int,
        base: float,
        linear_factor: float,
        factors: npt.NDArray[np.float32] | None,
    ) -> "Rope":
        """Frequencies of `dimension / 2` pairs.

        Args:
            interleaved: see the class.
            dimension: how many values of a head are turned.
            base: `rope.freq_base`.
            linear_factor: positions are divided by it (1 for none).
            factors: `rope_freqs.weight`, which the Llama 3 scaling is stored as: each frequency
                is divided by its factor.
        """
        exponents = np.arange(0, dimension, 2, dtype=np.float64) / dimension
        inverse = 1.0 / (base**exponents * linear_factor)
        if factors is not None:
            inverse = inverse / factors.astype(np.float64)
        return cls(interleaved, tuple(inverse.tolist()))
