"""The host's part in agreeing on a speed (SERIAL.md, section 6)."""

from dataclasses import dataclass
from enum import Enum

from maille_protocol.serial.frames import Hello
from maille_protocol.serial.limits import (
    RATE_ASK_MS,
    RATE_ASKS,
    RATE_PROBE_MS,
    RATE_SETTLE_MS,
    RATE_TRIAL_MS,
)


class Step(Enum):
    """What the link has to do now."""

    NOTHING = 0
    ASK = 1
    """Send RATE with `rate`."""
    PROBE = 2
    """Send STATUS with ASKS."""
    GO_BACK = 3
    """Set the first rate."""


@dataclass(slots=True)
class RateTalk:
    """One attempt after the other, from the highest wanted rate downwards, until one works."""

    rate: int = 0
    """The one that is being tried."""
    asking: bool = False
    trying: bool = False
    _next_ms: float = 0.0
    _until_ms: float = 0.0
    _asks_left: int = 0
    _hello: Hello | None = None
    _current: int = 0

    @property
    def active(self) -> bool:
        """Whether nothing else may be sent now."""
        return self.asking or self.trying

    def start(self, hello: Hello, current: int, highest: int, now_ms: float) -> None:
        """From `current`, try the rates that the board can do: `highest` or the next below it."""
        self._hello, self._current = hello, current
        self.asking = self.trying = False
        for rate in range(highest, -1, -1):
            if rate != current and (rate == 0 or hello.supports(rate)):
                self.rate, self.asking = rate, True
                self._next_ms, self._asks_left = now_ms, RATE_ASKS
                return

    def stop(self) -> None:
        """The session is over."""
        self.asking = self.trying = False

    def answered(self, rate: int, agreed: bool, now_ms: float) -> bool:
        """RATE came; True if the speed is to be changed to `rate` now."""
        if not self.asking or rate != self.rate:
            return False
        self.asking = False
        if not agreed:
            self._try_lower(now_ms)
            return False
        self.trying = True
        self._next_ms = now_ms + RATE_SETTLE_MS
        self._until_ms = now_ms + RATE_TRIAL_MS
        return True

    def heard(self) -> None:
        """A good frame came: a speed on trial works."""
        self.trying = False

    def step(self, now_ms: float) -> Step:
        """What is due; call again until it is nothing."""
        if self.trying and now_ms >= self._until_ms:
            self.trying = False
            self._current = 0
            # The board may have changed a little later, and must be back before it is asked again.
            self._try_lower(now_ms + RATE_ASK_MS)
            return Step.GO_BACK
        if not self.active or now_ms < self._next_ms:
            return Step.NOTHING
        if self.trying:
            self._next_ms = now_ms + RATE_PROBE_MS
            return Step.PROBE
        if self._asks_left == 0:
            self.asking = False
            self._try_lower(now_ms)
            return Step.NOTHING
        self._asks_left -= 1
        self._next_ms = now_ms + RATE_ASK_MS
        return Step.ASK

    def wake_ms(self) -> float | None:
        """When `step` has something to do."""
        if self.trying:
            return min(self._next_ms, self._until_ms)
        return self._next_ms if self.asking else None

    def _try_lower(self, at_ms: float) -> None:
        if self._hello is not None:
            self.start(self._hello, self._current, self.rate - 1, at_ms)
