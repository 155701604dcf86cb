"""Inputs are checked against what a model takes; the reason names cause and remedy."""

import numpy as np
import pytest

from maille_protocol import ErrorCode
from maille_protocol.signature import TensorSpec, batch_axis, check_inputs, dtype_name
from maille_protocol.tensors import Array

IMAGE = TensorSpec("X", "float32", ("batch", 64))
MASK = TensorSpec("mask", "bool", ("batch", None))
WORDS = TensorSpec("words", "str", (2,))
SCALAR = TensorSpec("k", "int64", ())


def image(rows: int = 1, dtype: str = "float32") -> Array:
    return np.zeros((rows, 64), dtype)


@pytest.mark.parametrize(
    ("specs", "tensors"),
    [
        ([], {}),
        ([IMAGE], {"X": image()}),
        ([IMAGE], {"X": image(1797)}),
        ([IMAGE], {"X": image(0)}),
        ([IMAGE, MASK], {"mask": np.ones((3, 5), np.bool_), "X": image(3)}),
        ([WORDS], {"words": np.array(["a", "b"])}),
        ([WORDS], {"words": np.array(["a", "b"], dtype=object)}),
        ([SCALAR], {"k": np.array(3)}),
        ([TensorSpec("X", "float32", ("n", "n"))], {"X": np.zeros((4, 4), np.float32)}),
        ([TensorSpec("X", "float32", (None, None))], {"X": np.zeros((4, 5), np.float32)}),
    ],
)
def test_fits(specs: list[TensorSpec], tensors: dict[str, Array]) -> None:
    assert check_inputs(specs, tensors) is None


@pytest.mark.parametrize(
    ("specs", "tensors", "code", "text"),
    [
        (
            [IMAGE],
            {},
            ErrorCode.INPUT_NAME,
            "input 'X' is missing. The model's inputs: X: float32[batch, 64]",
        ),
        ([IMAGE], {"x": image()}, ErrorCode.INPUT_NAME, "no input is called 'x'; input 'X' is"),
        (
            [IMAGE],
            {"X": image(), "Y": image()},
            ErrorCode.INPUT_NAME,
            "no input is called 'Y'. The model's inputs: X: float32[batch, 64]",
        ),
        ([], {"X": image()}, ErrorCode.INPUT_NAME, "The model's inputs: none"),
        (
            [IMAGE],
            {"X": image(dtype="float64")},
            ErrorCode.INPUT_TYPE,
            "input 'X' is float64, the model takes float32: convert it first",
        ),
        ([WORDS], {"words": np.zeros(2)}, ErrorCode.INPUT_TYPE, "is float64, the model takes str"),
        ([SCALAR], {"k": np.array("3")}, ErrorCode.INPUT_TYPE, "is str, the model takes int64"),
        (
            [IMAGE],
            {"X": np.zeros((1, 63), np.float32)},
            ErrorCode.INPUT_SHAPE,
            "input 'X' has shape [1, 63], the model takes [batch, 64]",
        ),
        ([IMAGE], {"X": np.zeros(64, np.float32)}, ErrorCode.INPUT_SHAPE, "has shape [64]"),
        ([SCALAR], {"k": np.zeros(1, np.int64)}, ErrorCode.INPUT_SHAPE, "the model takes []"),
        (
            [IMAGE, MASK],
            {"X": image(3), "mask": np.ones((2, 5), np.bool_)},
            ErrorCode.INPUT_SHAPE,
            "input 'mask' has shape [2, 5], the model takes [batch, ?]",
        ),
        (
            [TensorSpec("X", "float32", ("n", "n"))],
            {"X": np.zeros((4, 5), np.float32)},
            ErrorCode.INPUT_SHAPE,
            "has shape [4, 5], the model takes [n, n]",
        ),
    ],
)
def test_does_not_fit(
    specs: list[TensorSpec], tensors: dict[str, Array], code: ErrorCode, text: str
) -> None:
    mismatch = check_inputs(specs, tensors)
    assert mismatch is not None
    assert mismatch.code is code
    assert text in mismatch.text
    assert not code.retryable


@pytest.mark.parametrize(
    ("inputs", "outputs", "joinable"),
    [
        ([IMAGE], [TensorSpec("label", "int64", ("batch",))], True),
        ([IMAGE], [TensorSpec("p", "float32", (None, None))], True),
        ([IMAGE], [TensorSpec("label", "int64", (1,))], False),
        ([IMAGE], [TensorSpec("label", "int64", ())], False),
        ([IMAGE], [], False),
        ([], [IMAGE], False),
        ([TensorSpec("X", "float32", (1, 64))], [IMAGE], False),
        ([IMAGE, MASK], [IMAGE], False),
        ([SCALAR], [IMAGE], False),
    ],
)
def test_batch_axis(inputs: list[TensorSpec], outputs: list[TensorSpec], joinable: bool) -> None:
    assert batch_axis(inputs, outputs) is joinable


def test_names_of_types() -> None:
    assert dtype_name(np.zeros(1, ">f4")) == "float32"
    assert dtype_name(np.array(["a"])) == dtype_name(np.array(["a"], dtype=object)) == "str"
    assert dtype_name(np.zeros(1, np.bool_)) == "bool"
