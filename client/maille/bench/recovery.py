"""What a reader sees of losses: seeded kills on real processes while two answers are written.

Each run asks two questions at once, one greedy and one sampled, and hurts the mesh at random tokens
of the first. Both answers must be those of an undisturbed run, and the longest wait for a token after
each blow is a pause. Between runs the mesh is made whole again.
"""

import asyncio
import contextlib
import math
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

from maille.async_mesh import AsyncMesh
from maille.errors import MailleError
from maille.local_mesh import LocalMesh

MODEL = "recovery"
KINDS = ("kill", "leave", "replica", "coordinator", "broker")
READY_TIMEOUT_S = 120.0
HUNG_AFTER_S = 45.0
QUESTIONS = (
    ("Tell me a story about a fox.", {"temperature": 0.0}),
    ("Name five rivers and say where they are.", {"temperature": 0.9, "seed": 7}),
)


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """What to measure."""

    file: Path
    broker: str = "mosquitto"
    nodes: int = 4
    spread: int = 3
    runs: int = 20
    """Of each kind."""
    most_kills: int = 3
    """In one run of the kinds kill and replica."""
    tokens: int = 48
    seed: int = 1
    kinds: tuple[str, ...] = ("kill", "leave", "replica")
    """Of `KINDS`: SIGKILL of a stage with its slice on another node's disk; `maille node drain`;
    SIGKILL with a replica; SIGKILL and restart of the coordinator, of the broker."""


@dataclass(slots=True)
class Reading:
    """One answer as it came."""

    text: str = ""
    came_s: list[float] = field(default_factory=list)
    index: int = 0
    error: str = ""
    ended: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def longest_wait_s(self, after_s: float, before_s: float) -> float:
        """The longest wait for a token that began or went on between two times."""
        longest_s = 0.0
        for begin_s, end_s in zip(self.came_s, self.came_s[1:], strict=False):
            if end_s > after_s and begin_s < before_s:
                longest_s = max(longest_s, end_s - begin_s)
        return longest_s


@dataclass(frozen=True, slots=True)
class Run:
    """One run; `blows` are (token of the first answer, who was hit)."""

    kind: str
    seed: int
    blows: tuple[tuple[int, str], ...]
    pauses_ms: tuple[float, ...]
    wrong: int
    """Answers that were not those of the undisturbed run."""
    hung: int
    """Answers that did not come to their end."""
    errors: tuple[str, ...] = ()
    """What went wrong with answers that are not right."""


@dataclass(frozen=True, slots=True)
class KindFigures:
    """All runs of one kind."""

    kind: str
    runs: int
    blows: int
    wrong_answers: int
    hung_streams: int
    pause_p50_ms: float
    pause_p95_ms: float
    pause_max_ms: float
    undisturbed_max_ms: float
    """The longest wait for a token without any blow, two answers at once."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What came out."""

    seed: int
    tokens: int
    kinds: tuple[KindFigures, ...]
    runs: tuple[Run, ...]

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def measure_recovery(plan: RecoveryPlan, say: Callable[[str], None]) -> Recovery:
    """Start a mesh for each kind, hurt it, end it.

    Raises:
        MailleError: a part did not start, or the model did not become ready.
    """
    figures: list[KindFigures] = []
    runs: list[Run] = []
    for kind in plan.kinds:
        if kind not in KINDS:
            raise MailleError(f"{kind!r} is no kind of loss: choose from {', '.join(KINDS)}.")
        with tempfile.TemporaryDirectory(prefix="maille-bench-", ignore_cleanup_errors=True) as at:
            found = asyncio.run(_measure(plan, kind, Path(at), runs, say))
        figures.append(found)
        say(
            f"{kind}: {found.wrong_answers} wrong, {found.hung_streams} hung, pause p50 "
            f"{found.pause_p50_ms:.0f} ms, p95 {found.pause_p95_ms:.0f} ms, "
            f"max {found.pause_max_ms:.0f} ms"
        )
    return Recovery(plan.seed, plan.tokens, tuple(figures), tuple(runs))


async def _measure(
    plan: RecoveryPlan, kind: str, folder: Path, runs: list[Run], say: Callable[[str], None]
) -> KindFigures:
    names = [f"node-{number + 1}" for number in range(plan.nodes)]
    options = ["--spread", str(plan.spread)]
    if kind == "replica":
        options += ["--replicas", "2"]
    async with (
        LocalMesh(
            folder, broker=plan.broker, nodes=names, coordinator_options=tuple(options)
        ) as local,
        AsyncMesh(local.http_url) as mesh,
    ):
        await local.wait_for_nodes(mesh)
        await mesh.models.add(plan.file, MODEL)
        scene = _Scene(plan, kind, local, mesh)
        await scene.whole()
        expected = [reading.text for reading in await scene.undisturbed()]
        calm = await scene.undisturbed()
        if [reading.text for reading in calm] != expected:
            raise MailleError("Two undisturbed answers differ. Please report this.")
        calm_s = max(reading.longest_wait_s(0, time.monotonic()) for reading in calm)
        say(f"{kind}: mesh ready, without a loss the longest wait is {calm_s * 1000:.0f} ms")
        mine: list[Run] = []
        for number in range(plan.runs):
            found = await scene.run(plan.seed + number, expected)
            mine.append(found)
            blows = ", ".join(f"{who} at token {token}" for token, who in found.blows)
            pauses = ", ".join(f"{pause:.0f}" for pause in found.pauses_ms)
            bad = "".join(f"; NOT RIGHT: {error}" for error in found.errors)
            say(f"{kind} {number + 1}/{plan.runs}: {blows}: {pauses} ms{bad}")
            await scene.whole()
    runs += mine
    pauses_ms = sorted(pause for found in mine for pause in found.pauses_ms)
    return KindFigures(
        kind,
        len(mine),
        sum(len(found.blows) for found in mine),
        sum(found.wrong for found in mine),
        sum(found.hung for found in mine),
        _quantile(pauses_ms, 0.5),
        _quantile(pauses_ms, 0.95),
        pauses_ms[-1] if pauses_ms else 0.0,
        calm_s * 1000,
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that this share of them does not exceed."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


class _Scene:
    """One mesh and what is done to it."""

    def __init__(self, plan: RecoveryPlan, kind: str, local: LocalMesh, mesh: AsyncMesh) -> None:
        self._plan = plan
        self._kind = kind
        self._local = local
        self._mesh = mesh
        self._dead: list[str] = []
        self._drained: list[str] = []

    async def whole(self) -> None:
        """Bring everything back and wait until the model is ready and every spare slice in place.

        Raises:
            MailleError: that did not come to be.
        """
        for name in self._dead:
            await self._local.restart(name)
        self._dead.clear()
        for name in self._drained:
            await self._mesh.http.resume(name)
        self._drained.clear()
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        since_s: float | None = None
        while since_s is None or time.monotonic() - since_s < 0.5:
            if time.monotonic() > deadline_s:
                model = await self._mesh.language_model(MODEL)
                nodes = {node.name: node.state for node in await self._mesh.nodes()}
                raise MailleError(
                    f"The mesh is not whole again: the model is {model.state} {model.state_text}, "
                    f"{len(model.stages)} stages, nodes {nodes}, "
                    f"{await self._missing_spares():.0f} spare slices missing"
                )
            ready = False
            with contextlib.suppress(MailleError, httpx.HTTPError):
                ready = await self._is_whole()
            since_s = (since_s or time.monotonic()) if ready else None
            await asyncio.sleep(0.05)

    async def _is_whole(self) -> bool:
        ready = {node.name for node in await self._mesh.nodes() if node.state == "ready"}
        model = await self._mesh.language_model(MODEL)
        replicated = all(stage.shadows for stage in model.stages)
        return (
            ready >= set(self._local.nodes)
            and model.state == "ready"
            and len(model.stages) >= self._plan.spread
            and (self._kind != "replica" or replicated)
            and await self._missing_spares() == 0
        )

    async def _missing_spares(self) -> float:
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"{self._local.http_url}/metrics")).text
        name = "maille_language_spares_missing "
        return next(
            (float(line.split()[1]) for line in text.splitlines() if line.startswith(name)), 1.0
        )

    async def undisturbed(self) -> list[Reading]:
        """Both answers, without a blow."""
        readings = [Reading() for _ in QUESTIONS]
        await asyncio.gather(*map(self._read, range(len(QUESTIONS)), readings))
        return readings

    async def run(self, seed: int, expected: Sequence[str]) -> Run:
        """Both answers, with blows at random tokens."""
        luck = random.Random(seed)
        count = luck.randint(1, self._plan.most_kills) if self._kind in ("kill", "replica") else 1
        tokens = sorted(luck.sample(range(2, self._plan.tokens * 4 // 5), count))
        readings = [Reading() for _ in QUESTIONS]
        reading = asyncio.gather(*map(self._read, range(len(QUESTIONS)), readings))
        blows: list[tuple[int, str, float]] = []
        try:
            async with asyncio.timeout(HUNG_AFTER_S * (1 + count)):
                for token in tokens:
                    await self._wait_for_token(readings[0], token)
                    who = await self._choose(luck)
                    if who is None or reading.done():
                        break
                    blows.append((token, who, time.monotonic()))
                    await self._hit(who)
                await reading
            hung = 0
        except TimeoutError:
            reading.cancel()
            hung = sum(not found.error and not found.ended for found in readings)
        wrong = (
            sum(found.text != want for found, want in zip(readings, expected, strict=True)) - hung
        )
        ends_s = [at for _, _, at in blows[1:]] + [float("inf")]
        pauses_ms = tuple(
            round(found.longest_wait_s(at, end_s) * 1000, 1)
            for (_, _, at), end_s in zip(blows, ends_s, strict=True)
            for found in readings
            if found.came_s and found.came_s[-1] > at
        )
        return Run(
            self._kind,
            seed,
            tuple((token, who) for token, who, _ in blows),
            pauses_ms,
            max(0, wrong),
            hung,
            tuple(
                found.error or f"{found.text[-80:]!r} instead of {want[-80:]!r}"
                for found, want in zip(readings, expected, strict=True)
                if found.text != want
            ),
        )

    async def _read(self, question: int, reading: Reading) -> None:
        text, options = QUESTIONS[question]
        answer = self._mesh.chat_detailed(
            [{"role": "user", "content": text}],
            model=MODEL,
            max_tokens=self._plan.tokens,
            **options,  # type: ignore[arg-type]
        )
        try:
            async for piece in answer:
                reading.text += piece.text
                if piece.index > reading.index:
                    reading.came_s.append(time.monotonic())
                reading.index = piece.index
                reading.news.set()
            reading.ended = True
        except MailleError as error:
            reading.error = str(error)
        finally:
            reading.index = self._plan.tokens * 2  # whoever waits for a token need not
            reading.news.set()

    async def _wait_for_token(self, reading: Reading, token: int) -> None:
        while reading.index < token:
            reading.news.clear()
            await reading.news.wait()

    async def _choose(self, luck: random.Random) -> str | None:
        if self._kind in ("coordinator", "broker"):
            return self._kind
        holders: list[str] = []
        with contextlib.suppress(MailleError):
            model = await self._mesh.language_model(MODEL)
            holders = sorted({stage.node for stage in model.stages} - {*self._dead, *self._drained})
        alive = set(self._local.nodes) - set(self._dead)
        return luck.choice(holders) if holders and len(alive) > 1 else None

    async def _hit(self, who: str) -> None:
        if self._kind == "leave":
            self._drained.append(who)
            await self._mesh.http.drain(who)
            return
        self._local.kill(who)
        if who in ("coordinator", "broker"):
            await self._local.restart(who)
        else:
            self._dead.append(who)
