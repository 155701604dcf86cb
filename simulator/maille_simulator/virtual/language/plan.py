"""What a virtual run asks of a language model, as plain values."""

from dataclasses import dataclass

from maille_coordinator.language.state import LanguageLimits
from maille_simulator.virtual.language.arithmetic import ArithmeticModel


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer that somebody wants and reads."""

    at_ms: float
    name: str
    prompt: tuple[int, ...]
    tokens: int
    """The most that the answer may have."""
    seed: int = 0
    penalty: bool = False
    """Whether the choice looks back at the tokens before."""
    end_tokens: tuple[int, ...] = ()
    withdrawn_ms: float | None = None
    """When its reader has had enough, None: never."""


@dataclass(frozen=True, slots=True)
class LanguagePlan:
    """The model, the coordinator's limits, and all that is asked."""

    model: ArithmeticModel
    limits: LanguageLimits
    generations: tuple[Generation, ...]
    memory_bytes: int
    """That each node has for slices and caches."""
    read_ms: float = 100.0
    """A coordinator that starts knows the model so much later: it reads the file."""
    cut_ms: float = 5.0
    load_ms: float = 30.0
    """Of a slice that lies on the node's disk."""
    fetch_ms: float = 200.0
    """Of one that does not."""
