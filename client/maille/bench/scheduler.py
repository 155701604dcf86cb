"""How long the coordinator's core takes to decide, by the number of nodes: no I/O, one thread.

Each number of nodes is measured in several rounds and the round with the lowest p99 counts: what
other programs of the machine did in the others is none of the core's time.
"""

import gc
import math
import time
from dataclasses import asdict, dataclass
from random import Random

import numpy as np

from maille_coordinator.core import Core, CoreLimits
from maille_coordinator.core.actions import Action, SendOffers
from maille_coordinator.core.events import BrokerConnected, ClientSpoke, ModelAdded, NodeSpoke
from maille_coordinator.records import ModelRecord
from maille_protocol import (
    Envelope,
    ErrorCode,
    Heartbeat,
    Measured,
    ModelFormat,
    NodeInfo,
    NodeKind,
    NodeState,
    NodeStatus,
    Result,
    Results,
    ResultStatus,
    Submission,
    Submit,
)
from maille_protocol.limits import MAX_PUBLISH_BYTES
from maille_protocol.signature import TensorSpec
from maille_protocol.tensors import encode_tensors

NODE_COUNTS = (200, 2_000, 20_000)
WARM_UP = 500
ROUNDS = 10
START_MS = 1_700_000_000_000.0
_MODEL = ModelRecord(
    "model",
    1,
    b"m" * 32,
    10_000,
    ModelFormat.ONNX,
    (TensorSpec("x", "float32", ("n",)),),
    (TensorSpec("y", "float32", ("n",)),),
    False,
    0,
)
_MEASURED = Measured(cores=2)


@dataclass(frozen=True, slots=True)
class DecisionTime:
    """Times in microseconds, of one whole event of the core."""

    nodes: int
    decisions: int
    submit_p50_us: float
    """From a submission to its offer: admission, queue, choice of a node."""
    submit_p99_us: float
    result_p50_us: float
    """From a result to the task's end, with the next waiting task offered."""
    result_p99_us: float
    heartbeat_p50_us: float


@dataclass(frozen=True, slots=True)
class SchedulerCost:
    """One line for each number of nodes."""

    times: tuple[DecisionTime, ...]

    @property
    def grows_no_faster_than_log(self) -> bool:
        """Whether each p50 lies within a quarter above the first one's logarithmic line."""
        first = self.times[0]
        return all(
            one.submit_p50_us
            <= 1.25 * first.submit_p50_us * math.log(one.nodes) / math.log(first.nodes)
            for one in self.times
        )

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "times": [asdict(one) for one in self.times],
            "grows_no_faster_than_log": self.grows_no_faster_than_log,
        }


def measure_scheduler(
    node_counts: tuple[int, ...] = NODE_COUNTS, decisions: int = 20_000
) -> SchedulerCost:
    """Measure the core with so many nodes, half of them busy, with models learnt."""
    return SchedulerCost(tuple(_measure(count, decisions) for count in node_counts))


def _measure(nodes: int, decisions: int) -> DecisionTime:
    bench = _Bench(nodes)
    bench.run(WARM_UP)
    gc.collect()
    gc.freeze()
    gc.disable()
    rounds: list[DecisionTime] = []
    try:
        for _ in range(ROUNDS):
            for times in (bench.submit_us, bench.result_us, bench.heartbeat_us):
                times.clear()
            bench.run(decisions // ROUNDS)
            rounds.append(_quantiles(nodes, bench))
    finally:
        gc.enable()
        gc.unfreeze()
    return min(rounds, key=lambda one: one.submit_p99_us)


def _quantiles(nodes: int, bench: "_Bench") -> DecisionTime:
    submit, result = sorted(bench.submit_us), sorted(bench.result_us)
    heartbeat = sorted(bench.heartbeat_us)
    return DecisionTime(
        nodes,
        len(submit),
        submit[len(submit) // 2],
        submit[int(len(submit) * 0.99)],
        result[len(result) // 2],
        result[int(len(result) * 0.99)],
        heartbeat[len(heartbeat) // 2],
    )


class _Bench:
    """A core with nodes that answer after a while, by hand."""

    def __init__(self, nodes: int) -> None:
        self.submit_us: list[float] = []
        self.result_us: list[float] = []
        self.heartbeat_us: list[float] = []
        self._random = Random(nodes)
        self._now_ms = START_MS
        self._sequences = [0] * nodes
        self._core = Core(epoch=1, random=Random(1), limits=CoreLimits(max_open_tasks=1_000_000))
        self._names = [f"n{number}" for number in range(nodes)]
        self._number = 0
        self._held: list[tuple[int, bytes, int]] = []
        self._keep = max(10, nodes // 2)
        self._core.handle(BrokerConnected(), START_MS)
        self._core.handle(ModelAdded(_MODEL), START_MS)
        self._content = encode_tensors({"x": np.zeros(1, np.float32)})
        for number, name in enumerate(self._names):
            info = NodeInfo(
                NodeKind.SIMULATED, name, "bench", 8, (ModelFormat.ONNX,), MAX_PUBLISH_BYTES,
                _MEASURED,
            )  # fmt: skip
            for message in (NodeStatus(NodeState.INIT), info, NodeStatus(NodeState.READY)):
                self._say(number, message)
            self._beat(number)
        # A mesh at work: half of the nodes hold something.
        while len(self._held) < self._keep:
            self._submit()
        self.submit_us.clear()

    def run(self, decisions: int) -> None:
        """A submission, a result and, now and then, a heartbeat, so many times."""
        for turn in range(decisions):
            self._now_ms += 0.05
            self._submit()
            self._result()
            if turn % 4 == 0:
                number = self._random.randrange(len(self._names))
                begin = time.perf_counter()
                self._beat(number)
                self.heartbeat_us.append((time.perf_counter() - begin) * 1e6)

    def _say(self, number: int, message: NodeStatus | NodeInfo | Heartbeat | Results) -> None:
        self._sequences[number] += 1
        event = NodeSpoke(self._names[number], Envelope(1, self._sequences[number], 1, message))
        self._take(self._core.handle(event, self._now_ms))

    def _beat(self, number: int) -> None:
        self._say(number, Heartbeat(0, 0, 0, 0, None, (_MODEL.sha256[:8],), ()))

    def _submit(self) -> None:
        self._number += 1
        task_id = self._number.to_bytes(16, "big")
        submit = Submit(
            self._number, "model", 0, 5, 0, 0, 0, None, (Submission(task_id, self._content),)
        )
        event = ClientSpoke("bench", submit)
        begin = time.perf_counter()
        actions = self._core.handle(event, self._now_ms)
        self.submit_us.append((time.perf_counter() - begin) * 1e6)
        self._take(actions)

    def _result(self) -> None:
        place = self._random.randrange(len(self._held))
        self._held[place], self._held[-1] = self._held[-1], self._held[place]
        number, task_id, attempt = self._held.pop()
        self._sequences[number] += 1
        result = Result(
            task_id, attempt, 1, ResultStatus.DONE, ErrorCode.NONE, self._content, 1000, 0
        )
        envelope = Envelope(1, self._sequences[number], 1, Results((result,)))
        event = NodeSpoke(self._names[number], envelope)
        begin = time.perf_counter()
        actions = self._core.handle(event, self._now_ms)
        self.result_us.append((time.perf_counter() - begin) * 1e6)
        self._take(actions)

    def _take(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, SendOffers):
                number = int(action.node[1:])
                self._held += [(number, offer.task_id, offer.attempt) for offer in action.offers]
