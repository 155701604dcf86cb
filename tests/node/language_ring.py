"""Rings of stage cores on a bad bus in virtual time, with a model whose every cache is checked.

The model is arithmetic: what a stage gives for a position is a hash of everything that it was given
up to there, so one wrong, missing or repeated position changes every token after it. The
coordinator's part of a repair is played here as docs/decisions/0006-token-slices.md tells it.
"""

import hashlib
import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from language_mesh import GREEDY, HIDDEN, PIPELINE, VOCABULARY, facts_of, slice_of, uint32s

from maille_node.language import stage_events as events
from maille_node.language.stage_events import SliceFacts
from maille_node.language.stages import StageCore
from maille_protocol import (
    Envelope,
    ErrorCode,
    Finish,
    Message,
    Route,
    SessionCommand,
    SessionOrder,
    StageCommand,
    StageOrder,
    StageReport,
    StageState,
    Token,
    Tokens,
    unpack,
)

STALL_MS = 400.0
CAPACITY = 400


def hashed(stage: int, rows: list[bytes]) -> bytes:
    digest = hashlib.sha256(bytes([stage]))
    for row in rows:
        digest.update(row)
    return digest.digest()


def hidden_of(stage: int, rows: list[bytes]) -> bytes:
    numbers = np.frombuffer(hashed(stage, rows)[: 2 * HIDDEN], np.uint16)
    return numbers.astype(np.float32).tobytes()


def token_of(stage: int, rows: list[bytes]) -> int:
    return int.from_bytes(hashed(stage, rows)[:4], "little") % VOCABULARY


def undisturbed(prompt: list[int], stages: int, count: int) -> list[int]:
    """The answer of a ring that nothing happens to."""
    tokens = list(prompt)
    given: list[list[bytes]] = [[] for _ in range(stages)]
    for position in itertools.count():
        row = uint32s([tokens[position]])
        for stage in range(stages - 1):
            given[stage].append(row)
            row = hidden_of(stage, given[stage])
        given[-1].append(row)
        if position + 1 >= len(prompt):
            tokens.append(token_of(stages - 1, given[-1]))
            if len(tokens) == len(prompt) + count:
                return tokens[len(prompt) :]
    raise AssertionError


class FakeNode:
    """A core and a model that computes its jobs."""

    def __init__(self, mesh: "Mesh", name: str, boot: int) -> None:
        self.mesh = mesh
        self.name = name
        self.core = StageCore(name, boot, free_bytes=lambda: 0)
        self.caches: dict[int, list[bytes]] = {}
        self.facts: dict[bytes, SliceFacts] = {}
        self.stages: dict[bytes, int] = {}
        self.dead = False
        self.boot = boot
        self.seq = 0
        self.jobs_at_once = 0

    def give(self, event: events.StageEvent) -> None:
        if self.dead:
            return
        for action in self.core.handle(event, self.mesh.now_ms):
            match action:
                case events.SendActivation(node=node, payload=payload):
                    self.mesh.deliver(node, unpack(payload), hop=True)
                case events.Say(message=message):
                    self.mesh.to_coordinator(self.name, message)
                case events.LoadSlice(reference=reference):
                    stage = reference.sha256[0]
                    self.stages[reference.sha256] = stage
                    facts = facts_of(stage, self.mesh.stages)
                    self.later(20, events.SliceReady(reference.sha256, facts))
                case events.Compute():
                    self.jobs_at_once += 1
                    assert self.jobs_at_once <= len(self.stages), "one step at a time"
                    took_ms = 0.3 + 0.1 * action.count + self.mesh.random.random()
                    self.mesh.at(took_ms, lambda work=action: self.compute(work))  # type: ignore[misc]
                case events.FreeCache(cache=cache):
                    self.caches.pop(cache, None)
                case events.WakeAt(at_ms=at_ms):
                    self.mesh.at(at_ms - self.mesh.now_ms, lambda: self.give(events.Tick()))

    def later(self, delay_ms: float, event: events.StageEvent) -> None:
        self.mesh.at(delay_ms, lambda: self.give(event))

    def compute(self, work: events.Compute) -> None:
        self.jobs_at_once -= 1
        if self.dead:
            return
        stage = self.stages[work.sha256]
        given = self.caches.setdefault(work.cache, [])
        assert len(given) >= work.position, "a step may only cut back or follow"
        del given[work.position :]
        values = bytes(work.values)
        size = len(values) // work.count
        output = b""
        last = stage == self.mesh.stages - 1
        for at in range(work.count):
            given.append(values[at * size : (at + 1) * size])
            if not last:
                output += hidden_of(stage, given)
        sampled = None
        if work.sample is not None:
            assert work.sample.position == len(given)
            sampled = Token(token_of(stage, given))
        self.give(events.Computed(work.job, output, sampled))


@dataclass
class Generation:
    """One session as the coordinator knows it."""

    number: int
    prompt: list[int]
    count: int
    answer: list[int] = field(default_factory=list)
    finished: bool = False
    progress_ms: float = 0.0
    tries: int = 0

    @property
    def known(self) -> list[int]:
        return self.prompt + self.answer


class Mesh:
    """Nodes, the bus between them, and the coordinator."""

    def __init__(
        self,
        seed: int,
        *,
        stages: int,
        nodes: int,
        loss: float = 0.0,
        repeat: float = 0.0,
        reorder: float = 0.0,
        shadows: int = 0,
        slow_repair: bool = False,
    ) -> None:
        self.random = random.Random(seed)
        self.stages = stages
        self.loss, self.repeat, self.reorder = loss, repeat, reorder
        self.shadows = shadows
        self.fence = not slow_repair
        self.now_ms = 0.0
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = itertools.count()
        self.nodes = {f"n{at}": FakeNode(self, f"n{at}", 100 + at) for at in range(nodes)}
        self.last_ms: dict[tuple[int, str], float] = {}
        self.seq = 0
        self.layout = 0
        self.route: list[list[str]] = []
        self.fresh: set[tuple[int, str]] = set()
        """Places that hold nothing of any session yet."""
        self.generations: dict[int, Generation] = {}
        self.hops = 0
        self.wrong: list[str] = []

    # --- time and the bus ------------------------------------------------------------------------

    def at(self, delay_ms: float, work: Callable[[], None]) -> None:
        heapq.heappush(self.heap, (self.now_ms + max(0.0, delay_ms), next(self.numbers), work))

    def run(self, until: Callable[[], bool], limit_ms: float) -> bool:
        end_ms = self.now_ms + limit_ms
        while self.heap and not until():
            at_ms, _, work = heapq.heappop(self.heap)
            if at_ms > end_ms:
                self.now_ms = end_ms
                heapq.heappush(self.heap, (at_ms, next(self.numbers), work))
                break
            self.now_ms = at_ms
            work()
        return until()

    def deliver(self, node: str, envelope: Envelope, *, hop: bool = False) -> None:
        self.hops += hop
        for delay_ms in self.delays((envelope.boot, node)):
            self.at(delay_ms, lambda: self.nodes[node].give(events.Heard(envelope)))

    def delays(self, path: tuple[int, str]) -> list[float]:
        draw = self.random.random
        if draw() < self.loss:
            return []
        delays = []
        for _ in range(2 if draw() < self.repeat else 1):
            delay_ms = 0.2 + 0.3 * draw()
            if draw() < self.reorder:
                delays.append(delay_ms + 30 * draw())
                continue
            # In order, as one connection is.
            arrival_ms = max(self.now_ms + delay_ms, self.last_ms.get(path, 0.0))
            self.last_ms[path] = arrival_ms
            delays.append(arrival_ms - self.now_ms)
        return delays

    def to_coordinator(self, node: str, message: StageReport | Tokens) -> None:
        for delay_ms in self.delays((self.nodes[node].boot, "coordinator")):
            self.at(delay_ms, lambda: self.heard(node, message))

    def send(self, node: str, message: Message) -> None:
        self.seq += 1
        self.deliver(node, Envelope(1, self.seq, 1, message))

    # --- the coordinator -------------------------------------------------------------------------

    def arrange(self) -> None:
        names = list(self.nodes)
        places = itertools.cycle(names)
        self.route = [[next(places)] for _ in range(self.stages)]
        for stage in range(self.stages):
            for _ in range(self.shadows):
                self.add_place(stage, self.spare(stage))
            for node in self.route[stage]:
                self.load(stage, node)
        self.say_route()

    def add_place(self, stage: int, node: str | None) -> None:
        if node is not None:
            self.route[stage].append(node)

    def spare(self, stage: int) -> str | None:
        alive = [name for name, node in self.nodes.items() if not node.dead]
        load = {name: sum(name in nodes for nodes in self.route) for name in alive}
        free = [name for name in alive if name not in self.route[stage]]
        return min(free, key=lambda name: load[name], default=None)

    def load(self, stage: int, node: str) -> None:
        self.send(node, StageOrder(StageCommand.LOAD, PIPELINE, stage, slice_of(stage), 1 << 30, 1))

    def everybody(self) -> list[str]:
        return sorted({node for nodes in self.route for node in nodes})

    def say_route(self) -> None:
        self.layout += 1
        route = Route(PIPELINE, self.layout, tuple(map(tuple, self.route)))
        for node in self.everybody():
            self.send(node, route)

    def order(
        self,
        node: str,
        generation: Generation,
        command: SessionCommand,
        stage: int = 0,
        *,
        position: int = 0,
        until: int = 0,
        tokens: list[int] | None = None,
        whole: bool = False,
    ) -> None:
        self.send(
            node,
            SessionOrder(
                command,
                PIPELINE,
                self.layout,
                generation.number,
                stage,
                position,
                until,
                CAPACITY,
                uint32s(tokens or []),
                GREEDY if whole else None,
                generation.count if whole else 0,
            ),
        )

    def open(self, generation: Generation) -> None:
        """OPEN everywhere: the last stage learns what is known."""
        last = self.stages - 1
        for stage, nodes in reversed(list(enumerate(self.route))):
            for node in nodes:
                self.order(node, generation, SessionCommand.OPEN, stage)
                if stage < last:
                    continue
                prompt, answer = generation.prompt, generation.answer
                order = partial(self.order, node, generation, SessionCommand.OPEN, last)
                order(tokens=prompt, whole=True)
                order(position=len(prompt), tokens=answer)

    def generate(
        self, number: int, prompt: list[int], count: int, *, by_open: bool | None = None
    ) -> Generation:
        generation = Generation(number, prompt, count, progress_ms=self.now_ms)
        self.generations[number] = generation
        # The prompt with the OPEN to stage 0, or in the way of a repair.
        if self.random.random() < 0.5 if by_open is None else by_open:
            for node in self.route[0]:
                self.order(node, generation, SessionCommand.OPEN, tokens=prompt, whole=True)
            self.open(generation)
        else:
            self.open(generation)
            self.rebuild(generation)
        self.watch(generation)
        return generation

    def rebuild(self, generation: Generation) -> None:
        """From nothing but the known tokens."""
        known = generation.known
        for node in self.route[0]:
            if known[:-1]:
                self.order(
                    node,
                    generation,
                    SessionCommand.REBUILD,
                    until=self.stages - 1,
                    tokens=known[:-1],
                )
        self.inject(generation)

    def inject(self, generation: Generation) -> None:
        known = generation.known
        for node in self.route[0]:
            self.order(
                node,
                generation,
                SessionCommand.INJECT,
                position=len(known) - 1,
                tokens=known[-1:],
            )

    def watch(self, generation: Generation) -> None:
        def look() -> None:
            if generation.finished:
                return
            if self.now_ms - generation.progress_ms >= STALL_MS:
                self.stalled(generation)
            self.at(STALL_MS / 4, look)

        self.at(STALL_MS, look)

    def stalled(self, generation: Generation) -> None:
        """First the token again, then everything again."""
        generation.progress_ms = self.now_ms
        generation.tries += 1
        if generation.tries % 2 == 1:
            if self.fence:
                self.say_route()
                for other in self.generations.values():
                    if other is not generation and not other.finished:
                        self.inject(other)
            self.inject(generation)
            return
        for stage, nodes in enumerate(self.route):
            for node in nodes:
                self.load(stage, node)
        self.say_route()
        for other in self.generations.values():
            if not other.finished:
                self.open(other)
                self.rebuild(other)

    def kill(self, stage: int) -> None:
        """The primary of a stage dies; noticed at once, as a closed socket is."""
        lost = self.route[stage][0]
        if sum(not node.dead for node in self.nodes.values()) <= 1:
            return
        self.nodes[lost].dead = True
        missing = []
        for at, nodes in enumerate(self.route):
            if lost not in nodes:
                continue
            nodes.remove(lost)
            if not nodes:
                newcomer = self.spare(at)
                assert newcomer is not None
                nodes.append(newcomer)
                self.load(at, newcomer)
                missing.append(at)
        # The slice is loaded when the new layout comes.
        self.at(60, lambda: self.recover(missing))

    def recover(self, missing: list[int]) -> None:
        self.say_route()
        for generation in self.generations.values():
            if generation.finished:
                continue
            generation.progress_ms = self.now_ms
            self.open(generation)
            if 0 in missing:
                self.rebuild(generation)
                continue
            if missing:
                before = min(missing) - 1
                self.order(
                    self.route[before][0],
                    generation,
                    SessionCommand.REPLAY,
                    before,
                    until=max(missing),
                )
            self.inject(generation)

    def close(self, generation: Generation) -> None:
        for node, found in self.nodes.items():
            if not found.dead:
                self.order(node, generation, SessionCommand.CLOSE)

    def heard(self, node: str, message: StageReport | Tokens) -> None:
        if isinstance(message, StageReport):
            if message.state is StageState.FAILED and message.code not in {
                ErrorCode.CACHE_GAP,
                ErrorCode.UNKNOWN_SESSION,
                ErrorCode.BUSY,
            }:
                self.wrong.append(message.text)
            return
        generation = self.generations[message.session]
        at = message.position - len(generation.prompt)
        tokens = [found.token for found in message.tokens]
        known = generation.answer
        if at > len(known):
            self.order(
                node,
                generation,
                SessionCommand.RESEND,
                self.stages - 1,
                position=len(generation.known),
            )
            return
        if known[at : at + len(tokens)] != tokens[: len(known) - at]:
            self.wrong.append(f"{tokens} at {at} after {known}")
        fresh = tokens[len(known) - at :]
        if fresh:
            generation.answer += fresh
            generation.progress_ms = self.now_ms
            generation.tries = 0
        if message.finish is Finish.LENGTH and len(generation.answer) >= generation.count:
            generation.finished = True
