"""What must always hold of a core, whatever has happened to it. For tests and simulations."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from maille_coordinator.core.registry import Registry
from maille_coordinator.core.tasks import Task
from maille_protocol import TaskState


class InvariantBroken(Exception):
    """Raised when what the core holds contradicts itself: a fault of the core."""


def check(tasks: Mapping[bytes, Task], registry: Registry, waiting: AbstractSet[bytes]) -> None:
    """InvariantBroken if the open tasks, the nodes and the queues do not agree.

    Args:
        tasks: the open tasks by id.
        registry: the nodes.
        waiting: ids of the tasks in a queue or in back-off.
    """
    held = 0
    for record in registry:
        for task_id, task in record.outstanding.items():
            held += 1
            _require(tasks.get(task_id) is task, f"{task_id.hex()} is held but not open")
            _require(task.node == record.node, f"{task_id.hex()} is held by the wrong node")
            offered = task.state in (TaskState.OFFERED, TaskState.RUNNING)
            _require(offered, f"{task_id.hex()} is held but {task.state.value}")
        slots = 0 if record.info is None else record.info.slots
        _require(len(record.outstanding) <= slots + 1, f"{record.node} holds more than its slots")
        _require(record.alive or not record.outstanding, f"{record.node} is gone but holds work")
    away = sum(task.state is not TaskState.QUEUED for task in tasks.values())
    _require(away == held, f"{away} tasks are offered, nodes hold {held}")
    for task_id, task in tasks.items():
        _require(not task.state.final, f"{task_id.hex()} has ended but is open")
        if task.state is TaskState.QUEUED:
            _require(task_id in waiting, f"{task_id.hex()} waits in no queue")


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise InvariantBroken(text)
