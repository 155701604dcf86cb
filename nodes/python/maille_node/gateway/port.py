"""One serial port with whatever hangs on it: finds a board, keeps the link, resets what is stuck."""

import asyncio
import logging
import secrets
import time
from typing import Protocol

from maille_node.gateway.events import Portrait
from maille_node.gateway.line import Line
from maille_protocol import UsageError, WireError
from maille_protocol.serial import HostLink, Phase
from maille_protocol.serial import events as link
from maille_protocol.serial.limits import BAUDS
from maille_protocol.serial.messages import (
    SCHEMA,
    FromBoard,
    Info,
    ModelRecord,
    Report,
    SensorRecord,
    ToBoard,
    decode_from_board,
    encode_board_message,
)

logger = logging.getLogger(__name__)

FIRST_HELLO_S = 4.0
"""A bootloader may take two seconds before the board's own program starts."""

BOARD_LOST_S = 2.5
RESET_AFTER_S = 1.0
RESET_EVERY_S = 4.0
RESETS_OF_A_STRANGER = 2
_SUPERVISE_S = 0.25
_PORTRAIT_S = 2.0
_MAX_WAITING = 64
_SHOWN_BYTES = 32


class Owner(Protocol):
    """Who is told what happens on a port."""

    def line_up(self, port: "Port", portrait: Portrait) -> None:
        """A board is there and has said what it is."""

    def line_down(self, port: "Port") -> None:
        """The session is over; the board may be back in a moment."""

    def board_said(self, port: "Port", message: FromBoard) -> None:
        """A message of the board."""

    def board_lost(self, port: "Port", reason: str) -> None:
        """The board did not come back."""

    def port_ended(self, port: "Port", reason: str, *, stranger: bool) -> None:
        """The port is closed: it is gone, or what hangs on it is no board of this mesh."""


class Port:
    """Runs from its making until `close` or until it tells `port_ended`."""

    def __init__(self, line: Line, owner: Owner, *, highest_baud: int) -> None:
        """Begin to look for a board on an open line; call it in the event loop."""
        self.path = line.path
        self.link = HostLink(
            SCHEMA, lambda: secrets.randbits(32), highest_rate=BAUDS.index(highest_baud)
        )
        self.problem = ""
        """Why what hangs here cannot be used; "" if that is not so."""
        self.bad_messages = 0
        self.dropped_messages = 0
        self.resets = 0
        """Times that the board was reset by its DTR line."""
        self._line = line
        self._owner = owner
        self._portrait: Portrait | None = None
        self._announced = False
        self._timer: asyncio.TimerHandle | None = None
        self._asked_at_s = 0.0
        self._alone_since_s = time.monotonic()
        self._next_reset_s = self._alone_since_s + FIRST_HELLO_S
        self._known = False
        self._lost_told = False
        self._last_token = 0
        self._heard = bytearray()
        self._closed = False
        line.start(self._received, self._gone)
        self._handle(link.PortOpened())
        self._supervisor = asyncio.get_running_loop().create_task(self._supervise())

    @property
    def is_open(self) -> bool:
        """Whether a session with a board is open."""
        return self.link.phase is Phase.OPEN

    def tell(self, message: ToBoard) -> None:
        """Send a message to the board; one that cannot go now is dropped and counted."""
        if not self.is_open or self.link.waiting_messages >= _MAX_WAITING:
            self.dropped_messages += 1
            return
        self._last_token += 1
        try:
            self._handle(link.Send(self._last_token, encode_board_message(message)))
        except UsageError as error:
            self.dropped_messages += 1
            logger.warning("%s: %s: %s", self.path, type(message).__name__, error)

    def close(self) -> None:
        """End the session in order and give the port back."""
        if self._closed:
            return
        self._handle(link.Leave())
        self._close()

    # --- the line --------------------------------------------------------------------------------

    def _received(self, data: bytes) -> None:
        if self.link.phase is Phase.SEEKING and len(self._heard) < _SHOWN_BYTES:
            self._heard += data[:_SHOWN_BYTES]
        self._handle(link.BytesReceived(data))

    def _gone(self, reason: str) -> None:
        self._end(f"{self.path} is gone ({reason}): plug the board in again", stranger=False)

    def _handle(self, event: link.Event) -> None:
        if self._closed:
            return
        for action in self.link.handle(event, time.monotonic() * 1000):
            self._carry_out(action)

    def _carry_out(self, action: link.Action) -> None:
        match action:
            case link.Write(data):
                self._line.write(data)
            case link.SetRate(rate):
                self._line.set_rate(rate)
            case link.WakeAt(time_ms):
                self._wake_at(time_ms / 1000)
            case link.Received(message):
                self._message(message)
            case link.Opened():
                self._known, self._lost_told, self.problem = True, False, ""
                self._portrait, self._announced = None, False
                self._asked_at_s = time.monotonic()
            case link.Closed(reason):
                logger.info("%s: the session ended: %s", self.path, reason.value)
                self._alone_since_s = time.monotonic()
                self._next_reset_s = self._alone_since_s + RESET_AFTER_S
                if self._announced:
                    self._announced = False
                    self._owner.line_down(self)
            case link.Unfit(_, reason):
                self._known, self.problem = True, reason
                logger.error("the board on %s cannot join: %s", self.path, reason)
            case link.Note(text):
                logger.warning("%s: %s", self.path, text)
            case link.Delivered() | link.Lost():
                pass

    def _wake_at(self, time_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_s = max(0.0, time_s - time.monotonic()) + 0.0002
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._handle, link.Tick())

    # --- messages --------------------------------------------------------------------------------

    def _message(self, data: bytes) -> None:
        try:
            message = decode_from_board(data)
        except WireError as error:
            self.bad_messages += 1
            logger.warning("%s: dropped a message of the board: %s", self.path, error)
            return
        if self._announced:
            self._owner.board_said(self, message)
            return
        match message, self._portrait:
            case Info() as info, _ if self.link.hello is not None:
                self._portrait = Portrait(self.link.hello, info)
            case SensorRecord(sensor) as record, Portrait() as portrait:
                portrait.sensors[sensor] = record
            case ModelRecord(slot) as record, Portrait() as portrait:
                portrait.models[slot] = record
            case _:
                return
        if self._portrait is not None and self._portrait.complete:
            self._announced = True
            self._owner.line_up(self, self._portrait)

    # --- patience --------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        while not self._closed:
            await asyncio.sleep(_SUPERVISE_S)
            now_s = time.monotonic()
            if self.is_open:
                if not self._announced and now_s >= self._asked_at_s + _PORTRAIT_S:
                    self._asked_at_s = now_s
                    self.tell(Report())
            elif not self.problem:
                await self._board_is_missing(now_s)

    async def _board_is_missing(self, now_s: float) -> None:
        alone_s = now_s - self._alone_since_s
        if self._known and not self._lost_told and alone_s >= BOARD_LOST_S:
            self._lost_told = True
            reason = f"the board on {self.path} does not answer any more"
            self._owner.board_lost(self, reason)
        if now_s < self._next_reset_s or self.link.phase is not Phase.SEEKING:
            return
        if not self._known and self.resets >= RESETS_OF_A_STRANGER:
            self._end(self._stranger_text(), stranger=True)
            return
        self._next_reset_s = now_s + RESET_EVERY_S
        self.resets += 1
        logger.info("%s: resetting the board by DTR", self.path)
        if not await self._line.reset():
            logger.debug("%s has no DTR line", self.path)

    def _stranger_text(self) -> str:
        heard = bytes(self._heard[:_SHOWN_BYTES])
        said = f"it said {heard!r}" if heard else "it said nothing"
        return (
            f"what hangs on {self.path} is no board of a mesh ({said}): flash it with "
            "`maille flash`, or name the ports of the boards with --port"
        )

    def _end(self, reason: str, *, stranger: bool) -> None:
        if self._closed:
            return
        announced = self._announced
        self._close()
        if announced:
            self._owner.line_down(self)
        self._owner.port_ended(self, reason, stranger=stranger)

    def _close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._supervisor.cancel()
        self._line.close()
