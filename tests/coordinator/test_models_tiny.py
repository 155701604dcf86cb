"""A look into tiny files before they enter the catalogue."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from conversion_graphs import Drawn, samples

from maille_coordinator.models import Inspection, InspectionError, inspect_model
from maille_coordinator.models.conversion import choose_samples, convert, read_graph
from maille_protocol import ModelFormat
from maille_protocol.signature import TensorSpec
from maille_protocol.tiny import Model, encode_model


def inspect(path: Path, data: bytes) -> Inspection:
    path.write_bytes(data)
    return asyncio.run(inspect_model(path))


def converted() -> Model:
    drawn = Drawn()
    drawn.conv("x", "c", 4, 3, 3, 3)
    drawn.node("GlobalAveragePool", ["c"], "g")
    drawn.node("Flatten", ["g"], "f")
    drawn.dense("f", "y", 4, 2)
    graph = read_graph(drawn.finish({"x": [3, 6, 6]}, ["y"]))
    return convert(graph, choose_samples({"x": samples((3, 6, 6))}, graph), name="small").model


def test_a_converted_model_takes_and_gives_integers_with_channels_last(tmp_path: Path) -> None:
    model = converted()
    found = inspect(tmp_path / "model", encode_model(model))
    assert found.format is ModelFormat.TINY
    assert found.inputs == (TensorSpec("x", "uint8", (6, 6, 3)),)
    assert found.outputs == (TensorSpec("y", "uint8", (2,)),)
    assert not found.batchable
    assert found.metadata["name"] == "small"
    assert found.metadata["arena_bytes"] == str(model.arena_bytes)


def test_files_that_a_board_would_refuse_are_refused_first(tmp_path: Path) -> None:
    model = converted()
    data = encode_model(model)
    tests = bytearray(model.self_tests)
    tests[-1] ^= 1
    wrong = encode_model(replace(model, self_tests=bytes(tests)))
    cases = (
        (wrong, "self_test", "gives other bytes than its test 7"),
        (data[:-9], "invalid", "cannot be used"),
        (data.replace(b"tiny\x01", b"tiny\x02", 1), "invalid", "version 2, this reader knows 1"),
    )
    for damaged, code, text in cases:
        with pytest.raises(InspectionError, match=text) as caught:
            inspect(tmp_path / "model", damaged)
        assert caught.value.code == code
