"""What the core knows: nodes, models, pipelines, sessions. Data holders and the outbox."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from maille_coordinator.language.actions import Action, Report, SendToStage, WriteSession
from maille_coordinator.language.events import ModelKey
from maille_coordinator.language.kept import Kept
from maille_coordinator.language.records import (
    RingKept,
    SessionRecord,
    SessionStart,
    StagesHeld,
)
from maille_coordinator.language.timers import Timers
from maille_coordinator.placement import ModelShape, Plan
from maille_coordinator.records import MeshEvent
from maille_protocol import Reference, Route, SessionOrder, StageOrder, Token

SPARED_MS = 15_000.0
"""After a start, or a broker's, slices of former rings stay loaded for so long: new ones use them."""

Run = tuple[int, int, bool]
"""First and last layer of a slice, and whether embedding and head are in it where they belong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageLimits:
    """Bounds and wishes of one coordinator."""

    context_tokens: int = 4096
    """Room for tokens in one session's share of the caches (at most the model's own context)."""
    sessions: int = 4
    """How many such shares each stage has."""
    copies: int = 1
    """How often each slice is kept: 2 for one replica."""
    least_nodes: int = 1
    """Over how many nodes a model is cut, if there are so many, even where fewer are faster."""
    max_queued: int = 64
    patience_ms: float = 60_000.0
    """How long a generation waits for a mesh that can go on with it."""


class Measuring(Enum):
    """How far one node's measurement with one model is."""

    ASKED = 0
    MEASURED = 1
    FAILED = 2


@dataclass(slots=True)
class Skill:
    """What one node measured with a layer of one model."""

    state: Measuring
    nonce: int
    asked_ms: float
    heard_ms: float
    decode_us: int = 0
    prefill_us: int = 0
    free_bytes: int = 0
    fingerprint: bytes = b""
    retry_ms: float = 0.0
    failures: int = 0


@dataclass(slots=True)
class Node:
    """A node that can hold slices."""

    node: str
    boot: int = 0
    alive: bool = False
    ready: bool = False
    leaving: bool = False
    memory_bytes: int = 0
    ping_ms: float | None = None
    """The shortest time in which it answered."""
    pings: dict[int, float] = field(default_factory=dict)
    """When those were sent that it has not answered, by nonce."""
    pings_left: int = 0
    gone_ms: float = -1e12
    """When it was last found to be gone."""
    answered_ms: float = -1e12
    """When anything about slices was heard of it."""
    skills: dict[ModelKey, Skill] = field(default_factory=dict)
    disk: dict[ModelKey, set[tuple[int, int]]] = field(default_factory=dict)
    """Layers whose slices it has fetched."""
    avoided: dict[ModelKey, float] = field(default_factory=dict)
    """Until when a model is not placed here, after it failed here."""
    silent: set[ModelKey] = field(default_factory=set)
    """Of those, the ones that it only did not answer for: an answer ends it."""
    leftovers: set[tuple[int, int]] = field(default_factory=set)
    """Stages of an earlier run of the coordinator, or of a time when it could not be told."""
    spared_until_ms: float = 0.0
    """Until then they stay: their slices may be those that are loaded next."""


class ModelState(StrEnum):
    """What people see of a model."""

    WAITING = "waiting"
    MEASURING = "measuring"
    LOADING = "loading"
    CHECKING = "checking"
    READY = "ready"
    RECOVERING = "recovering"
    IMPOSSIBLE = "impossible"


@dataclass(slots=True)
class Model:
    """One language model and what is arranged for it."""

    key: ModelKey
    shape: ModelShape
    context_length: int
    check_tokens: tuple[int, ...]
    state: ModelState = ModelState.WAITING
    text: str = "no node that holds slices is in the mesh: start one with `maille node`"
    slices: dict[Run, Reference] = field(default_factory=dict)
    cutting: set[Run] = field(default_factory=set)
    uncut: dict[Run, str] = field(default_factory=dict)
    """Slices that could not be made, and why."""
    pipeline: "Pipeline | None" = None
    successor: "Pipeline | None" = None
    """Being loaded; takes over the sessions when it is ready."""
    queue: "list[Session]" = field(default_factory=list)
    failures: int = 0
    """Arrangements that came to nothing, in a row."""
    retry_ms: float = 0.0
    impossible_since_ms: float | None = None
    measured_tokens_per_s: float = 0.0

    @property
    def name(self) -> str:
        """Name and version as one text."""
        return f"{self.key[0]}:{self.key[1]}"

    @property
    def probe(self) -> Run:
        """The slice that nodes are measured with."""
        middle = len(self.shape.layers) // 2
        return middle, middle, False


@dataclass(slots=True)
class Load:
    """How far one node is with loading one stage."""

    nonce: int
    asked_ms: float
    heard_ms: float
    ready: bool = False


@dataclass(slots=True)
class Slot:
    """One stage of a pipeline: who holds it."""

    first: int
    last: int
    primary: str
    shadows: list[str] = field(default_factory=list)
    """In the route."""
    heir: str | None = None
    """Takes the primary's place when it has loaded."""
    copies: list[str] = field(default_factory=list)
    """Become shadows when they have loaded."""
    loads: dict[str, Load] = field(default_factory=dict)

    def ready(self, node: str) -> bool:
        """Whether a node has loaded the slice."""
        load = self.loads.get(node)
        return load is not None and load.ready

    @property
    def wanted(self) -> list[str]:
        """Nodes that are to have it."""
        names = [self.primary, *self.shadows, *self.copies, *([self.heir] if self.heir else [])]
        return list(dict.fromkeys(names))

    @property
    def routed(self) -> tuple[str, ...]:
        """The primary first, then its shadows."""
        return (self.primary, *self.shadows)


class PipelineState(Enum):
    """Whether a pipeline does anything."""

    LOADING = 0
    CHECKING = 1
    READY = 2
    REPAIRING = 3
    CLOSED = 4


@dataclass(slots=True)
class Pipeline:
    """A ring of stages."""

    number: int
    key: ModelKey
    plan: Plan
    slots: list[Slot]
    cache_tokens: int
    """Positions that all sessions together may take."""
    state: PipelineState = PipelineState.LOADING
    layout: int = 0
    sessions: "dict[int, Session]" = field(default_factory=dict)
    kept: dict[int, Kept] = field(default_factory=dict)
    """By handle, the longest unused first."""
    token_ms: float = 0.0
    """Smoothed time from one token of a session to its next."""
    since_ms: float = 0.0
    check: "Session | None" = None
    known: bool = False
    """Whether it was at work before the coordinator started anew: it need not be checked."""
    stuck: set[str] = field(default_factory=set)
    """Nodes that want to leave and that nobody can replace, as people were told."""

    @property
    def used_tokens(self) -> int:
        """Positions that the sessions may take."""
        return sum(session.start.capacity for session in self.sessions.values())

    @property
    def busy(self) -> bool:
        """Whether somebody's generation runs here."""
        return any(not session.check for session in self.sessions.values())

    @property
    def nodes(self) -> set[str]:
        """Who is in the route."""
        return {node for slot in self.slots for node in slot.routed}

    @property
    def prefill_ms(self) -> float:
        """Expected time of one position of a prompt."""
        return 1000.0 / max(self.plan.prediction.prefill_tokens_per_s, 1.0)


@dataclass(slots=True)
class Session:
    """One generation. `handle` names it on the wire."""

    start: SessionStart
    handle: int
    asked_ms: float
    check: bool = False
    """The first round of a new ring, not somebody's generation."""
    tokens: list[Token] = field(default_factory=list)
    pipeline: Pipeline | None = None
    source: int = 0
    """The ended session whose caches it begins with, 0 for none."""
    shared: int = 0
    """How many positions of them."""
    holds: list[set[str]] = field(default_factory=list)
    """For each stage, the nodes that have been told all that their cache is made from."""
    attempts: int = 0
    """Repairs since the last token."""
    progress_ms: float = 0.0
    repaired_ms: float = -1e12
    pinged_ms: float | None = None
    pending: int = 0
    """Positions to compute before the next token comes."""
    gaps: dict[int, int] = field(default_factory=dict)
    """Stages that said they lack something, and from which position on."""
    behind: dict[tuple[int, str], float] = field(default_factory=dict)
    """Shadows, by stage and node, that have yet to say that they caught up, and since when."""
    caught_up: dict[tuple[int, str], int] = field(default_factory=dict)
    """How many positions a shadow, by stage and node, held when it last said so."""
    resend_ms: float = -1e12
    written: int = 0
    rounds_ms: list[float] = field(default_factory=list)
    """Start of the first token and time of the last one, for the measured speed."""

    @property
    def length(self) -> int:
        """Known tokens of prompt and answer."""
        return len(self.start.prompt) + len(self.tokens)

    @property
    def last_token(self) -> int:
        """The last known one."""
        return self.tokens[-1].token if self.tokens else self.start.prompt[-1]

    def known(self) -> list[int]:
        """All known tokens."""
        return [*self.start.prompt, *(token.token for token in self.tokens)]


@dataclass(slots=True)
class Counters:
    """For /metrics."""

    tokens: int = 0
    tokens_again: int = 0
    tokens_contradicting: int = 0
    """Tokens that came again and were others: kernels that do not agree."""
    sessions_accepted: int = 0
    sessions_refused: int = 0
    sessions_failed: int = 0
    repairs: int = 0
    stages_replaced: int = 0
    strays: int = 0
    """Messages of no pipeline or session of ours."""


class World:
    """Everything, and what is to be done about it."""

    def __init__(self, epoch: int, limits: LanguageLimits) -> None:
        self.limits = limits
        self.now_ms = 0.0
        self.connected = True
        self.nodes: dict[str, Node] = {}
        self.models: dict[ModelKey, Model] = {}
        self.pipelines: dict[int, Pipeline] = {}
        self.sessions: dict[str, Session] = {}
        self.handles: dict[int, Session] = {}
        self.early: dict[ModelKey, list[Session]] = {}
        """Restored sessions whose model has not been read yet."""
        self.rings: dict[ModelKey, RingKept] = {}
        """How models are placed, as the journal has it."""
        self.rings_until_ms = 0.0
        """Until then the nodes of the rings of an earlier run are waited for."""
        self.timers = Timers()
        self.counters = Counters()
        self._out: list[Action] = []
        self._held: dict[int, set[tuple[str, int]]] = {}
        """(node, stage) by pipeline, as the journal has it."""
        # 20 bits of the epoch: pipelines of an earlier run have other numbers.
        self._pipelines = (epoch & 0xFFFFF) << 12
        self._handles = 0
        self._nonce = 0

    def add(self, *actions: Action) -> None:
        """Want these done."""
        self._out += actions

    def take(self) -> list[Action]:
        """What is wanted since the last call."""
        out, self._out = self._out, []
        return out

    def send(self, node: str, message: StageOrder | Route | SessionOrder) -> None:
        """Send a message to a node."""
        self._out.append(SendToStage(node, message))

    def write(self, record: SessionRecord) -> None:
        """Put a record into the journal."""
        self._out.append(WriteSession(record))

    def report(self, kind: str, subject: str, text: str = "") -> None:
        """Tell people."""
        self._out.append(Report(MeshEvent(kind, int(self.now_ms), subject, text)))

    def write_stages(self, number: int) -> None:
        """Tell the journal which nodes may hold stages of a pipeline, if that changed."""
        pipeline = self.pipelines.get(number)
        held = {
            (name, stage)
            for stage, slot in enumerate(() if pipeline is None else pipeline.slots)
            for name in slot.loads
        } | {
            (node.node, stage)
            for node in self.nodes.values()
            for other, stage in node.leftovers
            if other == number
        }
        if held != self._held.get(number, set()):
            if held:
                self._held[number] = held
            else:
                del self._held[number]
            self.write(StagesHeld(number, tuple(sorted(held))))

    def spread_soon(self, pipeline: Pipeline) -> None:
        """See at the next opportunity which spare slices a ring lacks."""
        self.timers.set(("spread", pipeline.number), self.now_ms)

    def write_ring(self, pipeline: Pipeline) -> None:
        """Tell the journal how a model is placed, if that changed."""
        ring = RingKept(
            *pipeline.key,
            tuple((slot.primary, slot.first, slot.last) for slot in pipeline.slots),
        )
        if self.rings.get(pipeline.key) != ring:
            self.rings[pipeline.key] = ring
            self.write(ring)

    def forget_ring(self, key: ModelKey) -> None:
        """A model is gone."""
        if self.rings.pop(key, None) is not None:
            self.write(RingKept(*key, ()))

    def restore_leftover(self, node: Node, pipeline: int, stage: int) -> None:
        """The journal says that a node may hold this stage of an earlier run."""
        node.leftovers.add((pipeline, stage))
        self._held.setdefault(pipeline, set()).add((node.node, stage))

    def forget_leftovers(self, node: Node, *leftovers: tuple[int, int]) -> None:
        """A node has dropped stages; the journal need not know them any more."""
        node.leftovers -= set(leftovers)
        for number in {number for number, _ in leftovers}:
            self.write_stages(number)

    def nonce(self) -> int:
        """A number that was not used before."""
        self._nonce = self._nonce % 0xFFFFFFFF + 1
        return self._nonce

    def next_pipeline(self) -> int:
        """A number for a new pipeline."""
        self._pipelines = (self._pipelines & ~0xFFF) | ((self._pipelines + 1) & 0xFFF)
        return self._pipelines or 1

    def next_handle(self) -> int:
        """A number for a new session."""
        self._handles = self._handles % 0xFFFFFFFF + 1
        return self._handles

    def live_pipelines(self) -> Iterator[Pipeline]:
        """All but the closed ones; they may be closed meanwhile."""
        return iter([p for p in self.pipelines.values() if p.state is not PipelineState.CLOSED])
