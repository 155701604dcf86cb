"""Which speeds of a line have earned trust: bad frames lead to a lower one, deaf ones are left out."""

from collections import deque

from maille_protocol.serial.limits import BAUDS

_QUALITY_FRAMES = 64
_QUALITY_BAD = 8
_FAILURES_OF_A_RATE = 3


class RateTrust:
    """What one line has shown of its speeds. `highest`: the one to go up to, an index of BAUDS."""

    def __init__(self, highest: int) -> None:
        self.highest = highest
        self.lower_wanted = False
        """Whether to go down as soon as nothing is under way."""
        self._failures = [0] * len(BAUDS)
        self._quality: deque[bool] = deque(maxlen=_QUALITY_FRAMES)
        self._bad_since_good = 0

    def opened(self) -> None:
        """A session begins: nothing is known of its frames."""
        self.lower_wanted = False
        self._quality.clear()

    def bad_frame(self) -> None:
        """Bytes that were no frame."""
        self._bad_since_good += 1

    def good_frame(self) -> None:
        """A frame of this session arrived."""
        # A burst of noise, or the garbage of a reset, is one event.
        self._quality.extend([False] * min(2, self._bad_since_good) + [True])
        self._bad_since_good = 0

    def frame_lost(self) -> None:
        """A frame to the board did not arrive."""
        self._quality.append(False)

    def board_was_reset(self) -> None:
        """What looked like a speed that does not work was the reset."""
        self._failures = [0] * len(BAUDS)

    def blame(self, rate: int) -> None:
        """A session ended in silence or garbage at this speed."""
        if rate == 0:
            return
        self._failures[rate] += 1
        if self._failures[rate] >= _FAILURES_OF_A_RATE:
            self.highest = min(self.highest, rate - 1)

    def problem(self, rate: int) -> str:
        """Why a lower speed is wanted from now on; "" where it is not, or was said before."""
        bad = sum(not good for good in self._quality)
        if rate == 0 or bad <= _QUALITY_BAD or self.lower_wanted:
            return ""
        self.lower_wanted = True
        self._quality.clear()
        return f"{bad} of {_QUALITY_FRAMES} frames were bad: going to a lower speed"

    def lower(self, rate: int) -> None:
        """The line goes down from this speed."""
        self.lower_wanted = False
        self.highest = max(0, rate - 1)
