"""One large run in virtual time: ten thousand nodes, a million tasks."""

import resource
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from random import Random

from maille.client_events import TaskSettings
from maille_coordinator.records import TaskEnd
from maille_protocol import Outcome
from maille_simulator.virtual.broker import Weather
from maille_simulator.virtual.chaos import TENSOR_HEAD
from maille_simulator.virtual.faults import Fault, FaultKind
from maille_simulator.virtual.plan import Burst, RunPlan
from maille_simulator.virtual.profile import NodeProfile, VirtualModel
from maille_simulator.virtual.violation import Violation
from maille_simulator.virtual.world import World

BURST = 100
CLIENTS = 4
RUN_MS = 50.0
KEPT_ENDS = 200_000
JOIN_MS = 2_000.0


@dataclass(frozen=True, slots=True)
class ScaleResult:
    """What one large run was."""

    nodes: int
    tasks: int
    done: int
    retried: int
    virtual_s: float
    took_s: float
    messages: int
    memory_bytes: int
    """Largest resident size of this process."""

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


class _NewestEnds(OrderedDict[bytes, TaskEnd]):
    """The journal's ends, pruned as the real one is: the run must fit into memory."""

    def __setitem__(self, task_id: bytes, end: TaskEnd) -> None:
        super().__setitem__(task_id, end)
        while len(self) > KEPT_ENDS:
            self.popitem(last=False)


class _ScaleWorld(World):
    """A world whose tasks come from a generator and are forgotten when they are back."""

    def __init__(self, plan: RunPlan, bursts: Iterator[Burst], tasks: int) -> None:
        super().__init__(plan)
        self.journal.ends = _NewestEnds()
        self.expected = tasks
        self.retried = 0
        self._bursts = bursts
        self._next_burst()

    def _next_burst(self) -> None:
        burst = next(self._bursts, None)
        if burst is not None:
            self.schedule.at(burst.at_ms, self._submit_and_go_on, burst)

    def _submit_and_go_on(self, burst: Burst) -> None:
        self._submit(burst)
        self._next_burst()

    def _deliver(self, client: str, outcome: Outcome) -> None:
        super()._deliver(client, outcome)
        self.retried += outcome.attempts > 1
        del self.ledger.tasks[outcome.task_id]

    def _finished(self) -> bool:
        return self.ledger.delivered >= self.expected


def run_scale(nodes: int, tasks: int, *, seed: int = 0) -> ScaleResult:
    """Play one large run: nodes at two thirds of their capacity, one in a hundred killed.

    Raises:
        Violation: a promise of the mesh was broken.
    """
    started_s = time.perf_counter()
    random = Random(seed)
    names = [f"n{number:05d}" for number in range(nodes)]
    per_ms = nodes * 0.66 / RUN_MS
    load_ms = tasks / per_ms
    faults = tuple(
        Fault(JOIN_MS + random.random() * load_ms, FaultKind.KILL, name, 3000.0, 0.0)
        for name in random.sample(names, max(1, nodes // 100))
    )
    weather = Weather()
    plan = RunPlan(
        seed,
        tuple(
            (name, NodeProfile(slots=8, cores=1, workers=1), random.random() * JOIN_MS)
            for name in names
        ),
        (VirtualModel("model", RUN_MS),),
        tuple(f"client-{number}" for number in range(CLIENTS)),
        (),
        (),
        tuple(sorted(faults, key=lambda fault: fault.at_ms)),
        weather,
        weather,
        keepalive_ms=22_500.0,
        healed_ms=JOIN_MS + load_ms,
        validate_every_ms=2_000.0,
        heals=False,
        max_open_tasks=max(200_000, tasks // 4),
    )
    world = _ScaleWorld(plan, _bursts(tasks, per_ms), tasks)
    world.play()
    if world.ledger.delivered < tasks:
        text = f"{tasks - world.ledger.delivered} of {tasks} tasks never came back"
        raise Violation("nothing is lost", text)
    world.coordinator.validate()
    world.coordinator.watch.check_memory()
    return ScaleResult(
        nodes,
        tasks,
        sum(world.ledger.outcomes.values()),
        world.retried,
        world.schedule.now_ms / 1000,
        time.perf_counter() - started_s,
        world.broker.messages,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _bursts(tasks: int, per_ms: float) -> Iterator[Burst]:
    settings = TaskSettings("model")
    for number in range(0, tasks, BURST):
        count = min(BURST, tasks - number)
        ids = [(number + place + 1).to_bytes(16, "big") for place in range(count)]
        yield Burst(
            JOIN_MS + number / per_ms,
            f"client-{number // BURST % CLIENTS}",
            settings,
            tuple((task_id, TENSOR_HEAD + task_id) for task_id in ids),
        )
