"""The coordinator's records as the API's JSON."""

from maille_coordinator.api import schemas
from maille_coordinator.records import AttemptRecord, MeshEvent, ModelRecord, NodeView, TaskView
from maille_protocol import NodeInfo
from maille_protocol.signature import TensorSpec


def mesh_node(view: NodeView) -> schemas.Node:
    """One node."""
    return schemas.Node.model_validate(
        {
            "node": view.node,
            "state": view.state.name.lower(),
            "info": None if view.info is None else _node_info(view.info),
            "last_heard_ms_ago": view.last_heard_ms_ago,
            "running": view.running,
            "queued": view.queued,
            "outstanding": view.outstanding,
            "latency_us": view.latency_us,
            "done": view.done,
            "failed": view.failed,
            "battery_percent": view.battery_percent,
            "warm_models": list(view.warm_models),
            "reason": view.reason,
        }
    )


def model(record: ModelRecord) -> schemas.Model:
    """One version of a model."""
    return schemas.Model.model_validate(
        {
            "name": record.name,
            "version": record.version,
            "sha256": record.sha256.hex(),
            "size_bytes": record.size_bytes,
            "format": record.format.name.lower(),
            "inputs": [_tensor(spec) for spec in record.inputs],
            "outputs": [_tensor(spec) for spec in record.outputs],
            "batchable": record.batchable,
            "added_at_unix_ms": record.added_at_unix_ms,
            "description": record.description,
        }
    )


def task_summary(view: TaskView) -> dict[str, object]:
    """One task in a list: the fields of `schemas.TaskSummary`."""
    return {
        "task_id": view.task_id.hex(),
        "client": view.client,
        "model": view.model,
        "version": view.version,
        "state": view.state,
        "priority": view.priority,
        "accepted_at_unix_ms": view.accepted_at_unix_ms,
        "ended_at_unix_ms": view.ended_at_unix_ms,
        "node": view.node,
        "attempts": view.attempts,
        "code": view.code.name.lower(),
        "run_us": view.run_us,
        "total_us": view.total_us,
    }


def attempt(record: AttemptRecord) -> dict[str, object]:
    """One earlier try: the fields of `schemas.Attempt`."""
    return {
        "attempt": record.attempt,
        "node": record.node,
        "code": record.code.name.lower(),
        "reason": record.reason,
        "started_at_unix_ms": record.started_at_unix_ms,
        "ended_at_unix_ms": record.ended_at_unix_ms,
    }


def event(record: MeshEvent) -> schemas.Event:
    """One event."""
    return schemas.Event(
        kind=record.kind,
        at_unix_ms=record.at_unix_ms,
        subject=record.subject,
        text=record.text,
        details=dict(record.details),
    )


def _node_info(info: NodeInfo) -> dict[str, object]:
    measured = info.measured
    return {
        "kind": info.kind.name.lower(),
        "name": info.name,
        "software": info.software,
        "slots": info.slots,
        "formats": [known.name.lower() for known in info.formats],
        "max_message_bytes": info.max_message_bytes,
        "measured": {
            "cores": measured.cores,
            "memory_bytes": measured.memory_bytes,
            "multiply_accumulates_per_s": measured.multiply_accumulates_per_s,
            "memory_bytes_per_s": measured.memory_bytes_per_s,
            "disk_free_bytes": measured.disk_free_bytes,
            "accelerators": list(measured.accelerators),
        },
        "gateway": info.gateway,
    }


def _tensor(spec: TensorSpec) -> dict[str, object]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}
