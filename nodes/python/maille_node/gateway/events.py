"""What can happen to a board behind a gateway, and what its core then wants done."""

from dataclasses import dataclass, field
from typing import TypeAlias

from maille_node import events as node
from maille_protocol import Envelope, ErrorCode
from maille_protocol.serial.frames import Hello
from maille_protocol.serial.messages import (
    FromBoard,
    Info,
    ModelRecord,
    SensorRecord,
    ToBoard,
)


@dataclass(slots=True)
class Portrait:
    """What a board said of itself at the beginning of a session."""

    hello: Hello
    info: Info
    sensors: dict[int, SensorRecord] = field(default_factory=dict)
    models: dict[int, ModelRecord] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether everything has come that `info` announced."""
        return len(self.sensors) >= self.info.sensors and len(self.models) >= self.info.models


# --- events --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mesh:
    """Something of the node's own kind: link, time, drain."""

    event: node.Event


@dataclass(frozen=True, slots=True)
class Heard:
    """Messages of the mesh."""

    envelopes: tuple[Envelope, ...]


@dataclass(frozen=True, slots=True)
class LineUp:
    """A session with this start of the board is open, and it has said what it is."""

    portrait: Portrait


@dataclass(frozen=True, slots=True)
class LineDown:
    """The session is over; what was under way on the line is lost."""


@dataclass(frozen=True, slots=True)
class Said:
    """A message of the board."""

    message: FromBoard


@dataclass(frozen=True, slots=True)
class ModelFetched:
    """The artefact of a model that the board holds."""

    sha256: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class ModelUnavailable:
    """It cannot be had."""

    sha256: bytes
    code: ErrorCode
    text: str


Event: TypeAlias = Mesh | Heard | LineUp | LineDown | Said | ModelFetched | ModelUnavailable

# --- actions -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a message to the board."""

    message: ToBoard


@dataclass(frozen=True, slots=True)
class FetchModel:
    """Get the artefact of a model from the coordinator; ends with one of the two events."""

    sha256: bytes
    size_bytes: int


Action: TypeAlias = node.Action | Tell | FetchModel
