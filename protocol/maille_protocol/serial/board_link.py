"""The board's end of the serial link; `nodes/arduino/src/link.cpp` is its twin in C++.

OPEN begins a session; HELLO, CLOSE, silence, a changed speed and disorder end it.
"""

from maille_protocol.errors import UsageError, WireError
from maille_protocol.serial import events
from maille_protocol.serial.events import Action, CloseReason, Event
from maille_protocol.serial.frames import (
    BoardFrame,
    Hello,
    HostFrame,
    Kind,
    parse_host_frame,
    parse_open,
)
from maille_protocol.serial.framing import Damaged, FrameReader
from maille_protocol.serial.limits import (
    BOARD_HEADER_BYTES,
    BOARD_REPEAT_ASKED_MS,
    BOARD_REPEAT_MS,
    BOARD_STATUS_MS,
    CRC_BYTES,
    HELLO_FAST_FOR_MS,
    HELLO_FAST_MS,
    HELLO_SLOW_MS,
    HOST_HEADER_BYTES,
    HOST_SILENT_MS,
    LINK_VERSION,
    MAX_BODY_BYTES,
    MAX_FRAME_BYTES,
    NAK_SPACING_MS,
    RATE_GARBAGE_BYTES,
    RATE_GARBAGE_MS,
    RATE_TRIAL_MS,
)
from maille_protocol.serial.segments import Receiver, Sender

_PAYLOAD_LIMIT = MAX_BODY_BYTES - BOARD_HEADER_BYTES - CRC_BYTES


class BoardLink:
    """The link of one start of a board. See `events` for what goes in and out.

    `PortOpened` is the start. `BytesReceived` must bring everything that the receive buffer holds.
    Between `SetBusy(True)` and `SetBusy(False)` bytes may be left in it, but are to be taken before the
    latter: a credit above 0 says that the buffer is empty.
    """

    def __init__(self, hello: Hello) -> None:
        """`hello` is what the board says of itself; `boot` must be drawn anew for each start."""
        self.hello = hello
        self.session = 0
        """0: none."""
        self.rate = 0
        self.bad = 0
        """Frames thrown away."""
        self._ended_nonce: int | None = None
        self._nonce = 0
        self._seen = 0
        self._busy = False
        self._reader = FrameReader()
        self._sender = Sender(under_way_limit=1)
        self._receiver = Receiver(hello.max_message_bytes)
        self._actions: list[Action] = []
        self._alone_since_ms = 0.0
        self._hello_at_ms = 0.0
        self._last_sent_ms = 0.0
        self._last_heard_ms = 0.0
        self._nak_at_ms = 0.0
        self._nak_wanted = False
        self._reply_wanted = False
        self._garbage_bytes = 0
        self._trial_until_ms: float | None = None

    @property
    def waiting_messages(self) -> int:
        """Messages that are not acknowledged yet."""
        return self._sender.waiting + sum(segment.last for segment in self._sender.under_way)

    def handle(self, event: Event, now_ms: float) -> list[Action]:
        """What to do because of `event`.

        Raises:
            UsageError: a message too long, or an event of the other end.
        """
        self._actions = []
        match event:
            case events.BytesReceived(data):
                self._bytes(data, now_ms)
            case events.Send(token, message):
                self._send(token, message)
            case events.PortOpened():
                self._alone(now_ms)
            case events.SetBusy(busy):
                self._set_busy(busy, now_ms)
            case events.Tick():
                pass
            case events.Leave():
                raise UsageError("only a host leaves")
        self._expire(now_ms)
        self._pump(now_ms)
        self._actions.append(events.WakeAt(self._wake_ms(now_ms)))
        return self._actions

    # --- events ----------------------------------------------------------------------------------

    def _send(self, token: int, message: bytes) -> None:
        if self.session == 0:
            self._actions.append(events.Lost(token, never_sent=True))
        else:
            self._sender.push(token, message)

    def _set_busy(self, busy: bool, now_ms: float) -> None:
        self._busy = busy
        if self.session:
            self._write(Kind.STATUS, now_ms)
            if busy:
                self._write(Kind.STATUS, now_ms)

    def _bytes(self, data: bytes, now_ms: float) -> None:
        for item in self._reader.feed(data):
            if isinstance(item, Damaged):
                self._throw_away(item.size_bytes)
                continue
            try:
                frame = parse_host_frame(item)
            except WireError:
                self._throw_away(len(item))
                continue
            self._frame(frame, now_ms)

    def _throw_away(self, size_bytes: int) -> None:
        self.bad += 1
        self._garbage_bytes += size_bytes
        self._nak_wanted = True

    def _frame(self, frame: HostFrame, now_ms: float) -> None:
        own = self.session != 0 and frame.session == self.session
        if own and frame.kind is not Kind.OPEN and not self._sender.acknowledges(frame.ack):
            self._throw_away(HOST_HEADER_BYTES + len(frame.payload))
            return
        self._seen = frame.tag
        if frame.kind is Kind.HELLO:
            self._end(CloseReason.REPLACED, now_ms)
            self._hello_at_ms = now_ms
        elif frame.kind is Kind.OPEN:
            self._open(frame, now_ms)
        elif self.session == 0:
            self._hello_at_ms = now_ms
        elif own:
            self._last_heard_ms, self._garbage_bytes = now_ms, 0
            self._trial_until_ms = None
            self._own_frame(frame, now_ms)

    def _open(self, frame: HostFrame, now_ms: float) -> None:
        wanted = parse_open(frame.payload)
        if wanted.version != LINK_VERSION or wanted.boot != self.hello.boot:
            self._hello_at_ms = now_ms
        elif self.session == frame.session and self._nonce == wanted.nonce:
            self._last_heard_ms = now_ms
            self._reply_wanted = True
        elif self.session == 0 and wanted.nonce == self._ended_nonce:
            self._hello_at_ms = now_ms
        else:
            self._end(CloseReason.REPLACED, now_ms)
            self.session, self._nonce = frame.session, wanted.nonce
            self._last_heard_ms, self._garbage_bytes = now_ms, 0
            self._reply_wanted, self._nak_wanted = True, False
            self._actions.append(events.Opened(self.session, self.hello))

    def _own_frame(self, frame: HostFrame, now_ms: float) -> None:
        for token in self._sender.acknowledge(frame.ack):
            self._actions.append(events.Delivered(token))
        if frame.asks:
            self._reply_wanted = True
            base = self._sender.under_way[0] if self._sender.under_way else None
            if base is not None and now_ms >= base.sent_ms + BOARD_REPEAT_ASKED_MS:
                self._sender.rewind()
        if frame.kind is Kind.DATA:
            self._reply_wanted = True
            try:
                message = self._receiver.take(
                    frame.seq, frame.payload, first=frame.first, last=frame.last
                )
            except WireError:
                self._end(CloseReason.DISORDER, now_ms)
                return
            if message is not None:
                self._actions.append(events.Received(message))
        elif frame.kind is Kind.RATE:
            self._change_rate(frame.payload[0], now_ms)
        elif frame.kind is Kind.CLOSE:
            self._end(CloseReason.HOST_LEFT, now_ms)

    def _change_rate(self, rate: int, now_ms: float) -> None:
        agreed = rate == 0 or self.hello.supports(rate)
        self._write(Kind.RATE, now_ms, bytes([rate, agreed]))
        if agreed:
            self._set_rate(rate)
            self._trial_until_ms = now_ms + RATE_TRIAL_MS

    def _set_rate(self, rate: int) -> None:
        self.rate = rate
        self._reader.clear()
        self._garbage_bytes = 0
        self._actions.append(events.SetRate(rate))

    # --- time ------------------------------------------------------------------------------------

    def _expire(self, now_ms: float) -> None:
        if self._busy or self.session == 0:
            return
        if self._trial_until_ms is not None:
            if now_ms >= self._trial_until_ms:
                self._trial_until_ms = None
                self._set_rate(0)
        elif self._speed_changed() and now_ms >= self._last_heard_ms + RATE_GARBAGE_MS:
            self._end(CloseReason.SPEED, now_ms)
        if self.session and now_ms >= self._last_heard_ms + HOST_SILENT_MS:
            self._end(CloseReason.SILENCE, now_ms)

    def _speed_changed(self) -> bool:
        # A frame may be on its way after a silence: only more than a frame without an end is garbage.
        endless = self._reader.pending_bytes > MAX_FRAME_BYTES
        garbage = self._garbage_bytes + (self._reader.pending_bytes if endless else 0)
        return self.rate != 0 and garbage >= RATE_GARBAGE_BYTES

    def _end(self, reason: CloseReason, now_ms: float) -> None:
        if self.session == 0:
            return
        self._actions += self._sender.abandon()
        self._actions.append(events.Closed(reason))
        self._receiver.clear()
        self.session, self._ended_nonce = 0, self._nonce
        self._trial_until_ms = None
        self._reply_wanted = self._nak_wanted = False
        if self.rate != 0 and reason is not CloseReason.REPLACED:
            self._set_rate(0)
        self._alone(now_ms)

    def _alone(self, now_ms: float) -> None:
        self._alone_since_ms = self._hello_at_ms = now_ms

    def _wake_ms(self, now_ms: float) -> float:
        if self.session == 0:
            return self._hello_at_ms
        times = [self._last_sent_ms + BOARD_STATUS_MS]
        if self._busy:
            return times[0]
        times.append(self._last_heard_ms + HOST_SILENT_MS)
        if self._sender.under_way:
            times.append(self._sender.under_way[0].sent_ms + BOARD_REPEAT_MS)
        if self._trial_until_ms is not None:
            times.append(self._trial_until_ms)
        elif self._speed_changed():
            times.append(self._last_heard_ms + RATE_GARBAGE_MS)
        if self._nak_wanted:
            times.append(self._nak_at_ms)
        return max(now_ms, min(times))

    # --- writing ---------------------------------------------------------------------------------

    def _pump(self, now_ms: float) -> None:
        if self.session == 0:
            if now_ms >= self._hello_at_ms and not self._busy:
                self._write(Kind.HELLO, now_ms, self._hello_payload())
                young = now_ms < self._alone_since_ms + HELLO_FAST_FOR_MS
                self._hello_at_ms = now_ms + (HELLO_FAST_MS if young else HELLO_SLOW_MS)
            return
        if not self._busy:
            self._pump_data(now_ms)
            if self._nak_wanted and now_ms >= self._nak_at_ms:
                self._nak_at_ms = now_ms + NAK_SPACING_MS
                self._write(Kind.STATUS, now_ms, asks=True)
                self._nak_wanted = self._reply_wanted = False
        if self._reply_wanted or now_ms >= self._last_sent_ms + BOARD_STATUS_MS:
            self._write(Kind.STATUS, now_ms)

    def _hello_payload(self) -> bytes:
        bad = min(self.bad, 0xFFFF).to_bytes(2, "little")
        return self.hello.encode()[:-2] + bad

    def _pump_data(self, now_ms: float) -> None:
        under_way = self._sender.under_way
        if under_way and now_ms >= under_way[0].sent_ms + BOARD_REPEAT_MS:
            self._sender.rewind()
        while self._sender.peek(_PAYLOAD_LIMIT) is not None:
            segment = self._sender.take(_PAYLOAD_LIMIT)
            segment.sent_ms = now_ms
            self._write(
                Kind.DATA,
                now_ms,
                segment.payload,
                seq=segment.seq,
                first=segment.first,
                last=segment.last,
            )

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
        frame = BoardFrame(
            kind,
            self.session,
            seq=self._sender.next_seq if seq is None else seq,
            ack=self._receiver.expected,
            seen=self._seen,
            credit=0 if self._busy else self.hello.window_bytes,
            payload=payload,
            first=first,
            last=last,
            asks=asks,
        )
        self._actions.append(events.Write(frame.encode()))
        self._last_sent_ms = now_ms
        self._reply_wanted = False
