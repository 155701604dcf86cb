"""A model cut into stages that are ready to run."""

from itertools import pairwise
from pathlib import Path

from maille_coordinator.slices import LanguageModel, write_slice
from maille_node.language.stage import Stage


def cut(model: LanguageModel, folder: Path, count: int) -> list[Stage]:
    """`count` stages of about as many layers each, the first with embedding, the last with head."""
    bounds = [model.layer_count * part // count for part in range(count + 1)]
    return [
        Stage.open(
            write_slice(
                model,
                first,
                stop - 1,
                folder,
                with_embedding=first == 0,
                with_head=stop == model.layer_count,
            ).path
        )
        for first, stop in pairwise(bounds)
    ]
