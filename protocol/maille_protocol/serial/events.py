"""What goes into the cores of the serial link and what comes out. Times are the caller's clock in ms.

Both ends have `handle(event, now_ms) -> list[Action]`. A `WakeAt` is the last action of every list:
the core wants a `Tick` then, and forgets earlier wishes.
"""

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from maille_protocol.serial.frames import Hello


class CloseReason(Enum):
    """Why a session ended."""

    BOARD_RESET = "the board was reset"
    BOARD_LEFT = "the board ended the session"
    SILENCE = "nothing was heard from the other end"
    SPEED = "the other end changed its speed"
    REPLACED = "the host began a new session"
    HOST_LEFT = "the host ended the session"
    DISORDER = "the other end broke the rules of the link"
    PORT = "the port was opened anew"


# --- events --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PortOpened:
    """The line is there, at the first rate. `empty`: nothing can be in the board's buffer."""

    empty: bool = True


@dataclass(frozen=True, slots=True)
class BytesReceived:
    """Bytes came from the line."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Send:
    """Deliver a message. `token` is the caller's name for it and comes back in one action."""

    token: int
    message: bytes


@dataclass(frozen=True, slots=True)
class SetBusy:
    """Board only: it will not read for a while, or reads again."""

    busy: bool


@dataclass(frozen=True, slots=True)
class Leave:
    """Host only: end the session in order."""


@dataclass(frozen=True, slots=True)
class Tick:
    """The time asked for by `WakeAt` has come."""


Event: TypeAlias = PortOpened | BytesReceived | Send | SetBusy | Leave | Tick

# --- actions -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Write:
    """Put these bytes on the line, all at once or not at all."""

    data: bytes


@dataclass(frozen=True, slots=True)
class SetRate:
    """Change the speed (see `limits.BAUDS`) once what was written before has left."""

    rate: int


@dataclass(frozen=True, slots=True)
class Opened:
    """A session begins. `hello` is the board's, at the board its own."""

    session: int
    hello: Hello


@dataclass(frozen=True, slots=True)
class Closed:
    """The session is over; `Lost` for each message under way came before."""

    reason: CloseReason


@dataclass(frozen=True, slots=True)
class Received:
    """A whole message arrived."""

    message: bytes


@dataclass(frozen=True, slots=True)
class Delivered:
    """The other end has the whole message."""

    token: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The session ended before the message was acknowledged: it arrived once or not at all."""

    token: int
    never_sent: bool
    """Not a byte of it went out: certainly not arrived."""


@dataclass(frozen=True, slots=True)
class Unfit:
    """Host only: this board cannot be worked with; said once for each start of the board."""

    hello: Hello
    reason: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something that a person who looks after the line should know."""

    text: str


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send a `Tick` at this time."""

    time_ms: float


Action: TypeAlias = (
    Write | SetRate | Opened | Closed | Received | Delivered | Lost | Unfit | Note | WakeAt
)
