"""The container: one encoding, strict reader, nothing but WireError from hostile bytes."""

import contextlib
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_layers import random_case, random_cases

from maille_protocol import WireError
from maille_protocol.tiny import LayerKind, decode_model, encode_model, run, self_test
from maille_protocol.tiny.codes import MAX_DOCUMENT_BYTES


def test_random_models_survive_encoding_and_pass_their_self_tests() -> None:
    for model, inputs in random_cases(seed=3, count=400):
        data = encode_model(model)
        assert decode_model(data) == model
        assert self_test(model) is None
        (output,) = run(model, inputs)
        assert output.dtype == model.outputs[0].element_type.dtype
        assert output.shape == (model.outputs[0].count,)


def test_the_same_seed_draws_the_same_case_alone() -> None:
    cases = list(random_cases(seed=5, count=len(LayerKind)))
    for index, kind in enumerate(LayerKind):
        model, inputs = random_case(5, index, kind)
        assert model == cases[index][0]
        assert all(np.array_equal(*pair) for pair in zip(inputs, cases[index][1], strict=True))


@pytest.mark.parametrize("kind", LayerKind)
def test_a_container_cut_short_or_longer_is_refused(kind: LayerKind) -> None:
    data = encode_model(random_case(11, 0, kind)[0])
    step = max(1, len(data) // 200)
    for size in range(0, len(data), step):
        with pytest.raises(WireError):
            decode_model(data[:size])
    with pytest.raises(WireError):
        decode_model(data + b"\0")


@pytest.mark.parametrize("kind", LayerKind)
def test_damage_is_refused_or_makes_another_valid_model(kind: LayerKind) -> None:
    """Whatever still decodes has one encoding and can be run: run is total on checked models."""
    chance = random.Random(int(kind))
    model, inputs = random_case(12, 0, kind)
    data = encode_model(model)
    for _ in range(600):
        damaged = bytearray(data)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(min(len(data), 120))] = chance.randrange(256)
        try:
            other = decode_model(bytes(damaged))
        except WireError:
            continue
        assert encode_model(other) == bytes(damaged)
        if [(t.element_type, t.count) for t in other.inputs] == [
            (t.element_type, t.count) for t in model.inputs
        ]:
            run(other, inputs)


@given(st.binary(max_size=400))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(WireError):
        decode_model(noise)
    with pytest.raises(WireError):
        decode_model(b"\x8dd" + b"tiny\x01" + noise)


def test_a_container_above_the_limit_is_refused_unread() -> None:
    data = encode_model(random_case(1, 0, LayerKind.DENSE)[0])
    with pytest.raises(WireError, match="are allowed"):
        decode_model(data + bytes(MAX_DOCUMENT_BYTES))


@pytest.mark.parametrize("kind", LayerKind)
def test_damage_anywhere_never_raises_anything_else(kind: LayerKind) -> None:
    chance = random.Random(100 + int(kind))
    model, _ = random_case(13, 0, kind)
    data = encode_model(model)
    for _ in range(400):
        damaged = bytearray(data)
        start = chance.randrange(len(data))
        match chance.randrange(3):
            case 0:
                damaged[start] ^= 1 << chance.randrange(8)
            case 1:
                del damaged[start : start + chance.randint(1, 9)]
            case _:
                damaged[start:start] = chance.randbytes(chance.randint(1, 9))
        with contextlib.suppress(WireError):
            assert encode_model(decode_model(bytes(damaged))) == bytes(damaged)
