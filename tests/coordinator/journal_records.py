"""Task records for the tests of the journal."""

import os

from maille_coordinator.records import AttemptRecord, TaskEnd, TaskRecord
from maille_protocol import ErrorCode, OutcomeStatus, Reference
from maille_protocol.contents import Content


def task_record(
    task_id: bytes | None = None,
    *,
    client: str = "client-1",
    model: str = "digits",
    content: Content = b"inputs",
    accepted_at: int = 1_700_000_000_000,
) -> TaskRecord:
    return TaskRecord(
        task_id=task_id or os.urandom(16),
        client=client,
        model=model,
        version=1,
        priority=5,
        accepted_at_unix_ms=accepted_at,
        deadline_at_unix_ms=accepted_at + 60_000,
        max_attempts=5,
        flags=1,
        target="node-2",
        content=content,
    )


def task_end(
    task_id: bytes,
    *,
    status: OutcomeStatus = OutcomeStatus.DONE,
    content: Content = b"outputs",
    ended_at: int = 1_700_000_001_000,
) -> TaskEnd:
    return TaskEnd(
        task_id=task_id,
        status=status,
        code=ErrorCode.NONE if status is OutcomeStatus.DONE else ErrorCode.NODE_ERROR,
        content=content,
        node="node-1",
        attempts=2,
        run_us=300,
        total_us=1200,
        ended_at_unix_ms=ended_at,
        history=(AttemptRecord(1, "node-3", ErrorCode.NODE_LOST, "no heartbeat", 1, 2),),
    )


REFERENCE = Reference(bytes(range(32)), 1 << 20)
