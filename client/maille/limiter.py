"""How many tasks to keep in flight: learned from latency and rate, not configured.

Gradient2 (Netflix concurrency-limits): the limit is multiplied by the gradient of long-term over
recent latency, plus a little room to grow. Two changes suit a mesh, where work is batched on its
way and latency therefore rises with the limit even while throughput still gains:

- samples are averaged over one round of tasks before they count, so that one batch of results
  that arrives together is one observation;
- the limit grows only while growing pays: when a round brought no higher rate, it holds. Without
  that, the long-term latency follows its own queue and the limit drifts to its maximum.

Source: Gradient2Limit.java of Netflix/concurrency-limits.
"""

from dataclasses import dataclass
from math import sqrt

_SMOOTHING = 0.2
_TOLERANCE = 1.5
"""Recent latency may be this much above the long-term one before the limit shrinks."""
_LONG_ROUNDS = 100
_RATE_GAIN = 1.05
"""A round whose rate is this much above the usual one shows that growing pays."""
_RATE_ROUNDS = 8
_START_FACTOR = 1.6
_PROBE_FACTOR = 1.3
_PROBE_EVERY_ROUNDS = 40
_CLIMB_GAIN = 1.07
"""While it climbs, the limit multiplies as long as each round's rate grows by this."""
_MIN_ROUND_SAMPLES = 10


@dataclass(slots=True)
class Limiter:
    """The limit on tasks in flight of one model. Pure: the caller brings latencies and time.

    Call `ended` for every task that ended well, `overloaded` when the mesh refused one for want of
    room. `limit` is then how many to keep in flight, from `minimum` to `maximum`.
    """

    initial: float = 20.0
    minimum: float = 1.0
    maximum: float = 4096.0
    _limit: float = 0.0
    _long_latency_s: float = 0.0
    _long_rounds: int = 0
    _usual_rate: float = 0.0
    _last_rate: float = 0.0
    _climbing: bool = True
    _climb_factor: float = _START_FACTOR
    _before_climb: float | None = None
    _quiet_rounds: int = 0
    _round_samples: int = 0
    _round_latency_s: float = 0.0
    _round_started_s: float | None = None
    _round_peak: int = 0
    _paused_until_s: float = 0.0

    def __post_init__(self) -> None:
        """Start at the initial limit."""
        self._limit = min(self.maximum, max(self.minimum, self.initial))

    @property
    def limit(self) -> int:
        """Tasks to keep in flight now."""
        return int(self._limit)

    def ended(self, latency_s: float, in_flight: int, now_s: float) -> None:
        """A task ended `latency_s` after it was sent, when `in_flight` were (itself included)."""
        if self._round_started_s is None:
            # Only from the first end on does the rate say anything.
            self._round_started_s = now_s
            return
        self._round_samples += 1
        self._round_latency_s += latency_s
        self._round_peak = max(self._round_peak, in_flight)
        elapsed_s = now_s - self._round_started_s
        if self._round_samples >= max(_MIN_ROUND_SAMPLES, self._limit) and elapsed_s > 0:
            self._end_round(elapsed_s)
            self._round_started_s = now_s

    def overloaded(self, now_s: float) -> None:
        """The mesh refused a task because its queue is full: halve, at most once a second."""
        if now_s < self._paused_until_s:
            return
        self._paused_until_s = now_s + 1.0
        self._climbing = False
        self._quiet_rounds = 0
        self._limit = max(self.minimum, self._limit / 2)
        self._reset_round()
        self._round_started_s = None

    def _end_round(self, elapsed_s: float) -> None:
        short_s = self._round_latency_s / self._round_samples
        rate = self._round_samples / elapsed_s
        peak = self._round_peak
        self._reset_round()
        self._long_rounds = min(_LONG_ROUNDS, self._long_rounds + 1)
        self._long_latency_s += (short_s - self._long_latency_s) / self._long_rounds
        if self._long_latency_s > 2 * short_s:
            # Latency has fallen a lot: do not wait for the long average to notice.
            self._long_latency_s *= 0.9
        usual, last = self._usual_rate, self._last_rate
        self._last_rate = rate
        self._usual_rate += (rate - usual) / min(_RATE_ROUNDS, self._long_rounds)
        if peak < self._limit / 2:
            # The program brings fewer tasks than allowed: the limit is not what is measured.
            return
        if self._climbing:
            if rate > last * _CLIMB_GAIN:
                self._before_climb = None
                self._climb()
                return
            self._climbing = False
            if self._before_climb is not None:
                self._limit = self._before_climb
                return
        self._quiet_rounds += 1
        if self._quiet_rounds >= _PROBE_EVERY_ROUNDS:
            self._quiet_rounds = 0
            self._climbing = True
            self._climb_factor = _PROBE_FACTOR
            self._before_climb = self._limit
            self._climb()
            return
        gradient = max(0.5, min(1.0, _TOLERANCE * self._long_latency_s / short_s))
        pays = rate > usual * _RATE_GAIN
        wanted = self._limit * gradient + (2 * sqrt(self._limit) if pays else 0.0)
        self._set(self._limit * (1 - _SMOOTHING) + wanted * _SMOOTHING)

    def _climb(self) -> None:
        self._set(max(self._limit + 1, self._limit * self._climb_factor))

    def _set(self, limit: float) -> None:
        self._limit = min(self.maximum, max(self.minimum, limit))

    def _reset_round(self) -> None:
        self._round_samples = 0
        self._round_latency_s = 0.0
        self._round_peak = 0
