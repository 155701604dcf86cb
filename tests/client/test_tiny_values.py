"""Real numbers to a tiny model's integers and back, as programs meet them."""

import numpy as np
import pytest

from maille.errors import InputError, MeshUnavailable
from maille.tiny_values import as_people_see_it, decode_tiny, dequantised, quantised
from maille.views import Model
from maille_protocol import ErrorCode
from maille_protocol.signature import TensorSpec
from maille_simulator.boards.sample_models import dense_model, switch_model

RAW = Model(
    "switch",
    1,
    (TensorSpec("x", "uint8", (1,)),),
    (TensorSpec("class", "uint8", (1,)),),
    "tiny",
    133,
    "00" * 32,
)
TINY = decode_tiny(RAW, switch_model())


def test_people_see_real_numbers_and_labels() -> None:
    seen = as_people_see_it(RAW, TINY)
    assert [str(spec) for spec in seen.inputs] == ["x: float32[1]"]
    assert [str(spec) for spec in seen.outputs] == ["class: str[1]"]
    numbers = as_people_see_it(RAW, decode_tiny(RAW, dense_model(64, 10)))
    assert [str(spec) for spec in numbers.inputs] == ["x: float32[64]"]
    assert [str(spec) for spec in numbers.outputs] == ["class: int64[1]"]


@pytest.mark.parametrize(
    "value",
    [
        [0.75],
        [[0.75]],
        0.75 * np.ones(1, np.float32),
        {"x": np.array([[0.75]])},
        {"x": [0.75]},
        np.array([192], np.uint8),
    ],
    ids=["list", "batch of one", "array", "by name", "list by name", "integers already"],
)
def test_inputs(value: object) -> None:
    seen = as_people_see_it(RAW, TINY)
    arrays = quantised(value, seen, TINY)
    assert arrays["x"].dtype == np.uint8
    assert arrays["x"].tolist() == [192]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ([0.1, 0.2], ErrorCode.INPUT_SHAPE),
        ({"y": [0.1]}, ErrorCode.INPUT_NAME),
        ({"x": [0.1], "y": [0.1]}, ErrorCode.INPUT_NAME),
        ([float("nan")], ErrorCode.INPUT_SHAPE),
        (["high"], ErrorCode.INPUT_SHAPE),
        ([[0.1], [0.2, 0.3]], ErrorCode.INPUT_SHAPE),
    ],
)
def test_inputs_that_do_not_fit(value: object, code: ErrorCode) -> None:
    with pytest.raises(InputError, match="Model 'switch'") as refused:
        quantised(value, as_people_see_it(RAW, TINY), TINY)
    assert refused.value.code is code


def test_outputs() -> None:
    assert dequantised({"class": np.array([1], np.uint8)}, TINY)["class"].tolist() == ["high"]
    for name, value in (("class", 9), ("other", 1)):
        with pytest.raises(MeshUnavailable, match="not the model's"):
            dequantised({name: np.array([value], np.uint8)}, TINY)


def test_a_container_of_another_version_is_named() -> None:
    data = bytearray(switch_model())
    data[6] = 9  # the version
    with pytest.raises(MeshUnavailable, match="update this one"):
        decode_tiny(RAW, bytes(data))
