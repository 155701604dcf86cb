"""Tiny models of the size that boards hold, made here, with the tests they carry."""

import hashlib
from dataclasses import replace

import numpy as np

from maille_protocol import ModelFormat, ModelReference
from maille_protocol.tensors import Array
from maille_protocol.tiny import (
    ArgMax,
    Dense,
    Description,
    ElementType,
    Model,
    Quantisation,
    Requantisation,
    Tensor,
    TensorDescription,
    encode_model,
    make_self_tests,
)
from maille_protocol.tiny.codes import FLAG_ACCUMULATOR_24

_CHANNEL = np.dtype([("bias", "<i4"), ("multiplier", "<u2"), ("shift", "u1")])


def _dense(
    random: np.random.Generator, source: int, target: int, inputs: int, outputs: int
) -> Dense:
    channels = np.zeros(outputs, _CHANNEL)
    channels["bias"] = random.integers(-20000, 20000, outputs)
    channels["multiplier"] = random.integers(16384, 32768, outputs)
    channels["shift"] = random.integers(3, 6, outputs)
    weights = random.integers(1, 256, outputs * inputs).astype(np.uint8)
    return Dense(
        source,
        target,
        FLAG_ACCUMULATOR_24,
        inputs,
        outputs,
        Requantisation(100, 0, 255, channels.tobytes()),
        weights.tobytes(),
    )


def classifier(seed: int, *, inputs: int = 64, hidden: int = 32, classes: int = 10) -> Model:
    """64 -> 32 -> 10 -> class: about 3 KB with its eight self-tests.

    Input x is uint8 and stands for 0 to 1, output y is the class.
    """
    random = np.random.default_rng(seed)
    layers = (
        _dense(random, 0, inputs, inputs, hidden),
        _dense(random, inputs, 0, hidden, classes),
        ArgMax(0, inputs, ElementType.UINT8, classes),
    )
    made = Model(
        (Tensor(ElementType.UINT8, inputs, 0),),
        (Tensor(ElementType.UINT8, 1, inputs),),
        layers,
        b"",
        Description(
            f"classifier-{seed}",
            (TensorDescription("x", (inputs,), (0,), (Quantisation(1, -8, 0, 0),)),),
            (TensorDescription("y", (1,), (0,), (Quantisation(1, 0, 0, 0),)),),
            (),
        ),
    )
    samples = random.integers(0, 256, (8, inputs)).astype(np.uint8)
    return replace(made, self_tests=make_self_tests(made, [samples]))


def sensor_model(seed: int = 9, samples: int = 4) -> Model:
    """Says which of its `samples` readings is the highest (the first of equals)."""
    made = Model(
        (Tensor(ElementType.UINT8, samples, 0),),
        (Tensor(ElementType.UINT8, 1, samples),),
        (ArgMax(0, samples, ElementType.UINT8, samples),),
        b"",
        Description(
            "highest",
            (TensorDescription("readings", (samples,), (0,), (Quantisation(1, -8, 0, 0),)),),
            (TensorDescription("which", (1,), (0,), (Quantisation(1, 0, 0, 0),)),),
            (),
        ),
    )
    inputs = np.random.default_rng(seed).integers(0, 256, (8, samples)).astype(np.uint8)
    return replace(made, self_tests=make_self_tests(made, [inputs]))


def with_wrong_test(model: Model) -> bytes:
    """A container whose third self-test expects another output."""
    size = model.input_bytes + model.output_bytes
    tests = bytearray(model.self_tests)
    tests[3 * size - 1] ^= 1
    return encode_model(replace(model, self_tests=bytes(tests)))


def reference(container: bytes, name: str = "digits-tiny") -> ModelReference:
    """What orders and offers call a container."""
    sha256 = hashlib.sha256(container).digest()
    return ModelReference(name, 1, sha256, len(container), ModelFormat.TINY)


def random_input(model: Model, seed: int) -> Array:
    """One input for the model's only input tensor."""
    tensor = model.inputs[0]
    made: Array = np.random.default_rng(seed).integers(0, 256, tensor.count).astype(np.uint8)
    return made
