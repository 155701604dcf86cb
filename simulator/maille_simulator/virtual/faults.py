"""What can go wrong in a virtual mesh, as plain values: a plan of them replays exactly."""

from dataclasses import dataclass
from enum import Enum
from random import Random

from maille_simulator.virtual.broker import PartyLink


class FaultKind(Enum):
    """Every kind of trouble."""

    KILL = "kill"
    """A node's process ends at once; another one starts after `lasts_ms`."""
    STOP = "stop"
    """A node's process stands still."""
    RESUME = "resume"
    """A node's process goes on, or a drained node takes work again."""
    DRAIN = "drain"
    """A person drains a node, and takes it back."""
    LEAVE = "leave"
    """A node finishes what it holds and ends; another process starts later."""
    PARTITION = "partition"
    """A party is cut off; `amount` below 0.5: what it says is lost, else late."""
    FLAP = "flap"
    """A party's connection breaks and comes back."""
    SICK = "sick"
    """Every run of a node fails."""
    TWIN = "twin"
    """A second process with a node's id."""
    BATTERY = "battery"
    """A node's battery falls to `amount` of its charge."""
    BROKER_RESTART = "broker_restart"
    """The broker ends and comes back; `amount` below 0.5: without what it retained."""
    COORDINATOR_KILL = "coordinator_kill"
    """The coordinator's process ends, by `amount` in the middle of a round, and comes back."""
    COORDINATOR_STOP = "coordinator_stop"
    """The coordinator's process stands still."""
    CLOCK_JUMP = "clock_jump"
    """The coordinator's machine's wall clock jumps, by up to ten minutes."""
    STORM = "storm"
    """The network gets much worse."""
    LINK = "link"
    """A node's way to the broker gets worse."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One piece of trouble."""

    at_ms: float
    kind: FaultKind
    target: str
    """A node, a client, or "coordinator"; "" for the whole mesh."""
    lasts_ms: float
    amount: float
    """0 to 1; see the kinds. A clock jump outside of that is in ms."""
    link: PartyLink | None = None


_OF_NODES = (
    FaultKind.KILL,
    FaultKind.KILL,
    FaultKind.STOP,
    FaultKind.DRAIN,
    FaultKind.LEAVE,
    FaultKind.PARTITION,
    FaultKind.FLAP,
    FaultKind.SICK,
    FaultKind.TWIN,
    FaultKind.BATTERY,
)
_OF_THE_MESH = (
    FaultKind.BROKER_RESTART,
    FaultKind.COORDINATOR_KILL,
    FaultKind.COORDINATOR_KILL,
    FaultKind.COORDINATOR_STOP,
    FaultKind.CLOCK_JUMP,
    FaultKind.STORM,
)


def random_faults(
    random: Random, nodes: tuple[str, ...], clients: tuple[str, ...], until_ms: float
) -> tuple[Fault, ...]:
    """Trouble of every kind between 0 and `until_ms`, in order of time.

    Each run has one or more of the kinds that concern the whole mesh, and some for each node.
    """
    faults: list[Fault] = []

    def add(kind: FaultKind, target: str) -> None:
        at_ms = random.uniform(0.0, until_ms)
        lasts_ms = random.choice((200.0, 1000.0, 3500.0)) * random.uniform(0.5, 1.5)
        faults.append(Fault(at_ms, kind, target, lasts_ms, random.random()))

    for kind in random.sample(_OF_THE_MESH, random.randint(1, 4)):
        add(kind, "coordinator")
    for _ in range(random.randint(len(nodes) // 2, len(nodes))):
        add(random.choice(_OF_NODES), random.choice(nodes))
    if random.random() < 0.3:
        add(random.choice((FaultKind.PARTITION, FaultKind.FLAP)), random.choice(clients))
    if random.random() < 0.3:
        add(random.choice((FaultKind.PARTITION, FaultKind.FLAP)), "coordinator")
    return tuple(sorted(faults, key=lambda fault: fault.at_ms))
