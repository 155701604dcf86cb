"""Telling whether two nodes compute a slice to the same bits, before an answer depends on it.

The kernels of one processor family give the same bits for the same slice, whatever the threads;
those of another family may round a little differently. A node runs this once for each slice it
holds and advertises the result: a lost stage is best replaced by one with an equal fingerprint.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from maille_node.language.stage import Stage, Unchecked

__all__ = ["KernelProbe", "probe_kernels"]

_POSITIONS = 24
_STEPS = (1, 7, 16)


@dataclass(frozen=True, slots=True)
class KernelProbe:
    """What a slice gave here for inputs that are the same everywhere.

    Attributes:
        fingerprint: 16 bytes; equal on two nodes when their kernels give the same bits.
        steps_agree: whether positions one by one give the same bits as several at once. Then a
            lost cache is rebuilt at prefill speed; otherwise known positions are to be replayed in
            the steps they first came in.
    """

    fingerprint: bytes
    steps_agree: bool


def probe_kernels(stage: Stage) -> KernelProbe:
    """Run the slice on fixed inputs; takes as long as about fifty tokens."""
    positions = min(_POSITIONS, stage.info.context_length)
    inputs = _inputs(stage, positions)
    # The rows of logits are all wanted, so that the head takes part.
    outputs = [_run(stage, inputs, step) for step in _STEPS]
    digest = hashlib.sha256(outputs[-1].tobytes()).digest()
    agree = all(output.tobytes() == outputs[-1].tobytes() for output in outputs)
    return KernelProbe(digest[:16], agree)


def _inputs(stage: Stage, positions: int) -> Unchecked:
    info = stage.info
    if info.with_embedding:
        return np.arange(positions, dtype=np.int64) * 7919 % info.vocabulary_size
    # Whole numbers from -500 to 500, divided by a power of two: exact in float32 everywhere.
    count = positions * info.hidden_size
    whole = np.arange(count, dtype=np.int64) * 48271 % 1009 % 1001 - 500
    return (whole.astype(np.float32) / np.float32(256)).reshape(positions, info.hidden_size)


def _run(stage: Stage, inputs: Unchecked, step: int) -> Unchecked:
    cache = stage.new_cache(len(inputs))
    pieces = []
    for start in range(0, len(inputs), step):
        piece = inputs[start : start + step]
        pieces.append(stage.run(cache, piece, range(len(piece)) if stage.info.with_head else ()))
    return np.concatenate(pieces)
