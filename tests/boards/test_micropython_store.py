"""A power cut at any write of a delivery leaves a whole model, and the transfer goes on."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from board_models import classifier
from interpreter import SCRIPTS, environment, last_words, run_on_board

from maille_protocol.tiny import encode_model
from maille_simulator.boards.interpreter import find_micropython

CHUNK_BYTES = 64


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    old, new = tmp_path / "old.tiny", tmp_path / "new.tiny"
    old.write_bytes(encode_model(classifier(1)))
    new.write_bytes(encode_model(classifier(2)))
    return old, new


def test_power_cut_at_every_block_that_littlefs_writes(models: tuple[Path, Path]) -> None:
    """The file system of real boards on a flash in memory: every cut, whole and half blocks."""
    lines = run_on_board("littlefs_cuts.py", *models, 64, 1)
    assert not [line for line in lines if line.startswith("FAULT")]
    words = last_words(lines)["cuts"].split()
    assert int(words[0]) >= 200
    assert int(words[2]) >= 200
    assert lines[-1].endswith("seen ['new', 'old']")


def _cut_and_come_back(directory: Path, start: Path, new: Path, cut: int) -> str:
    """Kill a delivery at one write, start again, go on; "" if the delivery was over before."""
    folder = directory / str(cut)
    shutil.copytree(start, folder)
    died = subprocess.run(
        [
            *(find_micropython(), str(SCRIPTS / "store_cuts.py"), "deliver"),
            *(str(folder), str(new), str(CHUNK_BYTES), str(cut)),
        ],
        capture_output=True,
        text=True,
        env=environment(),
    )
    if died.returncode == 0:
        return ""
    assert died.returncode == -9, died.stderr
    stored = int(last_words(died.stdout.splitlines())["stored"])
    lines = run_on_board("store_cuts.py", "resume", folder, new, CHUNK_BYTES)
    shutil.rmtree(folder)
    held = [line.split()[1] for line in lines if line.startswith("held")]
    # "another" is the old model, whole, after all its tests.
    assert held[0] in {"another", "new"}, (cut, lines)
    if held[0] == "another":
        assert int(last_words(lines)["offset"]) >= stored, (cut, lines)
    assert held[-1] == "new", (cut, lines)
    return held[0]


@pytest.mark.timeout(300)
def test_the_process_killed_at_every_write_of_a_delivery(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = models
    start = tmp_path / "start"
    run_on_board("store_cuts.py", "deliver", start, old, CHUNK_BYTES, 0)
    probe = tmp_path / "probe"
    shutil.copytree(start, probe)
    lines = run_on_board("store_cuts.py", "deliver", probe, new, CHUNK_BYTES, 0)
    writes = int(last_words(lines)["writes"])
    assert writes >= 200
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        held = list(
            pool.map(
                lambda cut: _cut_and_come_back(tmp_path, start, new, cut), range(1, writes + 1)
            )
        )
    assert "" not in held
    assert set(held) == {"another", "new"}
