"""A stage keeps about one copy of its weights in memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind
from tiny_gguf import TinyModel, write_tiny

from maille_coordinator.slices import read_model, write_slice

MIB = 1 << 20
# Session, thread, working memory of a step; the interpreter and the libraries come on top.
ALLOWED_BYTES = 36 * MIB

CHILD = """
import json, sys
from pathlib import Path
import numpy as np
import psutil
from maille_node.language.stage import Stage

resident = lambda: psutil.Process().memory_info().rss
before = resident()
stage = Stage.open(Path(sys.argv[1]))
cache = stage.new_cache(256)
for start in range(0, 256, 64):
    stage.run(cache, np.arange(start, start + 64), [63])
print(json.dumps([resident() - before, stage.info.cache_bytes(256)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pages are given back on Linux only")
@pytest.mark.parametrize("kind", [Kind.Q4_1, Kind.Q8_0, Kind.F32], ids=lambda kind: kind.name)
def test_a_stage_keeps_about_its_slice_and_its_cache(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_tiny(
        path,
        TinyModel(
            kind=kind, layers=4, hidden=1024, inner=2048, heads=16, vocabulary=8192, context=256
        ),
    )
    model = read_model(path)
    written = write_slice(model, 0, 3, tmp_path, with_embedding=True, with_head=True)

    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(written.path)],
        capture_output=True,
        text=True,
        check=True,
    )

    grown, cache_bytes = json.loads(done.stdout)
    assert grown < written.size_bytes + cache_bytes + ALLOWED_BYTES
