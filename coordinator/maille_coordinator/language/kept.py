"""What an ended session left: a data holder."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

TokenArray: TypeAlias = np.ndarray[tuple[int], np.dtype[np.uint32]]


@dataclass(slots=True, eq=False)
class Kept:
    """Caches of one ended session on the stages of one pipeline."""

    handle: int
    tokens: TokenArray
    """Whose positions are in the caches."""
    holds: list[set[str]]
    """By stage, the nodes that have it."""
    used_ms: float
