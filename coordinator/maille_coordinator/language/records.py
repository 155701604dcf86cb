"""What the journal keeps of a generation: enough to go on with the same tokens."""

from dataclasses import dataclass
from typing import TypeAlias

from maille_protocol import Sampling, Token


@dataclass(frozen=True, slots=True)
class SessionStart:
    """A generation as it was accepted."""

    session: str
    """The response id."""
    model: str
    version: int
    prompt: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    """Of the answer."""
    end_tokens: tuple[int, ...]
    accepted_at_unix_ms: int
    extra: str = ""
    """Kept for the shell: stop texts and the like."""

    @property
    def capacity(self) -> int:
        """Positions that prompt and answer may take together."""
        return len(self.prompt) + self.max_tokens


@dataclass(frozen=True, slots=True)
class SessionTokens:
    """Tokens of an answer, in the order in which they came."""

    session: str
    index: int
    """How many tokens of the answer came before."""
    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """How a generation ended: "stop", "length", "cancelled" or "error"."""

    session: str
    finish: str
    code: str
    text: str
    ended_at_unix_ms: int


@dataclass(frozen=True, slots=True)
class StagesHeld:
    """Which stages of a pipeline are on which nodes; none: the pipeline is gone."""

    pipeline: int
    stages: tuple[tuple[str, int], ...]
    """(node, stage)"""


@dataclass(frozen=True, slots=True)
class RingKept:
    """How a model is cut and placed: after a restart it is so again. None: it is not placed."""

    model: str
    version: int
    stages: tuple[tuple[str, int, int], ...]
    """(node, first layer, last layer), in the ring's order."""


SessionRecord: TypeAlias = SessionStart | SessionTokens | SessionEnd | StagesHeld | RingKept

__all__ = [
    "RingKept",
    "SessionEnd",
    "SessionRecord",
    "SessionStart",
    "SessionTokens",
    "StagesHeld",
]
