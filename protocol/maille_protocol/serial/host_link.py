"""The gateway's end of the serial link: decides what to write, delivers what arrived, and when.

Phases: DOWN, until the port is opened; SEEKING, until a HELLO comes; OPENING, until OPEN is answered;
OPEN. A HELLO leads back to OPENING; silence, disorder and a changed speed to SEEKING.
"""

from collections.abc import Callable
from enum import Enum, auto
from math import inf

from maille_protocol.errors import UsageError, WireError
from maille_protocol.serial import events
from maille_protocol.serial.counters import Counters
from maille_protocol.serial.events import Action, CloseReason, Event
from maille_protocol.serial.flight import Flight
from maille_protocol.serial.frames import (
    BoardFrame,
    Hello,
    HostFrame,
    Kind,
    Open,
    hello_problem,
    parse_board_frame,
    parse_hello,
)
from maille_protocol.serial.framing import Damaged, FrameReader
from maille_protocol.serial.limits import (
    BAUDS,
    BOARD_BUSY_MS,
    BOARD_SILENT_MS,
    CRC_BYTES,
    FRAMING_BYTES,
    HOST_HEADER_BYTES,
    HOST_HELLO_MS,
    HOST_STATUS_MS,
    MAX_FRAME_BYTES,
    MIN_WINDOW_BYTES,
    OPEN_REPEAT_MS,
    RATE_GARBAGE_BYTES,
    RATE_GARBAGE_MS,
    STATUS_FRAME_BYTES,
)
from maille_protocol.serial.rate import RateTalk, Step
from maille_protocol.serial.rate_trust import RateTrust
from maille_protocol.serial.segments import Receiver, Sender

_OVERHEAD_BYTES = HOST_HEADER_BYTES + CRC_BYTES + FRAMING_BYTES
_OPENING_MS = 1000
_NO_HELLO = Hello(0, 0, MIN_WINDOW_BYTES, MIN_WINDOW_BYTES, b"", 0)
_FIRST_PROBE_MS = (20.0, 200.0)
_NAK_SPACING_MS = 15
_LOSSES_BEFORE_SHRINKING = 4
_FRUITLESS_SESSIONS = 2


class Phase(Enum):
    """Where the link stands."""

    DOWN = auto()
    SEEKING = auto()
    OPENING = auto()
    OPEN = auto()


class HostLink:
    """One board's link. See `events` for what goes in and out."""

    def __init__(
        self, schema: bytes, random32: Callable[[], int], *, highest_rate: int = len(BAUDS) - 1
    ) -> None:
        """Make the link.

        Args:
            schema: of the board messages that this program speaks, 4 bytes.
            random32: gives 32 random bits.
            highest_rate: what to go up to where board and line allow it.
        """
        self.phase = Phase.DOWN
        self.counters = Counters()
        self.rate = 0
        self.round_trip_ms = 0.0
        """Smoothed; 0: not measured yet."""
        self.window_bytes = MIN_WINDOW_BYTES
        self._found_out: tuple[int, int] = (0, 0)
        """Boot and window of a board that holds less than it says: a new session must not forget it."""
        self._fruitless_sessions = 0
        """With this board, one after the other: it left each while nothing of ours arrived."""
        self._schema = schema
        self._random32 = random32
        self._hello = _NO_HELLO
        self._session = random32() % 255
        self._nonce = 0
        self._tag = 0
        self._credit = MIN_WINDOW_BYTES
        self._flight = Flight()
        self._reader = FrameReader()
        self._sender = Sender()
        self._receiver = Receiver()
        self._rate_talk = RateTalk()
        self._trust = RateTrust(highest_rate)
        self._unfit_boot = 0
        self._actions: list[Action] = []
        self._last_heard_ms = 0.0
        self._last_sent_ms = 0.0
        self._garbage_bytes = 0
        self._trouble = True
        self._ack_wanted = False
        self._nak_wanted = False
        self._nak_at_ms = 0.0
        self._seek_at_ms = inf
        self._opening_until_ms = 0.0
        self._probe_at_ms: float | None = None
        self._probe_wait_ms = _FIRST_PROBE_MS[1]
        self._timed_tag = 0
        self._timed_ms = 0.0

    @property
    def hello(self) -> Hello | None:
        """Of the board that is there, or was last."""
        return None if self._hello is _NO_HELLO else self._hello

    @property
    def credit_bytes(self) -> int:
        """What the board offered last; 0: it is busy."""
        return self._credit

    @property
    def in_flight_bytes(self) -> int:
        """What may be in the board's receive buffer or on its way there."""
        return self._flight.size_bytes

    @property
    def waiting_messages(self) -> int:
        """Messages that are not acknowledged yet."""
        return self._sender.waiting + sum(segment.last for segment in self._sender.under_way)

    def handle(self, event: Event, now_ms: float) -> list[Action]:
        """What to do because of `event`.

        Raises:
            UsageError: a message that this board cannot take, or an event of the other end.
        """
        self._actions = []
        match event:
            case events.BytesReceived(data):
                self._bytes(data, now_ms)
            case events.Send(token, message):
                self._send(token, message)
            case events.PortOpened(empty):
                self._port_opened(now_ms, empty=empty)
            case events.Leave():
                self._leave_session(CloseReason.HOST_LEFT, now_ms)
                self.phase = Phase.DOWN
            case events.Tick():
                pass
            case events.SetBusy():
                raise UsageError("only a board is busy")
        self._expire(now_ms)
        self._pump(now_ms)
        wake = self._wake_ms(now_ms)
        if wake is not None:
            self._actions.append(events.WakeAt(wake))
        return self._actions

    # --- events ----------------------------------------------------------------------------------

    def _port_opened(self, now_ms: float, *, empty: bool) -> None:
        self._end(CloseReason.PORT, now_ms)
        self.rate = 0
        self._reader.clear()
        self._unfit_boot = 0
        if empty:
            self._flight.clear()
        self.phase = Phase.SEEKING
        self._seek_at_ms = now_ms

    def _send(self, token: int, message: bytes) -> None:
        if self.phase is not Phase.OPEN:
            self._actions.append(events.Lost(token, never_sent=True))
            self.counters.messages_lost += 1
            return
        if len(message) > self._hello.max_message_bytes:
            raise UsageError(
                f"a message of {len(message)} bytes, this board takes "
                f"{self._hello.max_message_bytes}"
            )
        self._sender.push(token, message)

    def _leave_session(self, reason: CloseReason, now_ms: float) -> None:
        if self.phase is Phase.OPEN and self._room(STATUS_FRAME_BYTES):
            self._write(Kind.CLOSE, now_ms)
        self._end(reason, now_ms)

    def _bytes(self, data: bytes, now_ms: float) -> None:
        self.counters.received_bytes += len(data)
        for item in self._reader.feed(data):
            if isinstance(item, Damaged):
                self._bad(item.size_bytes)
                continue
            try:
                frame = parse_board_frame(item)
            except WireError:
                self._bad(len(item))
                continue
            self._frame(frame, now_ms)

    def _bad(self, size_bytes: int) -> None:
        self.counters.bad_frames += 1
        self.counters.bad_bytes += size_bytes
        self._garbage_bytes += size_bytes
        self._nak_wanted = self._trouble = True
        self._trust.bad_frame()

    def _frame(self, frame: BoardFrame, now_ms: float) -> None:
        own = self.phase in {Phase.OPENING, Phase.OPEN} and frame.session == self._session
        if own and not self._sender.acknowledges(frame.ack):
            self._bad(STATUS_FRAME_BYTES)
            return
        self.counters.good_frames += 1
        self._evidence(frame, now_ms)
        if frame.kind is Kind.HELLO:
            self._heard_hello(parse_hello(frame.payload), now_ms)
        elif own:
            self._last_heard_ms, self._garbage_bytes = now_ms, 0
            self._trust.good_frame()
            if self.phase is Phase.OPENING:
                self._opened(now_ms)
            self._own_frame(frame, now_ms)

    def _evidence(self, frame: BoardFrame, now_ms: float) -> None:
        self._flight.seen(frame.seen)
        self._credit = frame.credit
        if frame.credit:
            self._flight.heard(now_ms)
        if frame.seen and frame.seen == self._timed_tag:
            sample = now_ms - self._timed_ms
            old = self.round_trip_ms
            self.round_trip_ms = sample if old == 0 else old + (sample - old) / 8
        if self._timed_tag and not self._flight.holds(self._timed_tag):
            self._timed_tag = 0

    def _heard_hello(self, hello: Hello, now_ms: float) -> None:
        if self.phase is Phase.DOWN:
            return
        known = self._hello.boot == hello.boot
        if not known and self._hello is not _NO_HELLO:
            self.counters.resets_of_board += 1
            self._trust.board_was_reset()
        if self.phase is Phase.OPEN:
            self._end(CloseReason.BOARD_LEFT if known else CloseReason.BOARD_RESET, now_ms)
        elif self.phase is Phase.OPENING and known:
            if self._flight.size_bytes == 0:
                # OPEN has left, and this is no answer to it: it was lost.
                self._seek_at_ms = now_ms
            return
        self._greet(hello, now_ms)

    def _greet(self, hello: Hello, now_ms: float) -> None:
        self._hello = hello
        problem = hello_problem(hello, self._schema)
        if problem:
            self.phase, self._seek_at_ms = Phase.SEEKING, inf
            if hello.boot != self._unfit_boot:
                self._unfit_boot = hello.boot
                self._actions.append(events.Unfit(hello, problem))
            return
        self._unfit_boot = 0
        boot, window_bytes = self._found_out
        self.window_bytes = window_bytes if boot == hello.boot else hello.window_bytes
        self._session = self._session % 255 + 1
        self._nonce = self._random32()
        # Before OPEN is answered too, no frame may carry a number of the session before.
        self._sender.abandon()
        self._receiver.clear()
        self.phase = Phase.OPENING
        self._seek_at_ms = now_ms
        self._opening_until_ms = now_ms + _OPENING_MS

    def _opened(self, now_ms: float) -> None:
        self.phase = Phase.OPEN
        self.counters.sessions += 1
        self._ack_wanted = self._nak_wanted = False
        self._probe_at_ms = None
        self._probe_wait_ms = self._first_probe_ms()
        self._trust.opened()
        self._actions.append(events.Opened(self._session, self._hello))
        self._rate_talk.start(self._hello, self.rate, self._trust.highest, now_ms)

    def _own_frame(self, frame: BoardFrame, now_ms: float) -> None:
        self._rate_talk.heard()
        self._acknowledged(frame.ack, now_ms)
        if frame.asks and self._sender.under_way and self._probe_at_ms is not None:
            self._probe_at_ms = min(self._probe_at_ms, now_ms)
        base = self._sender.under_way[0] if self._sender.under_way else None
        if base is not None and base.tag and not self._flight.holds(base.tag):
            self._lost_on_the_way(now_ms)
        if frame.kind is Kind.RATE:
            rate, agreed = frame.payload
            if self._rate_talk.answered(rate, agreed == 1, now_ms):
                self._set_rate(rate)
        elif frame.kind is Kind.DATA:
            self._ack_wanted = True
            try:
                message = self._receiver.take(
                    frame.seq, frame.payload, first=frame.first, last=frame.last
                )
            except WireError:
                self._leave_session(CloseReason.DISORDER, now_ms)
                return
            if message is not None:
                self.counters.messages_received += 1
                self._actions.append(events.Received(message))

    def _acknowledged(self, ack: int, now_ms: float) -> None:
        before = len(self._sender.under_way)
        for token in self._sender.acknowledge(ack):
            self.counters.messages_sent += 1
            self._actions.append(events.Delivered(token))
        if len(self._sender.under_way) < before:
            self._fruitless_sessions = 0
            self._probe_wait_ms = self._first_probe_ms()
            self._probe_at_ms = now_ms + self._probe_wait_ms if self._sender.under_way else None

    def _lost_on_the_way(self, now_ms: float) -> None:
        base = self._sender.under_way[0]
        base.losses += 1
        self._trust.frame_lost()
        self._trouble = True
        if base.losses >= _LOSSES_BEFORE_SHRINKING and self._flight.size_bytes == 0:
            self._shrink_window()
        self._sender.rewind()
        self._probe_at_ms = now_ms + self._probe_wait_ms

    def _shrink_window(self) -> None:
        smaller = max(MIN_WINDOW_BYTES, self.window_bytes // 2)
        if smaller < self.window_bytes:
            self._actions.append(
                events.Note(
                    f"frames do not arrive although the board tells of a receive buffer of "
                    f"{self._hello.window_bytes} bytes: going on as if it held {smaller}. If this happens "
                    f"often, correct the window in the sketch or use a shorter cable"
                )
            )
            self.window_bytes = smaller
            self._found_out = (self._hello.boot, smaller)
            self._sender.recut(self._payload_limit())

    # --- time ------------------------------------------------------------------------------------

    def _expire(self, now_ms: float) -> None:
        if self.phase is Phase.OPENING and now_ms >= self._opening_until_ms:
            self._seek(now_ms)
        if self.phase is not Phase.OPEN or self._rate_unsure:
            return
        if now_ms >= self._last_heard_ms + self._patience_ms():
            self._trust.blame(self.rate)
            self._end(CloseReason.SILENCE, now_ms)
        elif self._speed_changed() and now_ms >= self._last_heard_ms + RATE_GARBAGE_MS:
            self._trust.blame(self.rate)
            self._end(CloseReason.SPEED, now_ms)

    @property
    def _rate_unsure(self) -> bool:
        """Whether silence and garbage are what an attempt at another speed brings with it."""
        return self._rate_talk.trying or (self._rate_talk.asking and self.rate == 0)

    def _patience_ms(self) -> float:
        return BOARD_SILENT_MS if self._credit else BOARD_BUSY_MS

    def _speed_changed(self) -> bool:
        # A frame may be on its way after a silence: only more than a frame without an end is garbage.
        endless = self._reader.pending_bytes > MAX_FRAME_BYTES
        garbage = self._garbage_bytes + (self._reader.pending_bytes if endless else 0)
        return self.rate != 0 and garbage >= RATE_GARBAGE_BYTES

    def _end(self, reason: CloseReason, now_ms: float) -> None:
        if self.phase is Phase.OPEN:
            self._look_back(reason)
            lost = self._sender.abandon()
            self.counters.messages_lost += len(lost)
            self._actions += lost
            self._actions.append(events.Closed(reason))
            self._rate_talk.stop()
            if self.rate != 0:
                self._set_rate(0)
        self._seek(now_ms)

    def _look_back(self, reason: CloseReason) -> None:
        """A receive buffer too small for our frames can look to the board like another speed."""
        if reason is CloseReason.BOARD_LEFT and self._sender.under_way:
            self._fruitless_sessions += 1
            if self._fruitless_sessions >= _FRUITLESS_SESSIONS:
                self._fruitless_sessions = 0
                self._shrink_window()

    def _seek(self, now_ms: float) -> None:
        self.phase = Phase.SEEKING
        self.window_bytes = MIN_WINDOW_BYTES
        # What was said before may have been said by a board that is there no more.
        self._credit = MIN_WINDOW_BYTES
        self._seek_at_ms = now_ms
        self._probe_at_ms = None
        self._trouble = True

    def _set_rate(self, rate: int) -> None:
        self.rate = rate
        self._reader.clear()
        self._garbage_bytes = 0
        self._actions.append(events.SetRate(rate))

    def _wake_ms(self, now_ms: float) -> float | None:
        times: list[float] = []
        if self.phase is Phase.OPEN and not self._rate_unsure:
            times.append(self._last_heard_ms + self._patience_ms())
            if self._speed_changed():
                times.append(self._last_heard_ms + RATE_GARBAGE_MS)
        if self.phase is Phase.OPEN and not self._rate_talk.active:
            if self._room(STATUS_FRAME_BYTES):
                times.append(self._last_sent_ms + HOST_STATUS_MS)
                if self._probe_at_ms is not None:
                    times.append(self._probe_at_ms)
                if self._nak_wanted:
                    times.append(self._nak_at_ms)
        elif self.phase is Phase.OPEN:
            talk = self._rate_talk.wake_ms()
            if talk is not None:
                times.append(talk)
        elif self.phase in {Phase.SEEKING, Phase.OPENING}:
            if self.phase is Phase.OPENING:
                times.append(self._opening_until_ms)
            if now_ms < self._seek_at_ms < inf:
                times.append(self._seek_at_ms)
        return min(times) if times else None

    # --- writing ---------------------------------------------------------------------------------

    def _pump(self, now_ms: float) -> None:
        match self.phase:
            case Phase.SEEKING:
                self._pump_seeking(now_ms)
            case Phase.OPENING:
                self._pump_opening(now_ms)
            case Phase.OPEN:
                self._pump_open(now_ms)
            case Phase.DOWN:
                pass

    def _pump_seeking(self, now_ms: float) -> None:
        if now_ms >= self._seek_at_ms:
            if self._room(STATUS_FRAME_BYTES):
                self._write(Kind.HELLO, now_ms)
            self._seek_at_ms = now_ms + HOST_HELLO_MS

    def _pump_opening(self, now_ms: float) -> None:
        if now_ms >= self._seek_at_ms:
            payload = Open(self._hello.boot, self._nonce).encode()
            if self._room(_OVERHEAD_BYTES + len(payload)):
                self._write(Kind.OPEN, now_ms, payload)
            elif self._room(STATUS_FRAME_BYTES):
                # The answer, STATUS or HELLO, says whether OPEN has arrived or can be said again.
                self._write(Kind.STATUS, now_ms, asks=True)
            self._seek_at_ms = now_ms + OPEN_REPEAT_MS

    def _pump_open(self, now_ms: float) -> None:
        self._pump_rate(now_ms)
        if self._rate_talk.active or self.phase is not Phase.OPEN:
            return
        self._pump_data(now_ms)
        if self._trust.lower_wanted and not self._sender.under_way:
            self._trust.lower(self.rate)
            self._rate_talk.start(self._hello, self.rate, self._trust.highest, now_ms)
            self._pump_rate(now_ms)
            return
        problem = self._trust.problem(self.rate)
        if problem:
            self._actions.append(events.Note(problem))
        if not self._room(STATUS_FRAME_BYTES):
            return
        if self._probe_at_ms is not None and now_ms >= self._probe_at_ms and self._credit:
            self._probe_wait_ms = min(2 * self._probe_wait_ms, _FIRST_PROBE_MS[1])
            self._probe_at_ms = now_ms + self._probe_wait_ms
            self._write(Kind.STATUS, now_ms, asks=True)
        elif self._nak_wanted and now_ms >= self._nak_at_ms:
            self._nak_at_ms = now_ms + _NAK_SPACING_MS
            self._write(Kind.STATUS, now_ms, asks=True)
        elif self._ack_wanted:
            # Asked, because the board's answer empties the count of bytes in flight: without it a
            # small window has no room for the next DATA until the board speaks by itself.
            self._write(Kind.STATUS, now_ms, asks=True)
        elif now_ms >= self._last_sent_ms + HOST_STATUS_MS:
            self._write(Kind.STATUS, now_ms, asks=True)

    def _pump_rate(self, now_ms: float) -> None:
        while (step := self._rate_talk.step(now_ms)) is not Step.NOTHING:
            if step is Step.GO_BACK:
                self._set_rate(0)
                self._last_heard_ms = now_ms
            elif step is Step.ASK and self._room(_OVERHEAD_BYTES + 1):
                self._write(Kind.RATE, now_ms, bytes([self._rate_talk.rate]))
            elif step is Step.PROBE and self._room(STATUS_FRAME_BYTES):
                self._write(Kind.STATUS, now_ms, asks=True)
            if not self._rate_talk.active:
                self._last_heard_ms = now_ms

    def _pump_data(self, now_ms: float) -> None:
        while (size := self._sender.peek(self._payload_limit())) is not None:
            if self._trust.lower_wanted and not self._sender.repeating:
                return
            if not self._room(_OVERHEAD_BYTES + size + STATUS_FRAME_BYTES):
                return
            segment = self._sender.take(self._payload_limit())
            if segment.tag:
                self.counters.repeated_frames += 1
            self._write(
                Kind.DATA,
                now_ms,
                segment.payload,
                seq=segment.seq,
                first=segment.first,
                last=segment.last,
            )
            segment.tag, segment.sent_ms = self._tag, now_ms
            if self._probe_at_ms is None:
                self._probe_at_ms = now_ms + self._probe_wait_ms

    def _payload_limit(self) -> int:
        frame_bytes = min(MAX_FRAME_BYTES, self.window_bytes - STATUS_FRAME_BYTES)
        return frame_bytes - _OVERHEAD_BYTES

    def _first_probe_ms(self) -> float:
        low, high = _FIRST_PROBE_MS
        if self.round_trip_ms == 0:
            return high
        return min(high, max(low, 2 * self.round_trip_ms + 10))

    def _room(self, size_bytes: int) -> bool:
        return size_bytes + self._flight.size_bytes <= min(self.window_bytes, self._credit)

    def _write(
        self,
        kind: Kind,
        now_ms: float,
        payload: bytes = b"",
        *,
        seq: int | None = None,
        first: bool = False,
        last: bool = False,
        asks: bool = False,
    ) -> None:
        self._tag = self._tag % 255 + 1
        frame = HostFrame(
            kind,
            0 if kind is Kind.HELLO else self._session,
            seq=self._sender.next_seq if seq is None else seq,
            ack=self._receiver.expected,
            tag=self._tag,
            payload=payload,
            first=first,
            last=last,
            asks=asks,
        )
        wire = frame.encode()
        if self._trouble and self._room(len(wire) + 1):
            wire = b"\0" + wire
            self._trouble = False
        self._flight.wrote(self._tag, len(wire), self.rate, now_ms)
        self._actions.append(events.Write(wire))
        self._last_sent_ms = now_ms
        self._ack_wanted = False
        if asks:
            self._nak_wanted = False
        if self._timed_tag == 0 and (asks or kind is Kind.DATA):
            self._timed_tag, self._timed_ms = self._tag, now_ms
        self.counters.sent_frames += 1
        self.counters.sent_bytes += len(wire)
