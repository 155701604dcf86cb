"""Messages that came before what they need, and messages that came twice."""

from collections import OrderedDict, deque
from dataclasses import dataclass

from maille_protocol import Activation, Envelope, SessionOrder

__all__ = ["Early", "Repeats", "Sent", "WaitingRoom"]

MAX_WAITING = 512
MAX_WAITING_BYTES = 16 << 20
WAIT_MS = 2000.0
MAX_REMEMBERED = 4096


class Repeats:
    """Knows the last messages by their sender's process and number: brokers may deliver twice."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[int, int], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def seen(self, envelope: Envelope) -> bool:
        """Whether this very message was here before."""
        key = (envelope.boot, envelope.seq)
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)
        return False


@dataclass(frozen=True, slots=True)
class Sent:
    """Which message of which process: brokers may let messages overtake each other."""

    boot: int = 0
    seq: int = 0

    def overtaken_by(self, other: "Sent | None") -> bool:
        """Whether the same process has sent the other one later."""
        return other is not None and self.boot == other.boot and self.seq < other.seq


@dataclass(frozen=True, slots=True)
class Early:
    """A message of a layout or session that is not known here yet."""

    message: Activation | SessionOrder
    until_ms: float
    sent: Sent = Sent()

    @property
    def size_bytes(self) -> int:
        """Roughly."""
        message = self.message
        return 200 + len(message.data if isinstance(message, Activation) else message.tokens)


class WaitingRoom:
    """Early messages of one pipeline in the order they came, bounded by count, bytes and time."""

    def __init__(self) -> None:
        self._early: deque[Early] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._early)

    def add(self, early: Early) -> bool:
        """Let a message wait; False if there is no room."""
        if len(self) >= MAX_WAITING or self._bytes + early.size_bytes > MAX_WAITING_BYTES:
            return False
        self._early.append(early)
        self._bytes += early.size_bytes
        return True

    def take_all(self) -> list[Early]:
        """Empty the room."""
        taken = list(self._early)
        self._early.clear()
        self._bytes = 0
        return taken

    def take_expired(self, now_ms: float) -> list[Early]:
        """Those that have waited too long."""
        # Those put back keep their time, so the room need not be in the order of time.
        everything = self.take_all()
        for early in everything:
            if early.until_ms > now_ms:
                self.add(early)
        return [early for early in everything if early.until_ms <= now_ms]
