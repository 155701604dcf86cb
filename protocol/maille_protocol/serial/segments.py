"""Messages cut into numbered segments and joined again: both directions of both ends."""

from collections import deque
from dataclasses import dataclass

from maille_protocol.errors import UsageError, WireError
from maille_protocol.serial.events import Lost
from maille_protocol.serial.limits import MAX_MESSAGE_BYTES, MAX_UNDER_WAY

MAX_QUEUED_MESSAGES = 1024


@dataclass(slots=True)
class Segment:
    """A piece of a message on its way."""

    token: int
    seq: int
    payload: bytes
    first: bool
    last: bool
    tag: int = 0
    """Of its last sending, at the host."""
    sent_ms: float = 0.0
    losses: int = 0
    """How often it was found missing."""


@dataclass(slots=True)
class _Queued:
    token: int
    message: bytes
    cut_bytes: int = 0


class Sender:
    """What is to be sent in one session: a queue of messages, and segments under way (go-back-n)."""

    def __init__(self, under_way_limit: int = MAX_UNDER_WAY) -> None:
        self._limit = under_way_limit
        self._queue: deque[_Queued] = deque()
        self._next_seq = 0
        self._resend_from = 0
        self.under_way: deque[Segment] = deque()
        """Sent at least once and not acknowledged, oldest first."""

    @property
    def next_seq(self) -> int:
        """The number that the next segment will have."""
        return self._next_seq

    @property
    def waiting(self) -> int:
        """Messages of which something is still to be sent for the first time."""
        return len(self._queue)

    @property
    def repeating(self) -> bool:
        """Whether `take` gives a segment that was sent before."""
        return self._resend_from < len(self.under_way)

    def push(self, token: int, message: bytes) -> None:
        """Queue a message.

        Raises:
            UsageError: it is empty or longer than any board takes, or the queue is full.
        """
        if not 1 <= len(message) <= MAX_MESSAGE_BYTES:
            raise UsageError(f"{len(message)} bytes, a serial message has 1 to {MAX_MESSAGE_BYTES}")
        if len(self._queue) >= MAX_QUEUED_MESSAGES:
            raise UsageError(f"{MAX_QUEUED_MESSAGES} messages wait already: send less at once")
        self._queue.append(_Queued(token, message))

    def peek(self, payload_limit: int) -> int | None:
        """Size of the payload that `take` would give, or None if there is nothing to send now."""
        if self.repeating:
            return len(self.under_way[self._resend_from].payload)
        if self._queue and len(self.under_way) < self._limit:
            head = self._queue[0]
            return min(payload_limit, len(head.message) - head.cut_bytes)
        return None

    def take(self, payload_limit: int) -> Segment:
        """The segment to send now: one to be repeated, or a new one of at most that size."""
        if self.repeating:
            self._resend_from += 1
            return self.under_way[self._resend_from - 1]
        head = self._queue[0]
        start, end = head.cut_bytes, head.cut_bytes + payload_limit
        segment = Segment(
            head.token,
            self._next_seq,
            head.message[start:end],
            first=start == 0,
            last=end >= len(head.message),
        )
        head.cut_bytes = end
        if segment.last:
            self._queue.popleft()
        self._next_seq = (self._next_seq + 1) % 256
        self.under_way.append(segment)
        self._resend_from = len(self.under_way)
        return segment

    def acknowledges(self, ack: int) -> bool:
        """Whether the other end can expect `ack` next."""
        return (ack - self._base_seq()) % 256 <= len(self.under_way)

    def acknowledge(self, ack: int) -> list[int]:
        """The other end expects `ack` next: tokens of the messages that it has, in order.

        Raises:
            WireError: it cannot expect that number.
        """
        if not self.acknowledges(ack):
            raise WireError(f"acknowledges {ack}, which was not sent")
        count = (ack - self._base_seq()) % 256
        done = [self.under_way.popleft() for _ in range(count)]
        self._resend_from = max(0, self._resend_from - count)
        return [segment.token for segment in done if segment.last]

    def rewind(self) -> None:
        """Send everything under way again."""
        self._resend_from = 0

    def abandon(self) -> list[Lost]:
        """The session is over: what became of each message that was not acknowledged."""
        tokens = dict.fromkeys(segment.token for segment in self.under_way)
        lost = [Lost(token, never_sent=False) for token in tokens]
        lost += [
            Lost(queued.token, never_sent=queued.cut_bytes == 0)
            for queued in self._queue
            if queued.token not in tokens
        ]
        self._queue.clear()
        self.under_way.clear()
        self._next_seq = self._resend_from = 0
        return lost

    def recut(self, payload_limit: int) -> None:
        """Cut what is under way into smaller segments; certainly none of it has arrived."""
        pieces: deque[Segment] = deque()
        seq = self._base_seq()
        for segment in self.under_way:
            for start in range(0, len(segment.payload), payload_limit):
                end = start + payload_limit
                pieces.append(
                    Segment(
                        segment.token,
                        seq,
                        segment.payload[start:end],
                        first=segment.first and start == 0,
                        last=segment.last and end >= len(segment.payload),
                    )
                )
                seq = (seq + 1) % 256
        self.under_way, self._next_seq = pieces, seq
        self.rewind()

    def _base_seq(self) -> int:
        return (self._next_seq - len(self.under_way)) % 256


class Receiver:
    """What comes in one session: takes segments in order and joins messages."""

    def __init__(self, message_limit_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._limit_bytes = message_limit_bytes
        self._message: bytearray | None = None
        self.expected = 0

    def clear(self) -> None:
        """A new session begins."""
        self._message = None
        self.expected = 0

    def take(self, seq: int, payload: bytes, *, first: bool, last: bool) -> bytes | None:
        """The message that this segment completes, if it does; repeated segments change nothing.

        Raises:
            WireError: segments do not follow each other, or the message is too long.
        """
        if seq != self.expected:
            return None
        self.expected = (seq + 1) % 256
        if first == (self._message is not None):
            raise WireError("a message begins amid another one, or goes on without a beginning")
        if self._message is None:
            self._message = bytearray()
        self._message += payload
        if len(self._message) > self._limit_bytes:
            raise WireError(f"a message of more than {self._limit_bytes} bytes")
        if not last:
            return None
        message = bytes(self._message)
        self._message = None
        return message
