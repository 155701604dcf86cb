"""Cycles of the dense kernels, counted by the simulator, and their bytes against the format's rule."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from avr_support import FIRMWARE, array, build, finished, needs_avr, records, variable

from maille_node.firmware.targets import TARGETS
from maille_protocol.tiny import Requantisation, requantise
from maille_simulator.boards.avr import AvrBoard

pytestmark = needs_avr
LIMIT_CYCLES = 12


def _measured(folder: Path, inputs: int, outputs: int, board_name: str) -> dict[str, float]:
    """Cycles for each multiply-accumulate of a whole layer; checks every output."""
    rng = np.random.default_rng(inputs * 1000 + outputs)
    weights = rng.integers(-127, 128, (outputs, inputs))
    biases = rng.integers(-20_000, 20_000, outputs)
    multipliers = rng.integers(16_384, 32_769, outputs)
    shifts = rng.integers(4, 10, outputs)
    channels = records(biases, multipliers, shifts)
    stored = (weights + 128).astype(np.uint8).tobytes()
    head = f"#include <avr/pgmspace.h>\nconst uint16_t inputs = {inputs}, outputs = {outputs};\n"
    folder.mkdir()
    (folder / "data.h").write_text(head + array("weights", stored) + array("channels", channels))
    built = build(
        FIRMWARE / "kernel_cycles.cpp", TARGETS[board_name], folder / "out", include=(folder,)
    )
    x = (np.arange(inputs) * 37 + 11) & 255
    sums = (weights @ x + biases).astype(np.int64)
    expected = requantise(sums, Requantisation(3, 0, 255, channels)).tobytes()
    with AvrBoard(built.target, built.elf) as board:
        finished(board)
        cycles = [mark.cycle for mark in board.marks]
        assert len(cycles) == 4
        names = ("tuned", "plain", "wide")
        for name in names:
            assert variable(built, board, name, outputs) == expected, name
        spans = (b - a for a, b in itertools.pairwise(cycles))
        return {name: span / (inputs * outputs) for name, span in zip(names, spans, strict=True)}


@pytest.mark.parametrize("board_name", ["uno", "mega"])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 32), (128, 40)])
def test_cycles_of_a_whole_dense_layer(
    tmp_path: Path, inputs: int, outputs: int, board_name: str
) -> None:
    cycles = _measured(tmp_path / "layer", inputs, outputs, board_name)
    assert cycles["tuned"] <= LIMIT_CYCLES
    assert cycles["plain"] > 4 * cycles["tuned"]


@pytest.mark.parametrize(
    ("inputs", "outputs"), [(1, 1), (7, 3), (15, 33), (16, 1), (17, 64), (37, 70), (200, 25)]
)
def test_rows_of_any_length(tmp_path: Path, inputs: int, outputs: int) -> None:
    _measured(tmp_path / "layer", inputs, outputs, "uno")
