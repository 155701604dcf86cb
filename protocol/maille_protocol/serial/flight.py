"""How many bytes may still be in a board's receive buffer (SERIAL.md, section 4)."""

from collections import deque

from maille_protocol.serial.limits import BAUDS, QUIET_MS

_BITS_PER_BYTE = 10


class Flight:
    """The bytes in flight, from what was written and what the board has seen of it."""

    def __init__(self) -> None:
        self._frames: deque[tuple[int, int]] = deque()
        self._left_ms = 0.0
        self.size_bytes = 0

    def wrote(self, tag: int, size_bytes: int, rate: int, now_ms: float) -> None:
        """A frame of `size_bytes` with its delimiters was written at `rate`."""
        self._frames.append((tag, size_bytes))
        self.size_bytes += size_bytes
        wire_ms = size_bytes * _BITS_PER_BYTE * 1000 / BAUDS[rate]
        self._left_ms = max(self._left_ms, now_ms) + wire_ms

    def seen(self, tag: int) -> None:
        """The board has taken in the frame with this tag, so everything before it has left too."""
        if self.holds(tag):
            while self._frames:
                taken, size = self._frames.popleft()
                self.size_bytes -= size
                if taken == tag:
                    break

    def heard(self, now_ms: float) -> None:
        """A good frame of a board that reads has arrived."""
        if now_ms >= self._left_ms + QUIET_MS:
            self.clear()

    def clear(self) -> None:
        """Nothing can be in the buffer."""
        self._frames.clear()
        self.size_bytes = 0

    def holds(self, tag: int) -> bool:
        """Whether the frame with this tag may still be on its way."""
        return any(taken == tag for taken, _ in self._frames)
