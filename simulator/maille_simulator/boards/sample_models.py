"""Small tiny models made by hand, to try boards with: no training, no converter."""

import random
import struct
from dataclasses import replace

import numpy as np

from maille_protocol.tensors import Array
from maille_protocol.tiny import (
    ArgMax,
    Dense,
    Description,
    ElementType,
    Layer,
    Model,
    Quantisation,
    Requantisation,
    Tensor,
    TensorDescription,
    encode_model,
    make_self_tests,
)
from maille_protocol.tiny.codes import FLAG_ACCUMULATOR_24

_CHANNEL = struct.Struct("<iHB")
_INTEGER = Quantisation(1, 0, 0, 0)
_SHARE = Quantisation(1, -8, 0, 0)
"""0 to 1 in steps of 1/256."""


def switch_model(labels: tuple[str, str] = ("low", "high")) -> bytes:
    """A container: one number from 0 to 1 (`x`), `class` is the second label above one half."""
    channels = _CHANNEL.pack(510, 32768, 0) + _CHANNEL.pack(0, 32768, 0)
    dense = Dense(
        0, 1, FLAG_ACCUMULATOR_24, 1, 2, Requantisation(0, 0, 255, channels), bytes([126, 130])
    )
    return _container("switch", 1, (dense,), 2, labels)


def dense_model(inputs: int = 64, classes: int = 10, seed: int = 1) -> bytes:
    """A container: `inputs` numbers from 0 to 1 (`x`), `class` from 0; weights at random."""
    randomness = random.Random(seed)
    channels = b"".join(
        _CHANNEL.pack(randomness.randrange(-2000, 2000), 16000, 4) for _ in range(classes)
    )
    weights = bytes(randomness.randrange(1, 256) for _ in range(inputs * classes))
    dense = Dense(
        0,
        inputs,
        FLAG_ACCUMULATOR_24,
        inputs,
        classes,
        Requantisation(128, 0, 255, channels),
        weights,
    )
    return _container("dense", inputs, (dense,), classes, tuple(range(classes)))


def _container(
    name: str,
    inputs: int,
    layers: tuple[Layer, ...],
    classes: int,
    labels: tuple[int | str, ...],
) -> bytes:
    scores = layers[-1].writes()
    choice = ArgMax(scores.offset, scores.end, ElementType.UINT8, classes)
    model = Model(
        (Tensor(ElementType.UINT8, inputs, 0),),
        (choice.writes(),),
        (*layers, choice),
        b"",
        Description(
            name,
            (TensorDescription("x", (inputs,), (0,), (_SHARE,)),),
            (TensorDescription("class", (1,), (0,), (_INTEGER,), labels),),
            (),
        ),
    )
    randomness = random.Random(inputs)
    tests: Array = np.array(
        [[randomness.randrange(256) for _ in range(inputs)] for _ in range(8)], np.uint8
    )
    return encode_model(replace(model, self_tests=make_self_tests(model, [tests])))
