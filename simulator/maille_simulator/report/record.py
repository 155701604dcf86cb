"""What was seen of a run, and the figures that follow from it. Times: seconds since mesh start."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from maille_simulator.scenario.values import Scenario
from maille_simulator.virtual.probes import ProbeTimes

EFFECT_S = 1.0
"""Within this time an event takes effect: a process is killed, a connection cut."""

HELD_UP = 5.0
"""So many times as long as a typical task: something held this one up."""


@dataclass(slots=True)
class TaskSeen:
    """One task from its submission to its end."""

    submitted_s: float
    ended_s: float | None = None
    status: str = ""
    """As `OutcomeStatus`, in small letters; "" if it never came back."""
    node: str = ""
    attempts: int = 0
    run_ms: float = 0.0

    @property
    def latency_ms(self) -> float | None:
        """From submission to the outcome, None if there was none."""
        return None if self.ended_s is None else 1000 * (self.ended_s - self.submitted_s)


@dataclass(frozen=True, slots=True)
class AttemptSeen:
    """One run on a node."""

    node: str
    begin_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Mark:
    """An event that took place."""

    at_s: float
    text: str
    nodes: tuple[str, ...] = ()
    until_s: float | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation and what was found."""

    name: str
    wanted: str
    found: str
    held: bool


@dataclass(frozen=True, slots=True)
class Twin:
    """The virtual prediction beside what was measured."""

    p50_ms_predicted: float
    p50_ms_measured: float
    tasks_per_s_predicted: float
    tasks_per_s_measured: float
    hop_ms: float
    """What the prediction took for a message from process to process, from probes."""
    message_ms: float
    """And for the work on one, one after the other."""

    @property
    def worst_error(self) -> float:
        """The larger relative error of the two, 0.2 for 20 %."""
        pairs = (
            (self.p50_ms_predicted, self.p50_ms_measured),
            (self.tasks_per_s_predicted, self.tasks_per_s_measured),
        )
        return max(abs(one - other) / other if other else math.inf for one, other in pairs)


@dataclass(slots=True)
class RunRecord:
    """Everything that a report is made from."""

    scenario: Scenario
    mode: Literal["real", "virtual"]
    tasks: list[TaskSeen] = field(default_factory=list)
    attempts: list[AttemptSeen] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    bytes_by_topic: dict[str, int] = field(default_factory=dict)
    ready_after_s: dict[str, float] = field(default_factory=dict)
    """By group: from its last join until all its nodes were ready; infinite if they never were."""
    broken: str = ""
    """A broken promise of the mesh, or why the run was cut short."""
    took_s: float = 0.0
    probes: ProbeTimes | None = None
    """What the machine took for probes before the scenario, if it was measured."""
    run_ms: dict[str, float] = field(default_factory=dict)
    """By model: a run on a PC node, as measured before the load."""
    twin: Twin | None = None

    @property
    def latencies_ms(self) -> list[float]:
        """Of the tasks that ended well, ascending."""
        found = [
            task.latency_ms
            for task in self.tasks
            if task.status == "done" and task.latency_ms is not None
        ]
        return sorted(found)

    @property
    def lost(self) -> int:
        """Tasks of which nobody ever heard again."""
        return sum(task.ended_s is None for task in self.tasks)

    @property
    def done_share(self) -> float:
        """Share of the tasks that ended well."""
        if not self.tasks:
            return 1.0
        return sum(task.status == "done" for task in self.tasks) / len(self.tasks)

    @property
    def tasks_per_s(self) -> float:
        """Tasks that ended well, over the time from the first submission to the last end."""
        ends = [
            task.ended_s
            for task in self.tasks
            if task.status == "done" and task.ended_s is not None
        ]
        if not ends:
            return 0.0
        begin_s = min(task.submitted_s for task in self.tasks)
        return len(ends) / max(1e-9, max(ends) - begin_s)

    def recoveries(self) -> list[tuple[Mark, float]]:
        """For each event: after how many seconds all tasks were back that it can have held up.

        Those are the tasks that were under way then, and those that came within `EFFECT_S` and
        took more than `HELD_UP` times as long as a typical task: a coordinator that restarts
        answers nobody who comes while it starts.
        """
        latencies_ms = self.latencies_ms
        held_up_s = HELD_UP * quantile(latencies_ms, 0.5) / 1000 if latencies_ms else 0.0
        found: list[tuple[Mark, float]] = []
        for mark in self.marks:
            slowest_s = 0.0
            for task in self.tasks:
                if task.submitted_s > mark.at_s + EFFECT_S:
                    continue
                ended_s = math.inf if task.ended_s is None else task.ended_s
                under_way = task.submitted_s <= mark.at_s < ended_s
                came_later = task.submitted_s > mark.at_s
                if under_way or (came_later and ended_s - task.submitted_s > held_up_s):
                    slowest_s = max(slowest_s, ended_s - mark.at_s)
            found.append((mark, slowest_s))
        return found

    def checks(self) -> list[Check]:
        """The expectations, one by one."""
        expect = self.scenario.expect
        found = [
            Check("no promise is broken", "none", self.broken or "none", not self.broken),
            Check("tasks lost", f"at most {expect.lost}", str(self.lost), self.lost <= expect.lost),
            Check(
                "tasks done",
                f"at least {expect.done_share:.1%}",
                f"{self.done_share:.2%} of {len(self.tasks)}",
                self.done_share >= expect.done_share,
            ),
        ]
        for share, wanted_ms in ((0.5, expect.p50_ms), (0.99, expect.p99_ms)):
            if wanted_ms is not None:
                ms = quantile(self.latencies_ms, share)
                text = f"at most {wanted_ms:g} ms"
                found.append(Check(f"p{share * 100:g}", text, f"{ms:.2f} ms", ms <= wanted_ms))
        if expect.tasks_per_s is not None:
            rate = self.tasks_per_s
            text = f"at least {expect.tasks_per_s:g}"
            found.append(Check("tasks a second", text, f"{rate:.1f}", rate >= expect.tasks_per_s))
        if expect.ready_within_s is not None:
            slowest_s = max(self.ready_after_s.values(), default=math.inf)
            text = f"within {expect.ready_within_s:g} s"
            held = slowest_s <= expect.ready_within_s
            found.append(Check("all nodes ready", text, f"{slowest_s:.2f} s", held))
        if expect.recovered_within_s is not None:
            slowest_s = max((after_s for _, after_s in self.recoveries()), default=0.0)
            text = f"within {expect.recovered_within_s:g} s"
            held = slowest_s <= expect.recovered_within_s
            found.append(Check("recovered from each event", text, f"{slowest_s:.2f} s", held))
        if self.twin is not None:
            error = self.twin.worst_error
            found.append(Check("twin", "within 20 %", f"{error:.1%}", error <= TWIN_WITHIN))
        return found

    @property
    def held(self) -> bool:
        """Whether every expectation held."""
        return all(check.held for check in self.checks())

    def to_dict(self) -> dict[str, object]:
        """For JSON: figures and checks; not every single task."""
        latencies = self.latencies_ms
        return {
            "scenario": self.scenario.name,
            "mode": self.mode,
            "seed": self.scenario.seed,
            "held": self.held,
            "tasks": len(self.tasks),
            "lost": self.lost,
            "done_share": self.done_share,
            "p50_ms": finite(quantile(latencies, 0.5)),
            "p99_ms": finite(quantile(latencies, 0.99)),
            "tasks_per_s": self.tasks_per_s,
            "retried": sum(task.attempts > 1 for task in self.tasks),
            "ready_after_s": {name: finite(value) for name, value in self.ready_after_s.items()},
            "recoveries": [
                {"at_s": mark.at_s, "event": mark.text, "after_s": finite(after_s)}
                for mark, after_s in self.recoveries()
            ],
            "bytes_by_topic": self.bytes_by_topic,
            "checks": [asdict(check) for check in self.checks()],
            "twin": None
            if self.twin is None
            else {**asdict(self.twin), "worst_error": finite(self.twin.worst_error)},
            "broken": self.broken,
            "took_s": self.took_s,
        }


TWIN_WITHIN = 0.2


def quantile(values: Sequence[float], share: float) -> float:
    """A quantile of ascending values; infinite if there are none."""
    if not values:
        return math.inf
    return values[min(len(values) - 1, int(share * len(values)))]


def text_of_ms(value_ms: float) -> str:
    """Three figures, as a person writes them: 4.02 ms, 1,120 ms; "none" for infinity."""
    if not math.isfinite(value_ms):
        return "none"
    if value_ms >= 100:
        return f"{value_ms:,.0f} ms"
    return f"{value_ms:.3g} ms"


def finite(value: float) -> float | None:
    """JSON knows no infinity."""
    return value if math.isfinite(value) else None
