"""A mesh in virtual time: the coordinator's language core, the nodes' own cores, a checkable model.

The model is the simulator's arithmetic one. Messages may be
lost, doubled and overtake each other; nodes are killed, return, drain; the coordinator restarts.
"""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random

from maille_coordinator.language import actions as wanted
from maille_coordinator.language import events as happened
from maille_coordinator.language.core import LanguageCore
from maille_coordinator.language.records import (
    RingKept,
    SessionEnd,
    SessionRecord,
    SessionStart,
    SessionTokens,
    StagesHeld,
)
from maille_coordinator.language.state import LanguageLimits
from maille_coordinator.placement.values import STAGE_OVERHEAD_BYTES
from maille_node.language import stage_events as stage
from maille_node.language.stages import StageCore
from maille_protocol import (
    ErrorCode,
    Message,
    Sampling,
    SessionCommand,
    SessionOrder,
    StageReport,
    Token,
    Tokens,
    pack,
    unpack,
)
from maille_simulator.virtual.language.arithmetic import ArithmeticModel, Chain

MODEL = ArithmeticModel()
LAYERS = MODEL.layer_count
KEY = MODEL.key
PROCESS_BYTES = STAGE_OVERHEAD_BYTES
MEMORY = PROCESS_BYTES + 6_000_000
"""Of a node: four layers with their caches and an end fit, not six."""
LIMITS = LanguageLimits(context_tokens=64, sessions=3)


def answer(start: SessionStart) -> list[int]:
    """What an undisturbed run gives."""
    return list(MODEL.answer(start))


@dataclass
class Weather:
    """What the network does to messages."""

    lost: float = 0.0
    doubled: float = 0.0
    overtaken: float = 0.0


@dataclass
class FakeNode:
    """A node's own core with arithmetic in place of onnxruntime."""

    name: str
    boot: int
    layer_us: int
    alive: bool = True
    draining: bool = False
    disk: set[bytes] = field(default_factory=set)
    caches: dict[int, list[Chain]] = field(default_factory=dict)
    busy_until_ms: float = 0.0
    sequence: int = 0
    memory_bytes: int = MEMORY
    positions: int = 0
    """Computed so far."""
    sick: bool = False
    """Every step fails by the node's fault."""
    deaf: bool = False
    """Runs, but neither hears nor speaks, and nobody tells."""
    core: StageCore = field(init=False)

    def __post_init__(self) -> None:
        self.core = StageCore(self.name, self.boot, free_bytes=lambda: self.memory_bytes)

    def compute(self, job: stage.Compute) -> stage.Computed:
        """The layers' part of a step."""
        if self.sick:
            return stage.Computed(job.job, code=ErrorCode.NODE_ERROR, text="sick")
        cache = self.caches.setdefault(job.cache, [])
        assert job.position <= len(cache), "the node's core lets no gap through"
        self.positions += job.count
        return MODEL.step(job, cache)


class Mesh:
    """Everything, and the time."""

    def __init__(self, seed: int = 0, *, limits: LanguageLimits = LIMITS) -> None:
        self.random = Random(seed)
        self.weather = Weather()
        self.limits = limits
        self.now_ms = 1_000_000.0
        self.nodes: dict[str, FakeNode] = {}
        self.journal: list[SessionRecord] = []
        self.tokens: dict[str, list[int]] = {}
        self.ends: dict[str, wanted.SessionEnded] = {}
        self.came_ms: dict[str, list[float]] = {}
        self.shared: dict[str, int] = {}
        self.reports: list[str] = []
        self.boots = itertools.count(100)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._epoch = 7
        self._sequence = 0
        self.core = LanguageCore(epoch=self._epoch, limits=limits)
        self._wake = 0
        self.add_model()

    # --- time ------------------------------------------------------------------------------

    def later(self, delay_ms: float, what: Callable[[], None]) -> None:
        """Do something in a while."""
        heapq.heappush(self._queue, (self.now_ms + delay_ms, next(self._order), what))

    def run(self, until: Callable[[], bool], limit_ms: float = 120_000.0) -> None:
        """Let time pass until something is so; fails if it does not come to be."""
        stop_ms = self.now_ms + limit_ms
        while not until():
            assert self._queue, "nothing will ever happen again"
            at_ms, _, what = heapq.heappop(self._queue)
            assert at_ms <= stop_ms, f"not so after {limit_ms / 1000} s: {self.state()}"
            self.now_ms = max(self.now_ms, at_ms)
            what()

    def pause(self, duration_ms: float) -> None:
        """Let so much time pass."""
        done: list[bool] = []
        self.later(duration_ms, lambda: done.append(True))
        self.run(lambda: bool(done), duration_ms + 1)

    def state(self) -> str:
        """For failures."""
        models = {name: (m.state, m.text) for name, m in self.core.models.items()}
        return f"{models}, ended {sorted(self.ends)}, {self.reports[-12:]}"

    # --- coordinator -----------------------------------------------------------------------

    def add_model(self) -> None:
        """Make the model known."""
        self.tell(happened.ModelAdded(KEY, MODEL.shape, 256, (1, 2)))

    def tell(self, event: happened.Event) -> None:
        """Hand an event to the coordinator's core and do what it wants."""
        for action in self.core.handle(event, self.now_ms):
            match action:
                case wanted.SendToStage(node, message):
                    self._sequence += 1
                    epoch = self._epoch
                    payload = pack(message, boot=epoch, seq=self._sequence, epoch=epoch)
                    self.publish(node, payload)
                case wanted.CutSlice(_, first, last, with_ends):
                    found = MODEL.reference(first, last, with_ends=with_ends)
                    self._for_this_core(5.0, happened.SliceCut(KEY, first, last, with_ends, found))
                case wanted.TokenOut(session, index, token):
                    self.tokens.setdefault(session, [])
                    assert index <= len(self.tokens[session])
                    # After a restart the last ones come again: they must be the same.
                    assert self.tokens[session][index : index + 1] in ([], [token.token])
                    if index == len(self.tokens[session]):
                        self.tokens[session].append(token.token)
                        self.came_ms.setdefault(session, []).append(self.now_ms)
                case wanted.SessionShared(session, count):
                    self.shared[session] = count
                case wanted.SessionEnded(session):
                    assert session not in self.ends
                    self.ends[session] = action
                case wanted.WriteSession(record):
                    self.journal.append(record)
                case wanted.Report(report):
                    self.reports.append(f"{report.kind} {report.subject} {report.text}"[:200])
                case wanted.WakeAt(at_ms):
                    self._wake += 1
                    self._wake_at(at_ms, self._wake)

    def _for_this_core(self, delay_ms: float, event: happened.Event) -> None:
        core = self.core
        self.later(delay_ms, lambda: self.tell(event) if self.core is core else None)

    def _wake_at(self, at_ms: float, number: int) -> None:
        def wake() -> None:
            if self._wake == number:
                self.tell(happened.TimeReached())

        self.later(max(0.0, at_ms - self.now_ms), wake)

    def restart(self) -> None:
        """Kill the coordinator and start another one from its journal."""
        self._epoch += 1
        self._wake += 1
        self.core = LanguageCore(epoch=self._epoch, limits=self.limits)
        starts: dict[str, tuple[SessionStart, list[Token]]] = {}
        held: dict[int, tuple[tuple[str, int], ...]] = {}
        rings: dict[tuple[str, int], RingKept] = {}
        for record in self.journal:
            match record:
                case SessionStart():
                    starts[record.session] = (record, [])
                case SessionTokens(session, index, tokens):
                    assert index == len(starts[session][1])
                    starts[session][1].extend(tokens)
                case SessionEnd(session):
                    del starts[session]
                case StagesHeld(pipeline, stages):
                    held[pipeline] = stages
                case RingKept():
                    rings[record.model, record.version] = record
        sessions = tuple(
            happened.RestoredSession(start, tuple(tokens)) for start, tokens in starts.values()
        )
        leftovers = tuple(
            (node, pipeline, place) for pipeline, places in held.items() for node, place in places
        )
        self.tell(happened.Restored(sessions, leftovers, tuple(rings.values())))
        self.add_model()
        core = self.core

        def find(name: str) -> None:
            if self.core is core and self.nodes[name].alive:
                self.tell(self._changed(self.nodes[name]))

        for name in self.nodes:
            self.later(20.0, partial(find, name))

    def ask(
        self,
        name: str,
        prompt: tuple[int, ...] = (5, 6, 7),
        *,
        count: int = 12,
        seed: int = 1,
        penalty: bool = False,
        end_tokens: tuple[int, ...] = (),
    ) -> SessionStart:
        """Ask for a generation."""
        sampling = Sampling(seed=seed, presence_ppm=1000 if penalty else 0)
        start = SessionStart(name, *KEY, prompt, sampling, count, end_tokens, int(self.now_ms))
        self.tell(happened.SessionAsked(start))
        return start

    def finished(self, *names: str) -> bool:
        """Whether these sessions have ended."""
        return all(name in self.ends for name in names)

    # --- nodes -----------------------------------------------------------------------------

    def start_node(self, name: str, layer_us: int = 1000, memory_bytes: int = MEMORY) -> FakeNode:
        """Bring a node into the mesh, or back."""
        former = self.nodes.get(name)
        node = FakeNode(name, next(self.boots), layer_us, memory_bytes=memory_bytes)
        if former is not None:
            node.disk = former.disk
        self.nodes[name] = node
        self.tell(self._changed(node))
        return node

    def _changed(self, node: FakeNode) -> happened.NodeChanged:
        ready = node.alive and not node.draining
        return happened.NodeChanged(node.name, node.boot, node.alive, ready, node.draining)

    def kill(self, name: str, heard_after_ms: float = 2.0) -> None:
        """SIGKILL: the broker tells of it, or silence does."""
        node = self.nodes[name]
        node.alive = False

        def tell() -> None:
            if self.nodes[name] is node:
                self.tell(self._changed(node))

        self.later(heard_after_ms, tell)

    def lose_broker(self, for_ms: float) -> None:
        """The broker dies with the wills of all nodes, and comes back; the nodes lose nothing."""
        nodes = [node for node in self.nodes.values() if node.alive and not node.deaf]
        for place, node in enumerate(nodes):
            node.deaf = True
            self.later(10.0 * place, partial(self._will, node))
        self._for_this_core(10.0 * len(nodes), happened.BrokerChanged(connected=False))
        self._for_this_core(for_ms, happened.BrokerChanged(connected=True))
        for place, node in enumerate(nodes):
            self.later(for_ms + 150.0 * place, partial(self._back, node))

    def _will(self, node: FakeNode) -> None:
        if node.alive and self.nodes[node.name] is node:
            self.tell(replace(self._changed(node), alive=False, ready=False))

    def _back(self, node: FakeNode) -> None:
        node.deaf = False
        if node.alive and self.nodes[node.name] is node:
            self.tell(self._changed(node))

    def drain(self, name: str) -> None:
        """A planned leave."""
        node = self.nodes[name]
        node.draining = True
        self.tell(self._changed(node))

    def forget_session(self, name: str, pipeline: int, handle: int) -> None:
        """A node gives up what a session left there."""
        self._sequence += 1
        order = SessionOrder(SessionCommand.CLOSE, pipeline, 0, handle)
        self._hear(name, pack(order, boot=1, seq=self._sequence, epoch=self._epoch))

    # --- messages --------------------------------------------------------------------------

    def publish(self, name: str, payload: bytes) -> None:
        """A message to a node, whatever the network does to it."""
        for delay_ms in self._delays():
            self.later(delay_ms, lambda: self._hear(name, payload))

    def _delays(self) -> list[float]:
        random, weather = self.random, self.weather
        if random.random() < weather.lost:
            return []
        delays = [0.3]
        if random.random() < weather.doubled:
            delays.append(0.3 + random.random() * 3)
        if random.random() < weather.overtaken:
            delays[0] += random.random() * 4
        return delays

    def _hear(self, name: str, payload: bytes) -> None:
        node = self.nodes.get(name)
        if node is not None and node.alive and not node.deaf:
            self._drive(node, stage.Heard(unpack(payload)))

    def _drive(self, node: FakeNode, event: stage.StageEvent) -> None:
        if not node.alive or self.nodes[node.name] is not node:
            return
        for action in node.core.handle(event, self.now_ms):
            match action:
                case stage.Say(message):
                    self._say(node, message)
                case stage.SendActivation(target, payload):
                    if not node.deaf:
                        self.publish(target, payload)
                case stage.LoadSlice(found):
                    fetched = found.sha256 in node.disk
                    node.disk.add(found.sha256)
                    self._drive_later(
                        node, 30.0 if fetched else 200.0, self._loaded(node, found.sha256)
                    )
                case stage.Compute():
                    first, last, _ = MODEL.slices[action.sha256]
                    took_ms = (last - first + 1) * node.layer_us * action.count / 4000
                    node.busy_until_ms = max(node.busy_until_ms, self.now_ms) + took_ms
                    self._drive_later(node, node.busy_until_ms - self.now_ms, node.compute(action))
                case stage.ShareCache():
                    source = node.caches.get(action.source)
                    assert source is not None, "a kept cache is there"
                    node.caches[action.cache] = source[: action.count]
                case stage.FreeCache(number):
                    node.caches.pop(number, None)
                case stage.WakeAt(at_ms):
                    self._drive_later(node, max(0.0, at_ms - self.now_ms), stage.Tick())
                case _:
                    pass

    def _drive_later(self, node: FakeNode, delay_ms: float, event: stage.StageEvent) -> None:
        self.later(delay_ms, lambda: self._drive(node, event))

    def _loaded(self, node: FakeNode, sha256: bytes) -> stage.SliceReady:
        return stage.SliceReady(sha256, MODEL.facts(sha256, node.layer_us))

    def _say(self, node: FakeNode, message: Message) -> None:
        if node.deaf:
            return
        node.sequence += 1
        payload = pack(message, boot=node.boot, seq=node.sequence, epoch=self._epoch)
        heard = unpack(payload).message
        for delay_ms in self._delays():
            self.later(delay_ms, lambda: self._told(node.name, heard))

    def _told(self, name: str, message: Message) -> None:
        if isinstance(message, Tokens):
            self.tell(happened.TokensCame(name, message))
        elif isinstance(message, StageReport):
            self.tell(happened.StageReported(name, message))
