"""Maille and its peers in one run on one machine, round after round in turn; medians and ratios.

    python -m bench.compare --peers-python peers-venv/bin/python --json compare.json

Maille's interpreter is the one that runs this; the peers have an environment of their own.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

Figures = dict[str, float]
DEFAULT_PEERS = "ray_actor,ray_actor_numpy,ray_serve,ray_serve_http,celery_redis,dask_distributed"


def maille_round(broker: str) -> Figures:
    """One round of `maille bench tasks`."""
    command = [sys.executable, "-m", "maille.cli", "bench", "tasks"]
    options = ["--broker", broker, "--repeats", "1", "--json"]
    done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    return {name: found[name] for name in ("p50_ms", "p99_ms", "tasks_per_s", "bytes_per_task")}


def peers_round(python: str, only: str, folder: Path) -> dict[str, Figures]:
    """One round of every peer; a peer that could not be measured is left out."""
    out = folder / "peers.json"
    command = [python, "-m", "bench.peers", "--model", str(folder / "digits.onnx")]
    options = ["--json", str(out), "--repeats", "1", "--only", only]
    subprocess.run([*command, *options], check=False, stdout=subprocess.DEVNULL)
    return {
        peer["peer"]: {
            "p50_ms": peer["latency_ms"]["p50"],
            "p99_ms": peer["latency_ms"]["p99"],
            "tasks_per_s": peer["tasks_per_s"],
        }
        for peer in json.loads(out.read_text())["peers"]
    }


def median_of(rounds: list[Figures]) -> Figures:
    """The median of each figure."""
    return {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}


def main() -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--peers-python", required=True, help="interpreter of the peers")
    parser.add_argument("--only", default=DEFAULT_PEERS, help="peers, with commas between")
    parser.add_argument("--broker", default="mosquitto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the figures go")
    chosen = parser.parse_args()
    console = Console(stderr=True)
    rounds: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write = [sys.executable, "-m", "maille.cli", "bench", "model", str(folder / "digits.onnx")]
        subprocess.run(write, check=True, stdout=subprocess.DEVNULL)
        for number in range(chosen.rounds):
            rounds.setdefault("maille", []).append(maille_round(chosen.broker))
            for peer, found in peers_round(chosen.peers_python, chosen.only, folder).items():
                rounds.setdefault(peer, []).append(found)
            console.print(f"round {number + 1} of {chosen.rounds} done")
    medians = {name: median_of(found) for name, found in rounds.items()}
    own = medians["maille"]
    ratios = {
        name: {
            "p50": own["p50_ms"] / found["p50_ms"],
            "tasks_per_s": own["tasks_per_s"] / found["tasks_per_s"],
        }
        for name, found in medians.items()
        if name != "maille"
    }
    table = Table(title=f"tasks on {chosen.broker}, medians of {chosen.rounds} rounds in turn")
    for column in ("", "p50 ms", "p99 ms", "tasks/s", "Maille's p50 is", "Maille's tasks/s are"):
        table.add_column(column, justify="right" if column else "left")
    for name, found in medians.items():
        compared = ratios.get(name)
        table.add_row(
            name,
            f"{found['p50_ms']:.2f}",
            f"{found['p99_ms']:.2f}",
            f"{found['tasks_per_s']:,.0f}",
            f"{compared['p50']:.2f} x" if compared else "",
            f"{compared['tasks_per_s']:.2f} x" if compared else "",
        )
    Console().print(table)
    if chosen.json is not None:
        document = {"broker": chosen.broker, "medians": medians, "ratios": ratios, "rounds": rounds}
        chosen.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
