"""Measures every peer, one after the other, each in its own process and network.

    python -m bench.peers --model digits.onnx --json peers.json --only ray_actor,celery_redis

Each peer is measured several times, in rounds over all peers, so that a busy minute of the
machine does not fall on one peer alone; the medians are printed and written.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers.isolation import isolated
from bench.peers.measure import EXIT_MISSING, Plan, add_arguments, plan_from, require

# name: (module, way, whether it listens on every interface)
_PEERS = {
    "ray_actor": ("ray_actor", "bytes", True),
    "ray_actor_numpy": ("ray_actor", "numpy", True),
    "ray_serve": ("ray_serve", "handle", True),
    "ray_serve_http": ("ray_serve", "http", True),
    "celery_redis": ("celery_redis", "prefork", False),
    "dask_distributed": ("dask_distributed", "futures", False),
    "dask_actor": ("dask_distributed", "actors", False),
}
_REPOSITORY = Path(__file__).resolve().parents[2]
_LATENCIES = ("p50", "p99", "mean")
_STOP_TIMEOUT_S = 15


@dataclass(frozen=True, slots=True)
class Outcome:
    """One measurement of one peer: its JSON object, or why there is none."""

    result: dict[str, Any] | None
    reason: str = ""


def run_peer(name: str, plan: Plan, timeout_s: float, *, open_ports: bool) -> Outcome:
    """Measures one peer once."""
    module, way, listens_everywhere = _PEERS[name]
    command = [sys.executable, "-m", f"bench.peers.{module}", "--way", way]
    command += ["--model", str(plan.model), "--warm-up", str(plan.warm_up_calls)]
    command += ["--calls", str(plan.latency_calls), "--tasks", str(plan.tasks)]
    command += ["--cores", str(plan.cores)]
    private = isolated(command)
    if private is None and listens_everywhere and not open_ports:
        return Outcome(
            None,
            "it listens on every interface and this machine makes no private network "
            "(unshare --net); run it with --open-ports on a network you trust",
        )
    with (
        tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as folder,
        subprocess.Popen(
            private or command,
            cwd=_REPOSITORY,
            env={**os.environ, "TMPDIR": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            output, errors = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            _end(process)
            return Outcome(None, f"not finished after {timeout_s:.0f} s; say --timeout or --tasks")
        except BaseException:
            _end(process)
            raise
    lines = output.strip().splitlines()
    if process.returncode == EXIT_MISSING and lines:
        return Outcome(None, json.loads(lines[-1])["missing"])
    if process.returncode != 0 or not lines:
        return Outcome(None, f"exit status {process.returncode}\n{errors.strip()[-1500:]}")
    return Outcome(json.loads(lines[-1]))


def medians(results: list[dict[str, Any]]) -> dict[str, Any]:
    """One object of the same form as each result, with the median of every figure."""

    def median(values: list[float]) -> float:
        return round(statistics.median(values), 4)

    return {
        **results[-1],
        "latency_ms": {k: median([r["latency_ms"][k] for r in results]) for k in _LATENCIES},
        "tasks_per_s": median([r["tasks_per_s"] for r in results]),
        "in_flight": [r["in_flight"] for r in results],
        "tasks_per_s_by_in_flight": {
            in_flight: median([r["tasks_per_s_by_in_flight"][in_flight] for r in results])
            for in_flight in results[-1]["tasks_per_s_by_in_flight"]
        },
        "answers_checked": sum(r["answers_checked"] for r in results),
        "correct": all(r["correct"] for r in results),
        "repeats": [
            {"latency_ms": r["latency_ms"], "tasks_per_s": r["tasks_per_s"]} for r in results
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers", description="Measure the peers that Maille is compared with."
    )
    add_arguments(parser)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--only", help=f"a comma-separated choice of {', '.join(_PEERS)}")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each peer (3)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds a measurement (600)")
    parser.add_argument(
        "--open-ports", action="store_true", help="run Ray even where its ports are reachable"
    )
    arguments = parser.parse_args()
    plan = plan_from(arguments)
    names = arguments.only.split(",") if arguments.only else list(_PEERS)
    if unknown := [name for name in names if name not in _PEERS]:
        parser.error(f"unknown peer {', '.join(unknown)}; known are {', '.join(_PEERS)}")
    if arguments.repeats < 1:
        parser.error("--repeats must be at least 1")
    console = require("rich.console", "rich").Console(stderr=True)

    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    failures: dict[str, str] = {}
    for repeat in range(1, arguments.repeats + 1):
        for name in [name for name in names if name not in failures]:
            with console.status(f"{name}, {repeat} of {arguments.repeats}"):
                outcome = run_peer(name, plan, arguments.timeout, open_ports=arguments.open_ports)
            if outcome.result is None:
                failures[name] = outcome.reason
            else:
                results[name].append(outcome.result)
    report = {
        "machine": {"cores": plan.cores, "platform": platform.platform()},
        "repeats": arguments.repeats,
        "peers": [medians(results[name]) for name in names if results[name]],
        "failures": failures,
    }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    _print(report)
    wrong = [peer["peer"] for peer in report["peers"] if not peer["correct"]]
    if wrong or failures:
        sys.exit(1)


def _print(report: dict[str, Any]) -> None:
    table = require("rich.table", "rich").Table(
        title=f"{report['machine']['cores']} cores, medians of {report['repeats']}"
    )
    for heading in (
        "peer",
        "version",
        "p50 ms",
        "p99 ms",
        "mean ms",
        "tasks/s",
        "answers",
    ):
        table.add_column(heading, justify="left" if heading == "peer" else "right", no_wrap=True)
    for peer in report["peers"]:
        table.add_row(
            peer["peer"],
            peer["version"],
            *(f"{peer['latency_ms'][key]:.2f}" for key in _LATENCIES),
            f"{peer['tasks_per_s']:,.0f}",
            "right" if peer["correct"] else "WRONG",
        )
    console = require("rich.console", "rich").Console()
    console.print(table)
    for name, reason in report["failures"].items():
        console.print(f"{name}: {reason}", markup=False, highlight=False)


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a peer and what it started: first asked, then made."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=_STOP_TIMEOUT_S)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


if __name__ == "__main__":
    main()
