"""Real values to a tiny model's integers and back, as clients do it."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_files import vectors

from maille_protocol import UsageError
from maille_protocol.signature import TensorSpec, check_inputs
from maille_protocol.tensors import Array, decode_tensors, encode_tensors
from maille_protocol.tiny import (
    Description,
    Model,
    Quantisation,
    TensorDescription,
    decode_model,
    dequantise_outputs,
    encode_model,
    quantise_inputs,
    run,
    signature,
)

IDENTITY = Quantisation(1, 0, 0, 0)


def network(*quantisations: Quantisation) -> Model:
    """The vector "network" (8 x 8 elements in, index and 10 shares out), described as an image."""
    data = next(item for item in vectors("tiny", "good") if item.name == "network").data
    model = decode_model(data)
    image = TensorDescription("image", (2, 8, 4), (1, 2, 0), quantisations or (IDENTITY,))
    label = TensorDescription("label", (1,), (0,), (IDENTITY,), tuple("abcdefghij"))
    shares = TensorDescription("shares", (10,), (0,), (Quantisation(1, -8, -1, -1),))
    description = Description("network", (image,), (label, shares), ())
    return dataclasses.replace(model, description=description)


def test_the_signature_is_that_of_the_integers() -> None:
    assert signature(network()) == (
        (TensorSpec("image", "uint8", (8, 4, 2)),),
        (TensorSpec("label", "uint8", (1,)), TensorSpec("shares", "uint8", (10,))),
    )
    assert decode_model(encode_model(network())) == network()


def test_real_values_become_what_a_task_carries() -> None:
    # 0.5 a step from -3
    model = network(Quantisation(1, -1, -3, 0))
    image = np.arange(64, dtype=np.float32).reshape(2, 8, 4) / 4
    integers = quantise_inputs(model, {"image": image})
    assert check_inputs(signature(model)[0], integers) is None
    assert decode_tensors(encode_tensors(integers)).keys() == {"image"}
    # (0.25 + 3) / 0.5 = 6.5 to even
    assert integers["image"][0, 1, 0] == 6
    assert integers["image"][7, 3, 1] == round((63 / 4 + 3) / 0.5)
    assert np.array_equal(
        integers["image"], quantise_inputs(model, {"image": image[np.newaxis]})["image"]
    )
    assert quantise_inputs(model, {"image": image * 1e9})["image"].max() == 255
    assert quantise_inputs(model, {"image": image * -1e9})["image"].min() == 0


def test_integers_count_as_quantised_in_either_order() -> None:
    tiny = np.arange(64, dtype=np.uint8).reshape(8, 4, 2)
    model = network(Quantisation(1, -1, -3, 0))
    for given_array in (tiny, tiny[np.newaxis], tiny.transpose(2, 0, 1)):
        assert np.array_equal(quantise_inputs(model, {"image": given_array})["image"], tiny)


def test_each_element_may_have_steps_of_its_own() -> None:
    model = network(*[Quantisation(1 + index, 0, index, 0) for index in range(64)])
    image = np.full((2, 8, 4), 100.0)
    flat = quantise_inputs(model, {"image": image})["image"].ravel()
    wanted = [min(255, round((100 - index) / (1 + index))) for index in range(64)]
    assert flat.tolist() == wanted


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({}, "none, the model has 'image'"),
        ({"other": np.zeros((2, 8, 4))}, "'other'"),
        ({"image": np.zeros((8, 8))}, r"shape \[8, 8\], the model takes \[2, 8, 4\]"),
        ({"image": np.full((2, 8, 4), np.nan)}, "not a finite number"),
        ({"image": np.full((2, 8, 4), np.inf)}, "not a finite number"),
        ({"image": np.full((2, 8, 4), "x")}, "takes numbers"),
        ({"image": np.zeros((2, 8, 4), np.complex64)}, "takes numbers"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(arrays: dict[str, Array], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        quantise_inputs(network(), arrays)


def test_outputs_become_labels_and_real_values() -> None:
    model = network()
    outputs = run(model, [np.zeros((8, 4, 2), np.uint8)])
    named = {"label": outputs[0], "shares": outputs[1]}
    answer = dequantise_outputs(model, named)
    assert answer["label"].tolist() == ["abcdefghij"[outputs[0][0]]]
    assert answer["shares"].dtype == np.float32
    assert np.allclose(answer["shares"], outputs[1].astype(np.float64) / 256 - 0.5)
    with pytest.raises(UsageError, match="no label"):
        dequantise_outputs(model, {**named, "label": np.array([10], np.uint8)})
    with pytest.raises(UsageError, match="gives uint8"):
        dequantise_outputs(model, {**named, "label": np.array([1], np.int64)})
    with pytest.raises(UsageError, match="gives uint8"):
        dequantise_outputs(model, {**named, "shares": outputs[1][:9]})
    with pytest.raises(UsageError, match="outputs 'label'"):
        dequantise_outputs(model, {"label": outputs[0]})


@given(
    st.floats(-1e30, 1e30),
    st.integers(1, (1 << 31) - 1),
    st.integers(-127, 127),
    st.integers(-(1 << 31) + 1, (1 << 31) - 1),
    st.integers(-127, 127),
)
def test_any_real_value_becomes_an_integer(
    real: float, scale: int, scale_exponent: int, offset: int, offset_exponent: int
) -> None:
    model = network(Quantisation(scale, scale_exponent, offset, offset_exponent))
    integers = quantise_inputs(model, {"image": np.full((2, 8, 4), real)})["image"]
    assert integers.dtype == np.uint8
    steps = model.description.inputs[0].quantisations[0]
    if 0 < (real - steps.offset) / steps.scale < 255:
        near = steps.offset + steps.scale * int(integers[0, 0, 0])
        # Half a step, and what float64 itself cannot tell apart this far from 0.
        assert abs(near - real) <= steps.scale * 0.51 + 1e-12 * (abs(real) + abs(steps.offset))
