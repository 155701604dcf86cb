"""Tiny models on a PC node: the same bytes as everywhere, broken ones refused."""

import asyncio
import hashlib
from pathlib import Path

import numpy as np
import pytest
from test_runtime import load, no_references, outputs, run, text

from maille_node.errors import TaskProblem
from maille_node.runtime import Runtime
from maille_protocol import ErrorCode, ModelFormat, ModelReference
from maille_protocol.tiny import decode_model
from maille_protocol.tiny import run as reference_run
from maille_simulator.boards.sample_models import dense_model, switch_model


def test_it_gives_the_reference_s_bytes(tmp_path: Path) -> None:
    data = dense_model(64, 10)
    model = load(data, tmp_path)
    pixels = np.random.default_rng(1).integers(0, 256, (20, 64), np.uint8)
    ends = run(model, *[{"x": row} for row in pixels])
    wanted = [reference_run(decode_model(data), [row])[0].tolist() for row in pixels]
    assert [outputs(end)["class"].tolist() for end in ends] == wanted
    assert len({tuple(found) for found in wanted}) > 1
    assert not model.joinable


@pytest.mark.parametrize(
    ("array", "code"),
    [
        (np.zeros(3, np.uint8), ErrorCode.INPUT_SHAPE),
        (np.zeros((1, 1), np.uint8), ErrorCode.INPUT_SHAPE),
        (np.zeros(1, np.float32), ErrorCode.INPUT_TYPE),
    ],
)
def test_inputs_that_do_not_fit(
    array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]", code: ErrorCode, tmp_path: Path
) -> None:
    (end,) = run(load(switch_model(), tmp_path), {"x": array})
    assert end.code is code
    assert "'x'" in text(end)


def test_what_is_no_tiny_model_any_more_is_refused(tmp_path: Path) -> None:
    data = bytearray(dense_model(64, 10))
    with pytest.raises(TaskProblem) as cut:
        load(bytes(data[:-1]), tmp_path)
    assert cut.value.code is ErrorCode.MODEL_INVALID
    # Another weight: the container is sound, its own tests say that it is not what it was.
    place = bytes(data).index(decode_model(bytes(data)).layers[0].weights)  # type: ignore[union-attr]
    for index in range(640):
        data[place + index] = 255 - data[place + index] or 1
    with pytest.raises(TaskProblem) as changed:
        load(bytes(data), tmp_path)
    assert changed.value.code is ErrorCode.SELF_TEST_FAILED


def test_the_pool_runs_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        runtime = Runtime(
            workers=1,
            threads=1,
            memory_limit_bytes=1 << 28,
            read_reference=no_references,
            on_forgotten=lambda _sha256: None,
        )
        data = switch_model()
        path = tmp_path / "switch"
        path.write_bytes(data)
        digest = hashlib.sha256(data).digest()
        reference = ModelReference("switch", 1, digest, len(data), ModelFormat.TINY)
        loaded = await runtime.load(reference, path)
        (end,) = run(loaded, {"x": np.array([200], np.uint8)})
        assert outputs(end)["class"].tolist() == [1]
        runtime.close()

    asyncio.run(scenario())
