"""Which node gets the next task: filter by constraint, then score by measured latency and load.

Errors come first: a node that fails a model's tasks is closed for that model for a while, so that
one that fails fast does not look fast. What remains is scored by the time until a task given now
would be back: the smoothed time per task at that node times the attempts already on it, plus the
cost of a first load where the model is not warm. Candidates are all free nodes, or a random 16 of
them in a large mesh, so a decision does not grow with the number of nodes (Prequal's probe pool).

How much a node may hold is bounded by its slots and, so that work stays where it can still be
moved, by what it does in `HORIZON_MS`.
"""

from collections.abc import Iterable
from random import Random

from maille_coordinator.core.registry import BOARD_KINDS, ModelKey, ModelSkill, NodeRecord
from maille_coordinator.core.tasks import Task, TaskQueue
from maille_protocol import ModelFormat, TaskFlag

HORIZON_MS = 40.0
"""A node is given as much work as it does in this time, and at least one task a core."""

SAMPLE = 16
WIDE_SAMPLE = 64
COLD_START_MS = 150.0
"""Expected time to load a small model that is not in a node's memory."""

COLD_BYTES_PER_MS = 50_000
"""Expected speed of fetching a model: 50 MB/s."""

SMOOTHING = 0.2
FAILURES_TO_CLOSE = 3
CLOSED_FIRST_MS = 1000.0
CLOSED_MOST_MS = 30_000.0
BUSY_PAUSE_MS = 20.0
DEFAULT_PER_TASK_MS = 1.0


class FreeNodes:
    """A set of nodes from which a random few can be drawn in constant time."""

    def __init__(self) -> None:
        self._nodes: list[NodeRecord] = []
        self._places: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, node: str) -> bool:
        return node in self._places

    def add(self, record: NodeRecord) -> None:
        """Add a node that is not in the set."""
        self._places[record.node] = len(self._nodes)
        self._nodes.append(record)

    def discard(self, node: str) -> None:
        """Remove a node if it is in the set: the last one takes its place."""
        place = self._places.pop(node, None)
        if place is None:
            return
        last = self._nodes.pop()
        if last.node != node:
            self._nodes[place] = last
            self._places[last.node] = place

    def sample(self, count: int, random: Random) -> list[NodeRecord]:
        """All nodes if they are at most `count`, else that many at random, some perhaps twice."""
        nodes = self._nodes
        size = len(nodes)
        if size <= count:
            return list(nodes)
        draw = random.random
        return [nodes[int(draw() * size)] for _ in range(count)]


class Scheduler:
    """Knows which nodes are free and which one is best. Changes no task."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._free: dict[ModelFormat, FreeNodes] = {
            model_format: FreeNodes() for model_format in ModelFormat
        }
        self._typical_ms: dict[ModelKey, float] = {}
        self._listed: dict[str, tuple[ModelFormat, ...]] = {}
        """The formats under which each free node stands: most refreshes change nothing."""
        self.capacity_changes = 0
        """Rises whenever a node may have become able to take more."""

    def refresh(self, record: NodeRecord) -> None:
        """Note that a node's state or load has changed."""
        info = record.info
        free = (
            info is not None and record.takes_work and len(record.outstanding) <= info.slots
        )  # slots plus one
        formats = info.formats if free and info is not None else ()
        if formats is not self._listed.get(record.node):
            self._list(record, formats)
        if free:
            self.capacity_changes += 1

    def _list(self, record: NodeRecord, formats: tuple[ModelFormat, ...]) -> None:
        """Put a node among the free ones of these formats, and no others."""
        for model_format, nodes in self._free.items():
            nodes.discard(record.node)
            if model_format in formats:
                nodes.add(record)
        if formats:
            self._listed[record.node] = formats
        else:
            self._listed.pop(record.node, None)

    def free_count(self, model_format: ModelFormat) -> int:
        """How many nodes could take a task of this format, roughly."""
        return len(self._free[model_format])

    def choose(
        self, queue: TaskQueue, target: NodeRecord | None, task: Task, now_ms: float
    ) -> tuple[NodeRecord, int] | None:
        """The best node for the queue's next task, and how many tasks it may be given now."""
        free = self._free[queue.reference.format]
        if queue.target is not None:
            if target is None or target.node not in free:
                return None
            skill = target.skills.get((queue.model.name, queue.model.version))
            room = self._room(target, skill, queue, task, now_ms)
            return (target, room) if room > 0 else None
        for count in (SAMPLE, WIDE_SAMPLE):
            best = self._best(free.sample(count, self._random), queue, task, now_ms)
            if best is not None or len(free) <= count:
                return best
        return None

    def _best(
        self, candidates: list[NodeRecord], queue: TaskQueue, task: Task, now_ms: float
    ) -> tuple[NodeRecord, int] | None:
        best: NodeRecord | None = None
        best_room = 0
        best_cost = float("inf")
        # This loop is most of what a decision costs: what is the same for all nodes stands before it.
        reference = queue.reference
        key = (queue.model.name, queue.model.version)
        typical_ms = self._typical_ms.get(key, DEFAULT_PER_TASK_MS)
        warm_name = reference.sha256[:8]
        cold_ms = COLD_START_MS + reference.size_bytes / COLD_BYTES_PER_MS
        avoid = task.avoid
        for record in candidates:
            skill = record.skills.get(key)
            per_task_ms = skill.per_task_ms if skill is not None else 0.0
            cost = (per_task_ms or typical_ms) * (len(record.outstanding) + 1)
            if warm_name not in record.warm:
                cost += cold_ms
            if record.node == avoid:
                # Better than waiting for ever, worse than any other node.
                cost += 1e9
            if cost >= best_cost:
                continue
            # Last, as it costs most, and few candidates come this far.
            room = self._room(record, skill, queue, task, now_ms)
            if room > 0:
                best, best_room, best_cost = record, room, cost
        return None if best is None else (best, best_room)

    def _room(
        self,
        record: NodeRecord,
        skill: ModelSkill | None,
        queue: TaskQueue,
        task: Task,
        now_ms: float,
    ) -> int:
        info = record.info
        if info is None or record.window_closed_until_ms > now_ms:
            return 0
        if record.shared_until_ms > now_ms and task.record.flags & TaskFlag.AT_MOST_ONCE:
            return 0  # if the present process has to go, the task's end stays unknown
        if (record.board is not None or info.kind in BOARD_KINDS) and not record.can_run(
            queue.reference.sha256, queue.offer_bytes(task)
        ):
            return 0
        held = len(record.outstanding)
        most = info.slots + 1
        at_least = (info.measured.cores or 1) + 1
        if skill is None:
            return min(at_least, most) - held
        if skill.closed_until_ms > now_ms:
            return 0
        if skill.failures_in_row >= FAILURES_TO_CLOSE:
            # Half open: one task shows whether the node has recovered.
            return 1 if held == 0 else 0
        window = at_least
        if skill.per_task_ms:
            window = max(at_least, int(HORIZON_MS / skill.per_task_ms))
        return min(window, most) - held

    def learn_success(self, record: NodeRecord, task: Task, now_ms: float) -> None:
        """Note how long an attempt took."""
        key = (task.record.model, task.record.version)
        skill = record.skills.get(key)
        if skill is None:
            skill = record.skills[key] = ModelSkill()
        sample = max(0.001, (now_ms - task.offered_ms) / max(1, task.load_at_offer))
        old = skill.per_task_ms
        # The first sample holds the load of the model: the second one replaces it.
        skill.per_task_ms = (
            sample if not old or sample < old / 4 else old + SMOOTHING * (sample - old)
        )
        skill.failures_in_row = 0
        typical = self._typical_ms.get(key)
        self._typical_ms[key] = (
            sample if typical is None else typical + SMOOTHING * (sample - typical)
        )

    def learn_failure(self, record: NodeRecord, key: ModelKey, now_ms: float) -> None:
        """Note that an attempt failed by the node's fault."""
        skill = record.skills.get(key)
        if skill is None:
            skill = record.skills[key] = ModelSkill()
        skill.failures_in_row += 1
        beyond = skill.failures_in_row - FAILURES_TO_CLOSE
        if beyond >= 0:
            skill.closed_until_ms = now_ms + min(
                CLOSED_MOST_MS, CLOSED_FIRST_MS * 2 ** min(beyond, 10)
            )

    def learn_busy(self, record: NodeRecord, now_ms: float) -> None:
        """Note that a node said it was full: leave it alone for a moment."""
        record.window_closed_until_ms = now_ms + BUSY_PAUSE_MS

    def forgive(self, records: Iterable[NodeRecord], key: ModelKey) -> None:
        """Forget failures with a model whose cause has gone."""
        for record in records:
            skill = record.skills.get(key)
            if skill is not None:
                skill.failures_in_row = 0
                skill.closed_until_ms = 0.0
        self.capacity_changes += 1

    def forget_model(self, key: ModelKey) -> None:
        """Drop what was learnt of a model that is gone."""
        self._typical_ms.pop(key, None)
