"""Frames of the serial link: headers and the payloads that the link itself understands.

`parse_board_frame` is for a host, `parse_host_frame` for a board; what either sends, `encode` of
the other class gives as bytes for the wire.
"""

from dataclasses import dataclass
from enum import IntEnum

from maille_protocol.errors import WireError
from maille_protocol.serial.framing import encode_frame
from maille_protocol.serial.limits import (
    BAUDS,
    BOARD_HEADER_BYTES,
    HOST_HEADER_BYTES,
    LINK_VERSION,
    MIN_WINDOW_BYTES,
)

_KIND = 0x07
_FIRST = 0x08
_LAST = 0x10
_ASKS = 0x20
_RESERVED = 0x40
_FROM_BOARD = 0x80


class Kind(IntEnum):
    """What a frame is for."""

    HELLO = 1
    OPEN = 2
    STATUS = 3
    DATA = 4
    RATE = 5
    CLOSE = 6


@dataclass(frozen=True, slots=True)
class HostFrame:
    """A frame from the host."""

    kind: Kind
    session: int
    seq: int = 0
    ack: int = 0
    tag: int = 1
    payload: bytes = b""
    first: bool = False
    last: bool = False
    asks: bool = False

    def encode(self) -> bytes:
        """The bytes on the wire."""
        control = _control(self.kind, self.first, self.last, self.asks)
        header = bytes([control, self.session, self.seq, self.ack, self.tag])
        return encode_frame(header + self.payload)


@dataclass(frozen=True, slots=True)
class BoardFrame:
    """A frame from the board."""

    kind: Kind
    session: int
    seq: int = 0
    ack: int = 0
    seen: int = 0
    credit: int = 0
    payload: bytes = b""
    first: bool = False
    last: bool = False
    asks: bool = False

    def encode(self) -> bytes:
        """The bytes on the wire."""
        control = _control(self.kind, self.first, self.last, self.asks) | _FROM_BOARD
        header = bytes([control, self.session, self.seq, self.ack, self.seen, self.credit])
        return encode_frame(header + self.payload)


@dataclass(frozen=True, slots=True)
class Hello:
    """What a board says of its end of the link."""

    version: int
    boot: int
    window_bytes: int
    """What its receive buffer holds."""
    max_message_bytes: int
    schema: bytes
    """Four bytes that name the board messages it was built with."""
    rates: int
    """Bit r - 1: it can do rate r."""
    cause: int = 0
    """A `ResetCause`."""
    bad: int = 0
    """Frames that it threw away since it started, at most 65535."""

    def encode(self) -> bytes:
        """The payload of HELLO."""
        return b"".join(
            (
                bytes([self.version]),
                self.boot.to_bytes(4, "little"),
                bytes([self.window_bytes]),
                self.max_message_bytes.to_bytes(2, "little"),
                self.schema,
                bytes([self.rates, self.cause]),
                self.bad.to_bytes(2, "little"),
            )
        )

    def supports(self, rate: int) -> bool:
        """Whether the board can do this rate, from 1 on; rate 0 is common to all."""
        return bool(self.rates >> (rate - 1) & 1)


HELLO_BYTES = 16


def parse_hello(payload: bytes) -> Hello:
    """The payload of a board's HELLO, whatever version it names.

    Raises:
        WireError: another length, or boot 0. A window that is too small is the caller's to refuse.
    """
    if len(payload) != HELLO_BYTES:
        raise WireError(f"HELLO of {len(payload)} bytes, {HELLO_BYTES} are right")
    hello = Hello(
        version=payload[0],
        boot=int.from_bytes(payload[1:5], "little"),
        window_bytes=payload[5],
        max_message_bytes=int.from_bytes(payload[6:8], "little"),
        schema=payload[8:12],
        rates=payload[12],
        cause=payload[13],
        bad=int.from_bytes(payload[14:16], "little"),
    )
    if hello.boot == 0:
        raise WireError("HELLO with boot 0")
    return hello


@dataclass(frozen=True, slots=True)
class Open:
    """The payload of OPEN."""

    boot: int
    nonce: int
    version: int = LINK_VERSION

    def encode(self) -> bytes:
        """The payload of OPEN."""
        boot = self.boot.to_bytes(4, "little")
        return bytes([self.version]) + boot + self.nonce.to_bytes(4, "little")


OPEN_BYTES = 9


def parse_open(payload: bytes) -> Open:
    """The payload of OPEN, of the length that `parse_host_frame` has checked."""
    return Open(
        version=payload[0],
        boot=int.from_bytes(payload[1:5], "little"),
        nonce=int.from_bytes(payload[5:9], "little"),
    )


def hello_problem(hello: Hello, schema: bytes) -> str:
    """Why a host that speaks `schema` cannot work with this board; "" if it can."""
    if hello.version != LINK_VERSION:
        return (
            f"it speaks version {hello.version} of the serial link, this program version "
            f"{LINK_VERSION}: flash the board again with `maille flash`, or update Maille"
        )
    if hello.schema != schema:
        return (
            f"its firmware was built for board messages {hello.schema.hex()}, this program speaks "
            f"{schema.hex()}: flash the board again with `maille flash`, or update Maille"
        )
    if hello.window_bytes < MIN_WINDOW_BYTES:
        return (
            f"it says that its receive buffer holds {hello.window_bytes} bytes, "
            f"{MIN_WINDOW_BYTES} are the least: correct the window in the sketch"
        )
    if hello.max_message_bytes < MIN_WINDOW_BYTES:
        return (
            f"it says that it takes messages of {hello.max_message_bytes} bytes, "
            f"{MIN_WINDOW_BYTES} are the least: correct the message buffer in the sketch"
        )
    return ""


def parse_host_frame(body: bytes) -> HostFrame:
    """A frame's body as a board reads it.

    Raises:
        WireError: not a frame from a host, or its payload does not belong to its kind.
    """
    control, payload = _header(body, HOST_HEADER_BYTES, from_board=False)
    kind = Kind(control & _KIND)
    sizes = {Kind.OPEN: (OPEN_BYTES, OPEN_BYTES), Kind.DATA: (1, 255), Kind.RATE: (1, 1)}
    _check_size(payload, sizes.get(kind, (0, 0)), kind)
    session, tag = body[1], body[4]
    if tag == 0 or (session == 0) != (kind is Kind.HELLO):
        raise WireError("no tag, or a session where none belongs")
    if kind is Kind.RATE and payload[0] >= len(BAUDS):
        raise WireError(f"rate {payload[0]}")
    return HostFrame(
        kind,
        session,
        seq=body[2],
        ack=body[3],
        tag=tag,
        payload=payload,
        first=bool(control & _FIRST),
        last=bool(control & _LAST),
        asks=bool(control & _ASKS),
    )


def parse_board_frame(body: bytes) -> BoardFrame:
    """A frame's body as a host reads it.

    Raises:
        WireError: not a frame from a board (an echo, a modem, noise), or a payload that does not
            belong to its kind.
    """
    control, payload = _header(body, BOARD_HEADER_BYTES, from_board=True)
    kind = Kind(control & _KIND)
    sizes = {Kind.HELLO: (HELLO_BYTES, HELLO_BYTES), Kind.DATA: (1, 255), Kind.RATE: (2, 2)}
    if kind in {Kind.OPEN, Kind.CLOSE}:
        raise WireError(f"{kind.name} from a board")
    _check_size(payload, sizes.get(kind, (0, 0)), kind)
    session = body[1]
    if (session == 0) != (kind is Kind.HELLO):
        raise WireError("a session where none belongs, or none")
    if kind is Kind.RATE and (payload[0] >= len(BAUDS) or payload[1] > 1):
        raise WireError("RATE that says nothing")
    if kind is Kind.HELLO:
        parse_hello(payload)
    return BoardFrame(
        kind,
        session,
        seq=body[2],
        ack=body[3],
        seen=body[4],
        credit=body[5],
        payload=payload,
        first=bool(control & _FIRST),
        last=bool(control & _LAST),
        asks=bool(control & _ASKS),
    )


def _control(kind: Kind, first: bool, last: bool, asks: bool) -> int:
    return int(kind) | first * _FIRST | last * _LAST | asks * _ASKS


def _header(body: bytes, header_bytes: int, *, from_board: bool) -> tuple[int, bytes]:
    if len(body) < header_bytes:
        raise WireError(f"{len(body)} bytes are no header")
    control = body[0]
    if bool(control & _FROM_BOARD) is not from_board:
        raise WireError("a frame of this side: the line echoes")
    kind = control & _KIND
    if control & _RESERVED or kind not in {*Kind}:
        raise WireError(f"control byte {control:#04x}")
    if control & (_FIRST | _LAST) and kind != Kind.DATA:
        raise WireError("FIRST or LAST where no segment is")
    return control, body[header_bytes:]


def _check_size(payload: bytes, sizes: tuple[int, int], kind: Kind) -> None:
    if not sizes[0] <= len(payload) <= sizes[1]:
        raise WireError(f"{kind.name} with {len(payload)} bytes of payload")
