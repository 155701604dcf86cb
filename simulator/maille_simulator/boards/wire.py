"""The gateway's link at the other end of a simulated board's wire, all of it in board time."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from maille_protocol.serial import events
from maille_protocol.serial.host_link import HostLink
from maille_protocol.serial.limits import BAUDS
from maille_protocol.serial.messages import (
    SCHEMA,
    BoardMessage,
    FromBoard,
    decode_from_board,
    encode_board_message,
)
from maille_simulator.boards.avr import AvrBoard

_NEVER_MS = 1e12
Message = TypeVar("Message", bound=FromBoard)


@dataclass(frozen=True, slots=True)
class Heard:
    """A message of the board, and when its last byte was there."""

    time_ms: float
    message: FromBoard


class VirtualHost:
    """Joins a `HostLink` to an `AvrBoard`: what a gateway does, in the board's time.

    Args:
        board: the board; its UART 0 is used.
        schema: of the board messages spoken here.
        highest_rate: what speed to go up to.
        seed: of the link's random numbers.
    """

    def __init__(
        self,
        board: AvrBoard,
        *,
        schema: bytes = SCHEMA,
        highest_rate: int = 2,
        seed: int = 1,
    ) -> None:
        self.board = board
        random = Random(seed)
        self.link = HostLink(schema, lambda: random.getrandbits(32), highest_rate=highest_rate)
        self.heard: list[Heard] = []
        self.log: list[events.Action] = []
        self._wake_ms = _NEVER_MS
        self._token = 0
        self._handle(events.PortOpened())

    @property
    def now_ms(self) -> float:
        """Board time."""
        return self.board.time_us / 1000

    def _handle(self, event: events.Event) -> None:
        now_ms = self.now_ms
        for action in self.link.handle(event, now_ms):
            match action:
                case events.Write(data):
                    self.board.uart_write(data, baud=BAUDS[self.link.rate])
                case events.WakeAt(time_ms):
                    self._wake_ms = time_ms
                case events.Received(message):
                    self.heard.append(Heard(now_ms, decode_from_board(message)))
                case _:
                    self.log.append(action)

    def send(self, message: BoardMessage) -> None:
        """Gives a message to the link."""
        self.send_bytes(encode_board_message(message))

    def send_bytes(self, message: bytes) -> None:
        """The same with bytes that need not be a message."""
        self._token += 1
        self._handle(events.Send(self._token, message))

    def wait_for(self, kind: type[Message], limit_ms: float = 1000.0) -> Message:
        """Runs until a message of that kind comes and takes it, with those before it, from `heard`.

        Raises:
            TimeoutError: none came in so much board time.
        """

        def found() -> bool:
            return any(isinstance(heard.message, kind) for heard in self.heard)

        if not self.run_for_ms(limit_ms, found):
            raise TimeoutError(f"no {kind.__name__} within {limit_ms:g} ms of board time")
        while True:
            message = self.heard.pop(0).message
            if isinstance(message, kind):
                return message

    def run_for_ms(self, time_ms: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Runs board and host; ends early, with True, as soon as `until` holds."""
        end_ms = self.now_ms + time_ms
        while self.now_ms < end_ms:
            if until():
                return True
            next_ms = min(end_ms, max(self._wake_ms, self.now_ms))
            self.board.run_for_us(max((next_ms - self.now_ms) * 1000, 1.0), at_output=True)
            for byte in self.board.uart_events():
                self._handle(
                    events.BytesReceived(_as_heard(byte.value, byte.baud, BAUDS[self.link.rate]))
                )
            if self.now_ms >= self._wake_ms:
                self._wake_ms = _NEVER_MS
                self._handle(events.Tick())
        return until()


def _as_heard(value: int, sent_baud: int, heard_baud: int) -> bytes:
    """The byte, or another one where the speeds differ."""
    if abs(sent_baud - heard_baud) * 20 > heard_baud:
        value = (value << 3 ^ value >> 2 ^ 0xA5) & 0xFF
    return bytes([value])
