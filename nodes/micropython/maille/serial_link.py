"""The board's end of the serial link (protocol/SERIAL.md, sections 1 to 6): one message each way.

No I/O, no clock: what has to be done is told to an owner, which must not raise:

    link_write(view)   put these bytes on the line at once; the view is used again afterwards
    link_opened()      a session begins
    link_closed()      it is over; the message under way is lost
    link_heard(view)   a whole message came; the view is used again afterwards
    link_sent()        the host has the message under way; another one can be sent
    link_rate(rate)    change the speed once what was written has left
"""

from micropython import const

from .serial_framing import MAX_FRAME_BYTES, decode, encode

HELLO = const(1)
OPEN = const(2)
STATUS = const(3)
DATA = const(4)
RATE = const(5)
CLOSE = const(6)

_FIRST = const(0x08)
_LAST = const(0x10)
_ASKS = const(0x20)
_RESERVED = const(0x40)
_FROM_BOARD = const(0x80)

LINK_VERSION = const(1)
SCHEMA = b"\xae\x1a\x89\x13"
"""First 4 bytes of the SHA-256 of protocol/serial.cddl without comments; a test holds it."""

_HOST_HEADER_BYTES = const(5)
_BOARD_HEADER_BYTES = const(6)
_PAYLOAD_BYTES = const(54)
_HELLO_FAST_FOR_MS = const(1000)
_HELLO_FAST_MS = const(50)
_HELLO_SLOW_MS = const(500)
_STATUS_MS = const(100)
_HOST_SILENT_MS = const(2000)
_REPEAT_MS = const(60)
_REPEAT_ASKED_MS = const(15)
_NAK_SPACING_MS = const(5)
_RATE_TRIAL_MS = const(200)
_GARBAGE_BYTES = const(16)
_GARBAGE_MS = const(100)


class Link:
    """The link of one start of a board.

    Args:
        owner: see the module's text.
        boot: 32 bits, not 0, drawn at this start.
        window: bytes that the receive buffer holds, 32 to 255.
        max_message_bytes: the longest message taken.
        rates: bits of the speeds that the line can do; 0 where speed has no meaning.
        cause: why the board started, as the wire says it.
        now_ms: the time of the start.
        schema: names the board messages.
    """

    def __init__(
        self,
        owner,
        boot: int,
        window: int,
        max_message_bytes: int,
        rates: int,
        cause: int,
        now_ms: int,
        schema: bytes = SCHEMA,
    ) -> None:
        hello = bytearray(16)
        hello[0] = LINK_VERSION
        hello[1:5] = boot.to_bytes(4, "little")
        hello[5] = window
        hello[6:8] = max_message_bytes.to_bytes(2, "little")
        hello[8:12] = schema
        hello[12] = rates
        hello[13] = cause
        self._hello = hello
        self._owner = owner
        self.session = 0
        """0: none."""
        self.rate = 0
        self.bad = 0
        """Frames thrown away."""
        self.heard_ms = now_ms
        """When the last good frame of the session came."""
        # What comes: a frame, and the message that frames make.
        self._frame = bytearray(MAX_FRAME_BYTES)
        self._frame_view = memoryview(self._frame)
        self._pending = 0
        self._message = memoryview(bytearray(max_message_bytes))
        self._message_size = -1
        self._expected = 0
        # What goes: a frame, and the message that it is cut of.
        self._out = bytearray(MAX_FRAME_BYTES)
        self._out_view = memoryview(self._out)
        self._sending = None
        self._cut = self._cut_end = 0
        self._under_way = False
        self._resend = False
        self._next_seq = 0
        self._data_ms = now_ms
        self._nonce = b""
        self._ended_nonce = b""
        self._seen = 0
        self._busy = False
        self._alone_since_ms = self._hello_at_ms = now_ms
        self._sent_ms = now_ms
        self._nak_at_ms = 0
        self._nak = self._reply = False
        self._garbage = 0
        self._trial_ms: int | None = None

    # --- what the owner asks for ---------------------------------------------------------------

    @property
    def free(self) -> bool:
        """Whether `send` takes a message now."""
        return self.session != 0 and self._sending is None

    def send(self, message) -> None:
        """Send a message, if `free`; its bytes must stay until `link_sent` or `link_closed`."""
        self._sending = message
        self._cut = self._cut_end = 0

    def set_busy(self, busy: bool, now_ms: int) -> None:
        """It will not read for a while, or (after all was taken in) reads again."""
        self._busy = busy
        if self.session:
            self._write(STATUS, now_ms)
            if busy:
                self._write(STATUS, now_ms)

    def receive(self, byte: int, now_ms: int) -> None:
        """Take in a byte of the line; `poll` after the last one that is there."""
        if byte:
            if self._pending < MAX_FRAME_BYTES:
                self._frame[self._pending] = byte
            self._pending += 1
            return
        size = self._pending
        if not size:
            return
        self._pending = 0
        body = decode(self._frame, size)
        if body < 0:
            self._throw_away(size)
        elif not self._is_frame(body):
            self._throw_away(body)
        else:
            self._take(body, now_ms)

    def poll(self, now_ms: int) -> None:
        """Do what is due."""
        if self.session and not self._busy:
            self._expire(now_ms)
        if self.session == 0:
            if now_ms >= self._hello_at_ms and not self._busy:
                self._say_hello(now_ms)
            return
        if not self._busy:
            self._pump(now_ms)
            if self._nak and now_ms >= self._nak_at_ms:
                self._nak_at_ms = now_ms + _NAK_SPACING_MS
                self._write(STATUS, now_ms, _ASKS)
                self._nak = False
        if self._reply or now_ms >= self._sent_ms + _STATUS_MS:
            self._write(STATUS, now_ms)

    # --- what comes ----------------------------------------------------------------------------

    def _throw_away(self, size: int) -> None:
        self.bad += 1
        self._garbage += size
        self._nak = True

    def _is_frame(self, size: int) -> bool:
        """Whether a host may say this."""
        frame = self._frame
        if size < _HOST_HEADER_BYTES or frame[4] == 0:
            return False
        control = frame[0]
        kind = control & 7
        payload = size - _HOST_HEADER_BYTES
        if control & (_FROM_BOARD | _RESERVED) or not HELLO <= kind <= CLOSE:
            return False
        if (frame[1] == 0) != (kind == HELLO):
            return False
        if kind == DATA:
            return payload > 0
        if control & (_FIRST | _LAST):
            return False
        if kind == RATE:
            return payload == 1 and frame[5] < 4
        return payload == (9 if kind == OPEN else 0)

    def _take(self, size: int, now_ms: int) -> None:
        frame = self._frame
        kind = frame[0] & 7
        own = self.session != 0 and frame[1] == self.session
        if own and kind != OPEN:
            base = self._next_seq - self._under_way
            if (frame[3] - base) & 0xFF > self._under_way:
                self._throw_away(size)
                return
        self._seen = frame[4]
        if kind == HELLO:
            self._end(True, now_ms)
            self._hello_at_ms = now_ms
        elif kind == OPEN:
            self._open(now_ms)
        elif self.session == 0:
            self._hello_at_ms = now_ms
        elif own:
            self.heard_ms = now_ms
            self._garbage = 0
            self._trial_ms = None
            self._own(kind, size, now_ms)

    def _open(self, now_ms: int) -> None:
        frame = self._frame
        nonce = self._frame_view[10:14]
        if self._frame_view[5:10] != self._hello[:5]:
            self._hello_at_ms = now_ms
        elif self.session and self.session == frame[1] and self._nonce == nonce:
            self.heard_ms = now_ms
            self._reply = True
        elif self.session == 0 and self._ended_nonce == nonce:
            self._hello_at_ms = now_ms
        else:
            self._end(True, now_ms)
            self.session = frame[1]
            self._nonce = bytes(nonce)
            self.heard_ms = now_ms
            self._garbage = 0
            self._reply = True
            self._nak = False
            self._owner.link_opened()

    def _own(self, kind: int, size: int, now_ms: int) -> None:
        frame = self._frame
        control = frame[0]
        if self._under_way and frame[3] == self._next_seq:
            self._acknowledged()
        if control & _ASKS:
            self._reply = True
            if self._under_way and now_ms >= self._data_ms + _REPEAT_ASKED_MS:
                self._resend = True
        if kind == DATA:
            self._reply = True
            if frame[2] == self._expected and not self._segment(control, size):
                self._end(False, now_ms)
        elif kind == RATE:
            self._change_rate(frame[5], now_ms)
        elif kind == CLOSE:
            self._end(False, now_ms)

    def _acknowledged(self) -> None:
        self._under_way = self._resend = False
        self._cut = self._cut_end
        if self._cut >= len(self._sending):
            self._sending = None
            self._owner.link_sent()

    def _segment(self, control: int, size: int) -> bool:
        """Add the segment that is expected; whether that is in order."""
        self._expected = (self._expected + 1) & 0xFF
        if (control & _FIRST != 0) == (self._message_size >= 0):
            return False
        start = max(self._message_size, 0)
        end = start + size - _HOST_HEADER_BYTES
        if end > len(self._message):
            return False
        self._message[start:end] = self._frame_view[_HOST_HEADER_BYTES:size]
        self._message_size = end
        if control & _LAST:
            self._message_size = -1
            self._owner.link_heard(self._message[:end])
        return True

    def _change_rate(self, rate: int, now_ms: int) -> None:
        agreed = rate == 0 or self._hello[12] >> (rate - 1) & 1
        self._out[7] = rate
        self._out[8] = agreed = 1 if agreed else 0
        self._write(RATE, now_ms, 0, 2)
        if agreed:
            self._set_rate(rate)
            self._trial_ms = now_ms + _RATE_TRIAL_MS

    def _set_rate(self, rate: int) -> None:
        self.rate = rate
        self._pending = 0
        self._garbage = 0
        self._owner.link_rate(rate)

    # --- time ----------------------------------------------------------------------------------

    def _expire(self, now_ms: int) -> None:
        if self._trial_ms is not None:
            if now_ms >= self._trial_ms:
                self._trial_ms = None
                self._set_rate(0)
        elif self.rate and now_ms >= self.heard_ms + _GARBAGE_MS:
            # A frame may be on its way after a silence: only one without an end is garbage.
            endless = self._pending if self._pending > MAX_FRAME_BYTES else 0
            if self._garbage + endless >= _GARBAGE_BYTES:
                self._end(False, now_ms)
        if self.session and now_ms >= self.heard_ms + _HOST_SILENT_MS:
            self._end(False, now_ms)

    def _end(self, replaced: bool, now_ms: int) -> None:
        """End the session, if there is one; `replaced`: the host knows, and keeps the speed."""
        if self.session == 0:
            return
        self.session = 0
        self._ended_nonce = self._nonce
        self._sending = None
        self._under_way = self._resend = False
        self._next_seq = self._expected = 0
        self._message_size = -1
        self._trial_ms = None
        self._reply = self._nak = False
        if self.rate and not replaced:
            self._set_rate(0)
        self._alone_since_ms = self._hello_at_ms = now_ms
        self._owner.link_closed()

    # --- what goes -----------------------------------------------------------------------------

    def _say_hello(self, now_ms: int) -> None:
        bad = min(self.bad, 0xFFFF)
        self._hello[14] = bad & 0xFF
        self._hello[15] = bad >> 8
        self._out[7:23] = self._hello
        self._write(HELLO, now_ms, 0, 16)
        young = now_ms < self._alone_since_ms + _HELLO_FAST_FOR_MS
        self._hello_at_ms = now_ms + (_HELLO_FAST_MS if young else _HELLO_SLOW_MS)

    def _pump(self, now_ms: int) -> None:
        if self._under_way:
            if not self._resend and now_ms < self._data_ms + _REPEAT_MS:
                return
        elif self._sending is None:
            return
        else:
            self._cut_end = min(self._cut + _PAYLOAD_BYTES, len(self._sending))
            self._next_seq = (self._next_seq + 1) & 0xFF
            self._under_way = True
        self._resend = False
        message, start, end = self._sending, self._cut, self._cut_end
        self._out_view[7 : 7 + end - start] = memoryview(message)[start:end]
        flags = (_FIRST if start == 0 else 0) | (_LAST if end == len(message) else 0)
        self._data_ms = now_ms
        self._write(DATA, now_ms, flags, end - start)

    def _write(self, kind: int, now_ms: int, flags: int = 0, payload: int = 0) -> None:
        """Send a frame whose payload lies in the output buffer from byte 7 on."""
        out = self._out
        out[1] = _FROM_BOARD | kind | flags
        out[2] = self.session
        out[3] = (self._next_seq - (kind == DATA)) & 0xFF
        out[4] = self._expected
        out[5] = self._seen
        out[6] = 0 if self._busy else self._hello[5]
        size = encode(out, _BOARD_HEADER_BYTES + payload)
        self._owner.link_write(self._out_view[:size])
        self._sent_ms = now_ms
        self._reply = False
