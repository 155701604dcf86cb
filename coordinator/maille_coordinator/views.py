"""How the core's records look to people."""

from collections.abc import Iterable

from maille_coordinator.core.registry import NodeRecord
from maille_coordinator.core.tasks import Task
from maille_coordinator.records import ModelRecord, NodeView, TaskView
from maille_protocol.limits import WARM_MODEL_BYTES


def node_view(record: NodeRecord, models: Iterable[ModelRecord], now_ms: float) -> NodeView:
    """One node."""
    warm = sorted(
        f"{model.name}:{model.version}"
        for model in models
        if model.sha256[:WARM_MODEL_BYTES] in record.warm
    )
    return NodeView(
        record.node,
        record.state,
        record.info,
        record.boot,
        max(0, int(now_ms - record.last_heard_ms)),
        record.running,
        record.queued,
        len(record.outstanding),
        record.latency_us,
        record.done,
        record.failed,
        record.battery_percent,
        tuple(warm),
        record.reason,
    )


def open_task_view(task: Task, *, content: bool) -> TaskView:
    """One open task."""
    record = task.record
    return TaskView(
        record.task_id,
        record.client,
        record.model,
        record.version,
        task.state.value,
        record.priority,
        record.accepted_at_unix_ms,
        task.node,
        task.attempt,
        content=record.content if content else None,
        history=tuple(task.history),
    )
