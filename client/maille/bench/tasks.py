"""How fast tasks go through a mesh of this machine: one at a time, and as many as it takes."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import numpy as np

from maille.async_mesh import AsyncMesh
from maille.digits import Digits, load_digits
from maille.errors import MailleError
from maille.local_mesh import LocalMesh
from maille.mesh import Mesh

WARM_UP_CALLS = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    broker: str = "mosquitto"
    nodes: int = 1
    calls: int = 1000
    tasks: int = 20_000
    repeats: int = 3


@dataclass(frozen=True, slots=True)
class Round:
    """One repeat. Latency is from `Mesh.run` to its answer, one call in flight."""

    p50_ms: float
    p99_ms: float
    mean_ms: float
    tasks_per_s: float
    bytes_per_task: float
    """MQTT payload that the coordinator sent and received for one task of the throughput part."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Medians over the rounds, and the rounds."""

    plan: Plan
    p50_ms: float
    p99_ms: float
    mean_ms: float
    tasks_per_s: float
    bytes_per_task: float
    rounds: tuple[Round, ...]

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def measure_tasks(plan: Plan, say: Callable[[str], None]) -> Measurement:
    """Start a mesh, measure it, end it.

    Raises:
        MailleError: a part did not start, or an answer was not onnxruntime's own.
    """
    digits, _ = load_digits()
    rounds: list[Round] = []
    with tempfile.TemporaryDirectory(prefix="maille-bench-", ignore_cleanup_errors=True) as folder:
        asyncio.run(_measure(plan, digits, Path(folder), rounds, say))
    return Measurement(
        plan,
        statistics.median(found.p50_ms for found in rounds),
        statistics.median(found.p99_ms for found in rounds),
        statistics.median(found.mean_ms for found in rounds),
        statistics.median(found.tasks_per_s for found in rounds),
        statistics.median(found.bytes_per_task for found in rounds),
        tuple(rounds),
    )


async def _measure(
    plan: Plan, digits: Digits, folder: Path, rounds: list[Round], say: Callable[[str], None]
) -> None:
    nodes = [f"node-{number + 1}" for number in range(plan.nodes)]
    async with LocalMesh(folder, broker=plan.broker, nodes=nodes) as local:
        async with AsyncMesh(local.http_url) as mesh:
            file = folder / "digits.onnx"
            file.write_bytes(digits.onnx)
            await mesh.models.add(file, "digits")
            await local.wait_for_nodes(mesh)
        say(f"mesh up: {plan.broker}, {plan.nodes} node(s)")
        for number in range(plan.repeats):
            # In a thread: the synchronous API is what most programs use.
            found = await asyncio.to_thread(_round, plan, digits, local.http_url)
            rounds.append(found)
            say(
                f"round {number + 1}: p50 {found.p50_ms:.2f} ms, p99 {found.p99_ms:.2f} ms, "
                f"{found.tasks_per_s:,.0f} tasks/s, {found.bytes_per_task:.0f} bytes a task"
            )


def _round(plan: Plan, digits: Digits, http_url: str) -> Round:
    images = digits.images
    with Mesh(http_url) as mesh:
        for number in range(WARM_UP_CALLS):
            mesh.run("digits", images[number : number + 1])
        latencies_s: list[float] = []
        for number in range(plan.calls):
            row = number % len(images)
            begin_s = time.perf_counter()
            mesh.run("digits", images[row : row + 1])
            latencies_s.append(time.perf_counter() - begin_s)
        bytes_before = _payload_bytes(http_url)
        inputs = (images[n % len(images)][None, :] for n in range(plan.tasks))
        begin_s = time.perf_counter()
        labels = [int(out["label"][0]) for out in mesh.map("digits", inputs)]
        took_s = time.perf_counter() - begin_s
        sent_bytes = _payload_bytes(http_url) - bytes_before
    alone = digits.labels_alone()
    if not np.array_equal(labels, alone[np.arange(plan.tasks) % len(images)]):
        raise MailleError("The mesh's answers are not onnxruntime's own. Please report this.")
    cuts = statistics.quantiles(latencies_s, n=100)
    return Round(
        cuts[49] * 1000,
        cuts[98] * 1000,
        statistics.fmean(latencies_s) * 1000,
        plan.tasks / took_s,
        sent_bytes / plan.tasks,
    )


def _payload_bytes(http_url: str) -> float:
    """MQTT payload that the coordinator has sent and received."""
    wanted = ("maille_mqtt_sent_bytes_total ", "maille_mqtt_received_bytes_total ")
    text = httpx.get(f"{http_url}/metrics", trust_env=False).text
    return sum(float(line.split()[1]) for line in text.splitlines() if line.startswith(wanted))
