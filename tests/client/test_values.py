"""Inputs: what is converted, what is refused, how arrays are cut."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maille import InputError
from maille.values import adopt, count, cut, encode, is_whole, prepare
from maille_protocol import ErrorCode
from maille_protocol.signature import TensorSpec
from maille_protocol.tensors import Array, decode_tensors


def spec(dtype: str, *shape: int | str | None, name: str = "x") -> list[TensorSpec]:
    return [TensorSpec(name, dtype, shape)]


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("float32", 1.5),
        ("float32", 3),
        ("float32", 0.1),
        ("float16", [1, 2]),
        ("int64", 5),
        ("int8", [-128, 127]),
        ("uint8", [[0, 255]]),
        ("bool", [True, False]),
        ("str", "text"),
        ("str", ["a", "b"]),
        ("float32", []),
    ],
)
def test_python_values_get_the_models_type(dtype: str, value: object) -> None:
    shape = np.asarray(value).shape
    array = prepare(value, spec(dtype, *shape), "m")["x"]
    assert array.shape == shape
    assert dtype == "str" or array.dtype == np.dtype(dtype)
    assert np.array_equal(array, np.asarray(value, dtype=object if dtype == "str" else dtype))


@pytest.mark.parametrize(
    ("dtype", "value", "told"),
    [
        ("int64", 1.0, "floats"),
        ("int8", 128, "does not fit exactly"),
        ("uint8", -1, "does not fit exactly"),
        ("float32", 2**24 + 1, "does not fit exactly"),
        ("float16", 1e6, "too large"),
        ("bool", 1, "integers"),
        ("float32", True, "true/false"),
        ("float32", "1.0", "texts"),
        ("str", 1, "quotation marks"),
        ("float32", [[1, 2], [3]], "same length"),
        ("float32", {1, 2}, "no numbers or texts"),
    ],
)
def test_conversions_that_change_values_are_refused(dtype: str, value: object, told: str) -> None:
    with pytest.raises(InputError, match=told):
        prepare({"x": value}, spec(dtype), "m")


@pytest.mark.parametrize("given_type", ["float64", "int32", "float16"])
def test_arrays_are_never_cast(given_type: str) -> None:
    with pytest.raises(InputError, match=f"{given_type}, the model takes float32") as caught:
        prepare(np.ones(2, given_type), spec("float32", 2), "m")
    assert caught.value.code == ErrorCode.INPUT_TYPE


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5))
def test_integers_become_floats_only_where_nothing_is_lost(values: list[int]) -> None:
    exact = all(int(float(np.float64(value))) == value for value in values)
    try:
        array = prepare(values, spec("float64", None), "m")["x"]
    except InputError:
        assert not exact
    else:
        assert exact
        assert [int(float(item)) for item in array] == values


def test_what_has_an_array_inside_counts_as_one() -> None:
    class Tensor:
        def __array__(self, dtype: object = None, copy: object = None) -> Array:
            return np.ones((1, 2), np.float32)

    assert prepare(Tensor(), spec("float32", None, 2), "m")["x"].shape == (1, 2)
    assert is_whole(Tensor())


def test_too_large_is_refused_before_it_is_encoded() -> None:
    arrays = {"x": np.zeros(1000, np.float64)}
    assert decode_tensors(encode(arrays, 8000))["x"].shape == (1000,)
    with pytest.raises(InputError, match="8,000 bytes, this mesh takes 7,999"):
        encode(arrays, 7999)
    with pytest.raises(InputError, match="complex128"):
        encode({"x": np.zeros(1, np.complex128)}, 100)


def test_cut_keeps_the_axis_and_every_row() -> None:
    array = np.arange(10).reshape(5, 2)
    pieces: Iterable[object] = cut(array, 2, spec("int64", None, 2), "m")
    found = [piece["x"] for piece in pieces if isinstance(piece, dict)]
    assert [len(piece) for piece in found] == [2, 2, 1]
    assert np.array_equal(np.concatenate(found), array)
    assert count(array, 2) == 3
    assert count({"x": array}, 5) == 1
    assert count([1, 2, 3], 1) == 3
    assert count(iter([1]), 1) is None


def test_cut_refuses_different_lengths() -> None:
    specs = [TensorSpec("a", "int64", (None,)), TensorSpec("b", "int64", (None,))]
    with pytest.raises(InputError, match="'a' has 2, 'b' has 3"):
        list(cut({"a": np.zeros(2), "b": np.zeros(3)}, 1, specs, "m"))
    with pytest.raises(InputError, match="rows is 0"):
        list(cut(np.zeros(2), 0, specs[:1], "m"))


def test_numbers_from_text_are_adopted_where_exact() -> None:
    assert adopt(np.array([1, 2]), TensorSpec("x", "float32", (None,))).dtype == np.float32
    with pytest.raises(InputError):
        adopt(np.array([1.5]), TensorSpec("x", "int64", (None,)))
