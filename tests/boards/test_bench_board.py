"""`maille bench board` runs; its figures are judged by people, not by tests."""

import json
import subprocess
import sys

import pytest


@pytest.mark.timeout(120)
def test_the_benchmark_of_boards_gives_all_figures() -> None:
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "maille.cli", "bench", "board"),
            *("--calls", "20", "--tasks", "200", "--repeats", "1", "--json"),
        ],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(ended.stdout)
    assert [kernel["kernel"] for kernel in figures["kernels"]] == [
        "dense",
        "convolution",
        "depthwise",
        "forest",
    ]
    assert all(kernel["viper"] > kernel["bytecode"] > 0 for kernel in figures["kernels"])
    assert figures["round_trip_p50_ms"] > figures["model_p50_ms"] > 0
    assert figures["tasks"] == 200
    assert 32 < figures["least_heap_kb"] <= 256
