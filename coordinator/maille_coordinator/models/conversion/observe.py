"""What values tensors have on the user's data, and the ranges to quantise by."""

from typing import TypeAlias

import numpy as np

from maille_coordinator.models.conversion.evaluate import evaluate
from maille_coordinator.models.conversion.operations import Program, Reals
from maille_coordinator.models.conversion.samples import Samples

Ranges: TypeAlias = list[tuple[float, float]]

CUTS = (0.0, 0.0002, 0.001, 0.005)
"""Shares to try: rare large values may cost all others their resolution, or may be what matters."""
_KEPT_VALUES = 200_000


class Observed:
    """Values of each tensor over the samples (of large tensors a part, and always both ends)."""

    def __init__(self, program: Program, samples: Samples) -> None:
        count = len(program.tensors)
        parts: list[list[Reals]] = [[] for _ in range(count)]
        low, high = np.full(count, np.inf), np.full(count, -np.inf)
        for values in evaluate(program, samples):
            for tensor, array in values.items():
                low[tensor] = min(low[tensor], float(array.min()))
                high[tensor] = max(high[tensor], float(array.max()))
                total = samples.count * array.shape[1]
                stride = -(-total // _KEPT_VALUES)
                parts[tensor].append(array.ravel()[::stride])
        self._ends = list(zip(low.tolist(), high.tolist(), strict=True))
        self._values = [np.concatenate(part) if part else np.zeros(1) for part in parts]

    def ranges(self, cut: float) -> Ranges:
        """Ranges that leave out this share of the values at each end."""
        if not cut:
            return self._ends
        return [
            (float(np.quantile(values, cut)), float(np.quantile(values, 1 - cut)))
            for values in self._values
        ]
