"""A whole virtual run as a value: what there is, what is asked of it, what goes wrong."""

from dataclasses import dataclass

from maille.client_events import TaskSettings
from maille_protocol.contents import Content
from maille_simulator.virtual.broker import Weather
from maille_simulator.virtual.faults import Fault
from maille_simulator.virtual.language.plan import LanguagePlan
from maille_simulator.virtual.profile import NodeProfile, VirtualModel


@dataclass(frozen=True, slots=True)
class Burst:
    """Tasks that a client hands in together."""

    at_ms: float
    client: str
    settings: TaskSettings
    tasks: tuple[tuple[bytes, Content], ...]
    """(id, input)"""


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Tasks that a client cancels."""

    at_ms: float
    client: str
    task_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Everything that a run is made of. The same plan gives the same run."""

    seed: int
    nodes: tuple[tuple[str, NodeProfile, float], ...]
    """(id, machine, time of the first start in ms)"""
    models: tuple[VirtualModel, ...]
    clients: tuple[str, ...]
    bursts: tuple[Burst, ...]
    withdrawals: tuple[Withdrawal, ...]
    faults: tuple[Fault, ...]
    weather: Weather
    storm: Weather
    keepalive_ms: float
    healed_ms: float
    """From here on nothing goes wrong any more, and all that was asked for must end."""
    patience_ms: float = 120_000.0
    """How long that may take."""
    calm_ms: float = 8_000.0
    """From `healed_ms` until every node must be seen as it is: nodes are asked every 5 s."""
    validate_every_ms: float = 500.0
    coordinator_round_ms: float = 0.1
    max_open_tasks: int = 2000
    """The coordinator's limit, if the plan's own tasks are fewer."""
    most_calls: float = float("inf")
    """So many messages and timers, and the run goes in circles."""
    luck: int = 0
    """Other numbers draw the same weather otherwise: for a plan that was changed."""
    language: LanguagePlan | None = None
    """What nodes hold slices of, and who wants answers of it."""
    heals: bool = True
    """Whether at `healed_ms` whoever was ended comes back; else all stays as it is."""
