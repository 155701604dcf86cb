"""What the stages of a language model take in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from maille.language_views import StagePlace
from maille.local_mesh import LocalMesh
from maille_coordinator.slices import read_model

__all__ = ["StageMemory", "stages_memory"]


@dataclass(frozen=True, slots=True)
class StageMemory:
    """What the process of one stage takes; all in bytes.

    Attributes:
        node: that holds the stage.
        first_layer: of its slice, counted from 0.
        last_layer: of its slice.
        slice_bytes: weights.
        cache_bytes: keys and values of the positions it has.
        resident_bytes: of the whole process.
    """

    node: str
    first_layer: int
    last_layer: int
    slice_bytes: int
    cache_bytes: int
    resident_bytes: int

    @property
    def beside_bytes(self) -> int:
        """Beside slice and cache: interpreter, runtime, what the kernels rearranged, buffers."""
        return self.resident_bytes - self.slice_bytes - self.cache_bytes


def stages_memory(
    parts: LocalMesh, stages: Sequence[StagePlace], model: Path, positions: int
) -> list[StageMemory]:
    """Look at the processes; `positions` are in the caches of each."""
    shape = read_model(model)
    return [
        StageMemory(
            stage.node,
            stage.first_layer,
            stage.last_layer,
            stage.weight_bytes,
            shape.key_value_bytes(positions, stage.last_layer - stage.first_layer + 1),
            psutil.Process(parts.pid(stage.node)).memory_info().rss,
        )
        for stage in stages
    ]
