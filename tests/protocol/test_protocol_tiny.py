"""The reference passes every tiny vector."""

import subprocess
import sys

import numpy as np
import pytest
from wire_files import PROTOCOL, Vector, vectors

from maille_protocol import UsageError, WireError
from maille_protocol.tensors import Array
from maille_protocol.tiny import (
    LayerKind,
    Model,
    decode_model,
    encode_model,
    is_tiny,
    run,
    self_test,
)

GOOD = vectors("tiny", "good")
BAD = vectors("tiny", "bad")


def arrays(model: Model, data: bytes) -> list[Array]:
    found: list[Array] = []
    for tensor in model.inputs:
        found.append(np.frombuffer(data[: tensor.size_bytes], tensor.element_type.dtype))
        data = data[tensor.size_bytes :]
    return found


@pytest.mark.parametrize("vector", GOOD, ids=str)
def test_good_containers_run(vector: Vector) -> None:
    assert is_tiny(vector.data[:6])
    model = decode_model(vector.data)
    assert encode_model(model) == vector.data
    assert self_test(model) is None
    runs = vector.record["runs"]
    assert isinstance(runs, list)
    for record in runs:
        assert isinstance(record, dict)
        given, wanted = str(record["inputs"]), str(record["outputs"])
        outputs = run(model, arrays(model, bytes.fromhex(given)))
        assert b"".join(output.tobytes() for output in outputs).hex() == wanted


@pytest.mark.parametrize("vector", BAD, ids=str)
def test_bad_containers_are_refused(vector: Vector) -> None:
    with pytest.raises(WireError) as caught:
        decode_model(vector.data)
    assert 5 < len(str(caught.value)) < 200


def test_every_kind_has_good_vectors_and_there_are_as_many_bad_as_good() -> None:
    kinds = {layer.KIND for vector in GOOD for layer in decode_model(vector.data).layers}
    assert kinds == set(LayerKind)
    assert len(BAD) >= len(GOOD)
    assert sum(vector.flag("board") for vector in BAD) >= len(GOOD)
    assert sum(vector.text("origin") == "by hand" for vector in GOOD) >= 15


def test_another_processors_byte_order_is_not_taken_for_ours() -> None:
    model = decode_model(next(item for item in GOOD if item.name == "forest_three_trees").data)
    with pytest.raises(UsageError, match="int16"):
        run(model, [np.zeros(5, np.int32)])
    with pytest.raises(UsageError, match="5 elements"):
        run(model, [np.zeros(4, np.int16)])
    with pytest.raises(UsageError, match="takes 1"):
        run(model, [])


def test_the_constants_for_cpp_are_current() -> None:
    ran = subprocess.run(
        [sys.executable, str(PROTOCOL / "make_constants.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
