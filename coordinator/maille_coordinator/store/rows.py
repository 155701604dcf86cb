"""Records to rows of the journal and back; no SQL runs here."""

from typing import TypeAlias

from maille_coordinator.records import AttemptRecord, TaskEnd, TaskRecord, TaskView
from maille_protocol import ErrorCode, OutcomeStatus, Reference, TaskState, cbor
from maille_protocol.contents import Content

Row: TypeAlias = tuple[int | str | bytes | None, ...]

STATE_OF_STATUS = {
    OutcomeStatus.DONE: TaskState.DONE.value,
    OutcomeStatus.FAILED: TaskState.FAILED.value,
    OutcomeStatus.REJECTED: TaskState.FAILED.value,
    OutcomeStatus.CANCELLED: TaskState.CANCELLED.value,
    OutcomeStatus.EXPIRED: TaskState.EXPIRED.value,
    OutcomeStatus.DEAD: TaskState.DEAD.value,
}

INSERT_OPEN = (
    "INSERT INTO open SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13"
    " WHERE NOT EXISTS (SELECT 1 FROM ended WHERE id = ?2)"
)
INSERT_STARTED = "INSERT OR REPLACE INTO started VALUES (?, ?)"
INSERT_ENDED = (
    "INSERT INTO ended SELECT ?2, id, ?3, ?4, client, model, version, priority, accepted_at,"
    " ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12 FROM open WHERE seq = ?1"
)
DELETE_OPEN = "DELETE FROM open WHERE seq = ?"
DELETE_STARTED = "DELETE FROM started WHERE seq = ?"

SELECT_OPEN = (
    "SELECT open.seq, id, client, model, version, priority, accepted_at, deadline_at,"
    " max_attempts, flags, target, content_size, content, node"
    " FROM open LEFT JOIN started ON started.seq = open.seq"
)
SELECT_ENDED_VIEW = (
    "SELECT id, status, code, client, model, version, priority, accepted_at, ended_at, node,"
    " attempts, run_us, total_us FROM ended"
)
SELECT_ENDED = (
    "SELECT id, status, code, client, model, version, priority, accepted_at, ended_at, node,"
    " attempts, run_us, total_us, history, content_size, content FROM ended WHERE id = ?"
)


def open_row(seq: int, record: TaskRecord) -> Row:
    """The parameters of `INSERT_OPEN`."""
    content = record.content
    size: int | None = None
    if not isinstance(content, bytes):
        size, content = content.size_bytes, content.sha256
    return (
        seq,
        record.task_id,
        record.client,
        record.model,
        record.version,
        record.priority,
        record.accepted_at_unix_ms,
        record.deadline_at_unix_ms,
        record.max_attempts,
        record.flags,
        record.target,
        size,
        content,
    )


def ended_row(open_seq: int, seq: int, end: TaskEnd) -> Row:
    """The parameters of `INSERT_ENDED`."""
    content = end.content
    size: int | None = None
    if not isinstance(content, bytes):
        size, content = content.size_bytes, content.sha256
    return (
        open_seq,
        seq,
        int(end.status),
        int(end.code),
        end.ended_at_unix_ms,
        end.node,
        end.attempts,
        end.run_us,
        end.total_us,
        _history_bytes(end.history) if end.history else None,
        size,
        content,
    )


def record_of(row: tuple[object, ...]) -> TaskRecord:
    """The task of a row of `SELECT_OPEN`."""
    (_, task_id, client, model, version, priority, accepted, deadline, attempts, flags, target) = (
        row[:11]
    )
    return TaskRecord(
        _bytes(task_id),
        _text(client),
        _text(model),
        _int(version),
        _int(priority),
        _int(accepted),
        _int(deadline),
        _int(attempts),
        _int(flags),
        None if target is None else _text(target),
        _content(row[11], row[12]),
    )


def open_view(record: TaskRecord, node: str) -> TaskView:
    """An open task as the journal knows it: queued, because nothing else is written down."""
    return TaskView(
        task_id=record.task_id,
        client=record.client,
        model=record.model,
        version=record.version,
        state=TaskState.QUEUED.value,
        priority=record.priority,
        accepted_at_unix_ms=record.accepted_at_unix_ms,
        node=node,
        attempts=0,
    )


def ended_view(row: tuple[object, ...]) -> TaskView:
    """The task of a row of `SELECT_ENDED_VIEW` or `SELECT_ENDED`."""
    whole = len(row) > 13
    return TaskView(
        task_id=_bytes(row[0]),
        client=_text(row[3]),
        model=_text(row[4]),
        version=_int(row[5]),
        state=STATE_OF_STATUS[OutcomeStatus(_int(row[1]))],
        priority=_int(row[6]),
        accepted_at_unix_ms=_int(row[7]),
        node=_text(row[9]),
        attempts=_int(row[10]),
        ended_at_unix_ms=_int(row[8]),
        code=ErrorCode(_int(row[2])),
        run_us=_int(row[11]),
        total_us=_int(row[12]),
        content=_content(row[14], row[15]) if whole else None,
        history=_history(row[13]) if whole else (),
    )


def end_of(row: tuple[object, ...]) -> TaskEnd:
    """The end of a row of `SELECT_ENDED`."""
    return TaskEnd(
        task_id=_bytes(row[0]),
        status=OutcomeStatus(_int(row[1])),
        code=ErrorCode(_int(row[2])),
        content=_content(row[14], row[15]),
        node=_text(row[9]),
        attempts=_int(row[10]),
        run_us=_int(row[11]),
        total_us=_int(row[12]),
        ended_at_unix_ms=_int(row[8]),
        history=_history(row[13]),
    )


def _history_bytes(history: tuple[AttemptRecord, ...]) -> bytes:
    return cbor.encode(
        [
            [
                item.attempt,
                item.node,
                int(item.code),
                item.reason,
                item.started_at_unix_ms,
                item.ended_at_unix_ms,
            ]
            for item in history
        ]
    )


def _history(data: object) -> tuple[AttemptRecord, ...]:
    if data is None:
        return ()
    items = cbor.decode(_bytes(data))
    if not isinstance(items, list):
        raise TypeError("a task's history is no array")
    return tuple(
        AttemptRecord(
            _int(attempt), _text(node), ErrorCode(_int(code)), _text(reason), _int(start), _int(end)
        )
        for attempt, node, code, reason, start, end in items
    )


def _content(size: object, content: object) -> Content:
    data = _bytes(content)
    return data if size is None else Reference(data, _int(size))


def _bytes(value: object) -> bytes:
    if type(value) is not bytes:
        raise TypeError(f"expected bytes in the journal, got {type(value).__name__}")
    return value


def _text(value: object) -> str:
    if type(value) is not str:
        raise TypeError(f"expected text in the journal, got {type(value).__name__}")
    return value


def _int(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"expected a number in the journal, got {type(value).__name__}")
    return value
