"""How fast language models are on a mesh of this machine, as a client of its HTTP API sees it.

Prefill is the time from asking to the first token, decoding goes from the first token to the last;
so all of HTTP, coordinator, journal and broker are in it.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from maille.async_mesh import AsyncMesh
from maille.bench.memory import StageMemory, stages_memory
from maille.bench.streams import common_rate, long_answer, random_tokens, read, steady_rate
from maille.bench.wire import listening
from maille.errors import MailleError
from maille.local_mesh import LocalMesh

__all__ = ["LanguagePlan", "LanguageReport", "LanguageRound", "measure_language"]

READY_TIMEOUT_S = 120.0
MODEL = "bench"
MESH = "local"
_FIRST_ANSWER = 8
_SETTLE_TIMEOUT_S = 60.0
_LOOK_S = 0.5
_QUIET_LOOKS = 6
_QUIET_SHARE = 0.1
_BESIDE = 3
"""Prompts that arrive, one after the other, while another session decodes."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LanguagePlan:
    """What to measure."""

    model: Path
    broker: str = "mosquitto"
    nodes: int = 3
    sessions: int = 4
    prefill: int = 512
    decode: int = 128
    repeats: int = 3
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Decoding:
    """Gaps between the tokens of a session that decodes, without and with another's prefill."""

    undisturbed_median_ms: float
    undisturbed_p95_ms: float
    undisturbed_max_ms: float
    beside_p95_ms: float
    beside_max_ms: float

    @property
    def held_up_ms(self) -> float:
        """By how much the longest gap beside a prefill exceeds the usual one."""
        return self.beside_max_ms - self.undisturbed_median_ms


@dataclass(frozen=True, slots=True)
class LanguageRound:
    """One repeat; rates in tokens a second."""

    one_node_decode: float
    one_node_prefill: float
    nodes_decode: float
    nodes_prefill: float
    sessions_decode: float
    """Of all sessions together."""
    one_node: Decoding
    nodes: Decoding


@dataclass(frozen=True, slots=True)
class LanguageReport:
    """Medians over the rounds, the rounds, and what does not change from round to round."""

    plan: LanguagePlan
    one_node_decode: float
    one_node_prefill: float
    nodes_decode: float
    nodes_prefill: float
    sessions_decode: float
    sessions_gain: float
    """All sessions' tokens a second over one session's, median over the rounds."""
    one_node_held_up_ms: float
    nodes_held_up_ms: float
    """The most of all rounds."""
    hidden_size: int
    hop_overhead_bytes: int
    """The most that stood around one position's hidden values, over all hops."""
    memory: tuple[StageMemory, ...]
    rounds: tuple[LanguageRound, ...]

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        found = asdict(self)
        found["plan"]["model"] = self.plan.model.name
        for line, stage in zip(found["memory"], self.memory, strict=True):
            line["beside_bytes"] = stage.beside_bytes
        return found


@dataclass(frozen=True, slots=True)
class _Mesh:
    """A mesh that has the model."""

    parts: LocalMesh
    api: AsyncMesh


def measure_language(plan: LanguagePlan, say: Say) -> LanguageReport:
    """Start a mesh of one node, then one of several, and measure both.

    Raises:
        MailleError: a part did not start, or the model cannot be run.
    """
    return asyncio.run(_measure(plan, say))


async def _measure(plan: LanguagePlan, say: Say) -> LanguageReport:
    single: list[tuple[float, float, Decoding]] = []
    several: list[tuple[float, float, float, Decoding]] = []
    with tempfile.TemporaryDirectory(prefix="maille-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        async with (
            LocalMesh(folder / "one", broker=plan.broker, nodes=["node-1"]) as parts,
            AsyncMesh(parts.http_url) as api,
        ):
            mesh = _Mesh(parts, api)
            memory = await _bring(mesh, plan, 1, say)
            for number in range(plan.repeats):
                decode, prefill = await _speed(mesh, plan, number)
                beside = await _beside(mesh, plan, number)
                single.append((decode, prefill, beside))
                say(
                    f"one node, round {number + 1}: decode {decode:.1f}, prefill {prefill:.0f} "
                    f"tokens/s; a prefill holds decoding up by {beside.held_up_ms:.0f} ms"
                )
        nodes = [f"node-{number + 1}" for number in range(plan.nodes)]
        async with (
            LocalMesh(
                folder / "several",
                broker=plan.broker,
                nodes=nodes,
                coordinator_options=("--spread", str(plan.nodes)),
            ) as parts,
            AsyncMesh(parts.http_url) as api,
        ):
            mesh = _Mesh(parts, api)
            memory += await _bring(mesh, plan, plan.nodes, say)
            for number in range(plan.repeats):
                decode, prefill = await _speed(mesh, plan, number)
                answers = await long_answer(
                    api, MODEL, plan.seed + 2000 + number, plan.decode, sessions=plan.sessions
                )
                together = common_rate(answers)
                beside = await _beside(mesh, plan, number)
                several.append((decode, prefill, together, beside))
                say(
                    f"{plan.nodes} nodes, round {number + 1}: decode {decode:.1f}, prefill "
                    f"{prefill:.0f} tokens/s; {plan.sessions} sessions together {together:.1f}; "
                    f"a prefill holds decoding up by {beside.held_up_ms:.0f} ms"
                )
            async with listening(parts.broker_url, MESH, nodes) as hops:
                await long_answer(api, MODEL, plan.seed + 4000, plan.decode)
    rounds = tuple(
        LanguageRound(one[0], one[1], many[0], many[1], many[2], one[2], many[3])
        for one, many in zip(single, several, strict=True)
    )
    return LanguageReport(
        plan,
        statistics.median(found.one_node_decode for found in rounds),
        statistics.median(found.one_node_prefill for found in rounds),
        statistics.median(found.nodes_decode for found in rounds),
        statistics.median(found.nodes_prefill for found in rounds),
        statistics.median(found.sessions_decode for found in rounds),
        statistics.median(found.sessions_decode / found.nodes_decode for found in rounds),
        max(found.one_node.held_up_ms for found in rounds),
        max(found.nodes.held_up_ms for found in rounds),
        hops.hidden_size,
        hops.most_overhead_bytes,
        tuple(memory),
        rounds,
    )


async def _bring(mesh: _Mesh, plan: LanguagePlan, stages: int, say: Say) -> list[StageMemory]:
    """Add the model, wait until so many nodes hold it, and let it run once.

    Returns:
        What each stage takes after that one answer, whose keys and values it may still hold.
    """
    await mesh.parts.wait_for_nodes(mesh.api)
    await mesh.api.models.add(plan.model, MODEL)
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while True:
                model = await mesh.api.language_model(MODEL)
                if model.state == "ready" and len(model.stages) == stages:
                    break
                if model.state in {"impossible", "broken"}:
                    raise MailleError(f"{plan.model.name} cannot be run: {model.state_text}")
                await asyncio.sleep(0.1)
    except TimeoutError as error:
        raise MailleError(
            f"{plan.model.name} is not ready after {READY_TIMEOUT_S:g} s: {model.state} "
            f"{model.state_text}"
        ) from error
    where = ", ".join(f"{s.node} {s.first_layer}-{s.last_layer}" for s in model.stages)
    say(f"mesh up: {plan.broker}, layers on {where}")
    await read(mesh.api, MODEL, random_tokens(plan.seed, plan.prefill), _FIRST_ANSWER)
    await _settle(mesh.parts)
    positions = plan.prefill + _FIRST_ANSWER
    return await asyncio.to_thread(stages_memory, mesh.parts, model.stages, plan.model, positions)


async def _settle(parts: LocalMesh) -> None:
    """Wait until the nodes have fetched and measured what they may need later."""
    processes = [psutil.Process(parts.pid(node)) for node in parts.nodes]
    deadline_s = time.monotonic() + _SETTLE_TIMEOUT_S
    quiet = 0
    while quiet < _QUIET_LOOKS and time.monotonic() < deadline_s:
        before_s = sum(_cpu_s(process) for process in processes)
        await asyncio.sleep(_LOOK_S)
        used_s = sum(_cpu_s(process) for process in processes) - before_s
        quiet = quiet + 1 if used_s < _QUIET_SHARE * _LOOK_S else 0


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _speed(mesh: _Mesh, plan: LanguagePlan, number: int) -> tuple[float, float]:
    """Tokens a second of decoding and of prefill, each by itself."""
    prompt = random_tokens(plan.seed + 1000 + number, plan.prefill)
    prefill = await read(mesh.api, MODEL, prompt, 1)
    if not prefill.arrivals:
        # Its one token was the end, or half of a character.
        prefill = await read(mesh.api, MODEL, random_tokens(number, plan.prefill), 4)
    (answer,) = await long_answer(mesh.api, MODEL, plan.seed + number, plan.decode)
    return steady_rate(answer), plan.prefill / (prefill.first_s - prefill.asked_s)


async def _beside(mesh: _Mesh, plan: LanguagePlan, number: int) -> Decoding:
    """What prompts of other sessions do to one that decodes."""
    (alone,) = await long_answer(mesh.api, MODEL, plan.seed + 3000 + number, plan.decode)
    usual = alone.gaps_ms()
    # The same prompt again, and as many tokens more as go by during the others' prompts.
    gaps: list[float] = []
    for turn in range(_BESIDE):
        decoding = asyncio.create_task(
            long_answer(mesh.api, MODEL, plan.seed + 3000 + number, plan.decode)
        )
        await asyncio.sleep(0.25 * plan.decode * statistics.median(usual) / 1000)
        prompt = random_tokens(plan.seed + 5000 + _BESIDE * number + turn, plan.prefill)
        other = await read(mesh.api, MODEL, prompt, 4)
        (answer,) = await decoding
        stop_s = other.first_s if other.arrivals else other.asked_s
        gaps += answer.gaps_ms(other.asked_s, stop_s)
    if not gaps:
        raise MailleError("No token came beside a prefill; ask for more with --decode.")
    return Decoding(statistics.median(usual), _p95(usual), max(usual), _p95(gaps), max(gaps))


def _p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20)[-1] if len(values) > 1 else values[0]
