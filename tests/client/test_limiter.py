"""The limiter against a simulated mesh: it has to fill it, not flood it, and follow it."""

import heapq
import random
from dataclasses import dataclass, field

import pytest

from maille.limiter import Limiter


@dataclass
class SimulatedMesh:
    """`workers` that each take batches of up to `batch` tasks from one queue.

    A run takes `fixed_s + rows * row_s`, give or take a tenth; the way there and back `path_s`.
    """

    workers: int
    fixed_s: float
    row_s: float
    batch: int
    path_s: float = 0.001
    seed: int = 1
    now_s: float = 0.0
    done: int = 0
    in_flight: int = 0
    _queue: list[float] = field(default_factory=list)
    _running: int = 0
    _events: list[tuple[float, int, str, list[float]]] = field(default_factory=list)
    _number: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def _at(self, time_s: float, kind: str, tasks: list[float]) -> None:
        self._number += 1
        heapq.heappush(self._events, (time_s, self._number, kind, tasks))

    def drive(self, limiter: Limiter, until_s: float, demand: int | None = None) -> float:
        """Keep `limiter.limit` tasks in flight until then; tasks per second in the last half."""
        half_s = (self.now_s + until_s) / 2
        done_at_half: int | None = None
        while self.now_s < until_s:
            wanted = limiter.limit if demand is None else min(limiter.limit, demand)
            while self.in_flight < wanted:
                self.in_flight += 1
                self._at(self.now_s + self.path_s, "arrive", [self.now_s])
            time_s, _, kind, tasks = heapq.heappop(self._events)
            self.now_s = time_s
            if done_at_half is None and time_s >= half_s:
                done_at_half = self.done
            match kind:
                case "arrive":
                    self._queue += tasks
                case "run":
                    self._running -= 1
                    self._at(time_s + self.path_s, "end", tasks)
                case "end":
                    for sent_s in tasks:
                        limiter.ended(time_s - sent_s, self.in_flight, time_s)
                        self.in_flight -= 1
                        self.done += 1
            while self._queue and self._running < self.workers:
                tasks, self._queue = self._queue[: self.batch], self._queue[self.batch :]
                self._running += 1
                run_s = (self.fixed_s + len(tasks) * self.row_s) * self.random.uniform(0.9, 1.1)
                self._at(time_s + run_s, "run", tasks)
        assert done_at_half is not None
        return (self.done - done_at_half) / (until_s - half_s)

    @property
    def capacity(self) -> float:
        return self.workers * self.batch / (self.fixed_s + self.batch * self.row_s)


@pytest.mark.parametrize(
    ("workers", "fixed_s", "row_s", "batch"),
    [
        (2, 0.0005, 0.0, 1),
        (8, 0.020, 0.0, 1),
        (4, 0.002, 0.0001, 64),
        (200, 0.050, 0.0, 1),
        (1, 0.5, 0.0, 1),
    ],
)
def test_it_fills_the_mesh_without_flooding_it(
    workers: int, fixed_s: float, row_s: float, batch: int
) -> None:
    mesh = SimulatedMesh(workers, fixed_s, row_s, batch)
    limiter = Limiter()
    rate = mesh.drive(limiter, 120.0 if fixed_s >= 0.5 else 20.0)
    assert rate >= 0.85 * mesh.capacity
    needed = mesh.capacity * (fixed_s + batch * row_s + 2 * mesh.path_s)
    assert limiter.limit <= max(80, 8 * needed)


def test_it_shrinks_when_the_mesh_slows_down_and_comes_back() -> None:
    mesh = SimulatedMesh(16, 0.010, 0.0, 1)
    limiter = Limiter()
    mesh.drive(limiter, 10.0)
    before = limiter.limit
    mesh.workers = 2
    mesh.drive(limiter, 20.0)
    shrunk = limiter.limit
    assert shrunk < 0.7 * before
    mesh.workers = 16
    rate = mesh.drive(limiter, 60.0)
    assert rate >= 0.85 * mesh.capacity


def test_it_follows_a_mesh_that_grows() -> None:
    mesh = SimulatedMesh(2, 0.020, 0.0, 1)
    limiter = Limiter()
    mesh.drive(limiter, 10.0)
    mesh.workers = 64
    rate = mesh.drive(limiter, 40.0)
    assert rate >= 0.85 * mesh.capacity


def test_it_does_not_move_when_the_program_brings_less_than_allowed() -> None:
    mesh = SimulatedMesh(8, 0.010, 0.0, 1)
    limiter = Limiter()
    mesh.drive(limiter, 10.0, demand=2)
    assert limiter.limit == 20


def test_a_full_queue_halves_the_limit_at_most_once_a_second() -> None:
    limiter = Limiter()
    for moment_s in (5.0, 5.1, 5.9):
        limiter.overloaded(moment_s)
    assert limiter.limit == 10
    limiter.overloaded(6.0)
    assert limiter.limit == 5


@pytest.mark.parametrize("refusals", [1, 30])
def test_it_stays_between_its_bounds(refusals: int) -> None:
    limiter = Limiter(minimum=1, maximum=50)
    for number in range(refusals):
        limiter.overloaded(float(10 + number))
    assert limiter.limit >= 1
    mesh = SimulatedMesh(1000, 0.010, 0.0, 1)
    mesh.drive(limiter, 60.0)
    assert limiter.limit <= 50
    assert limiter.limit >= 40
