"""The SQLite journal of tasks: group commits in, tasks out.

Every call is made in one thread (the event loop's) and returns without waiting for the disk,
unless `sync` is "full". What `commit` has returned from survives the death of any process; with
"full" it also survives a power cut.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, TypeAlias

from maille_coordinator.boards.records import Wish
from maille_coordinator.language.records import RingKept, SessionRecord
from maille_coordinator.records import NodeWish, StartedMark, TaskEnd, TaskRecord, TaskView
from maille_coordinator.store import boards, nodes, rows, sessions
from maille_coordinator.store.checkpoint import Checkpointer
from maille_coordinator.store.errors import JournalConflict, StoreError, explain
from maille_coordinator.store.lock import FileLock
from maille_coordinator.store.schema import connect_writer
from maille_coordinator.store.sessions import StoredSession

JournalRecord: TypeAlias = TaskRecord | TaskEnd | StartedMark | NodeWish

_PRUNE_STEP_ROWS = 16
_PRUNE_STEP_S = 0.002
"""Half of what a prune may take; its commit takes the rest."""


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """How much the journal holds."""

    open_tasks: int
    ended_tasks: int
    file_bytes: int
    log_bytes: int


class Store:
    """The journal in the file `path`; its directory is made if need be.

    The file and all beside it are readable by their owner only.
    """

    def __init__(self, path: Path, *, sync: Literal["normal", "full"] = "normal") -> None:
        self._path = path
        self._sync = sync.upper()
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        self._checkpointer = Checkpointer(path)
        self._connection: sqlite3.Connection | None = None
        self._open: dict[bytes, int] = {}
        self._started: set[int] = set()
        self._next_open = 1
        self._next_ended = 1
        self._ended_count = 0

    def open(self) -> None:
        """Open or create the file.

        Raises:
            StoreLocked: another coordinator uses it.
            StoreVersion: it is from a newer version.
            StoreCorrupt: it is damaged, or not a journal.
            StoreError: it cannot be read or written.
        """
        if self._connection is not None:
            raise StoreError(f"{self._path} is already open")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StoreError(
                f"{self._path.parent} cannot be made ({error.strerror}): give this user write "
                "access to the directory above it, or choose another state directory"
            ) from error
        self._lock.acquire()
        try:
            # SQLite gives the log and the index the mode of the file.
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            self._path.chmod(0o600)
            connection = connect_writer(self._path)
        except OSError as error:
            self._lock.release()
            raise StoreError(
                f"{self._path} cannot be written ({error.strerror}): give this user write access "
                "to it, or choose another state directory"
            ) from error
        except sqlite3.Error as error:
            self._lock.release()
            raise explain(error, self._path) from error
        except BaseException:
            self._lock.release()
            raise
        try:
            self._load(connection)
        except sqlite3.Error as error:
            connection.close()
            self._lock.release()
            raise explain(error, self._path) from error
        self._connection = connection
        self._checkpointer = Checkpointer(self._path)
        self._checkpointer.start()

    def close(self) -> None:
        """Move the log into the file and give it free. A second call does nothing."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._checkpointer.stop()
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            raise explain(error, self._path) from error
        finally:
            connection.close()
            self._lock.release()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def next_epoch(self, *, minimum: int = 0) -> int:
        """Begin a new epoch: one more than any before, on the disk when this returns.

        Args:
            minimum: begin at least here, so that a journal that was lost or made anew does not
                go back to epochs that nodes have already seen pass.
        """
        connection = self._connected()
        try:
            connection.execute("PRAGMA synchronous = FULL")
            try:
                (row,) = connection.execute(
                    "UPDATE meta SET value = max(value + 1, ?) WHERE key = 'epoch' RETURNING value",
                    (minimum,),
                ).fetchall()
            finally:
                connection.execute(f"PRAGMA synchronous = {self._sync}")
        except sqlite3.Error as error:
            raise explain(error, self._path) from error
        self._checkpointer.written(1)
        epoch: int = row[0]
        return epoch

    def commit(self, records: Sequence[JournalRecord]) -> None:
        """Write `records` in one transaction: all of them or, if this raises, none.

        A task may be accepted, marked and ended in one commit, in any order.

        Raises:
            JournalConflict: a task accepted that is known, or ended or marked that is not open.
            StoreFull: the disk has no room.
            StoreError: the disk fails.
        """
        connection = self._connected()
        known = self._open
        accepted: dict[bytes, int] = {}
        ended: dict[bytes, int] = {}
        marks: list[StartedMark] = []
        node_wishes: list[NodeWish] = []
        ends: list[TaskEnd] = []
        open_rows: list[rows.Row] = []
        seq = self._next_open
        for record in records:
            if isinstance(record, TaskEnd):
                ends.append(record)
            elif isinstance(record, TaskRecord):
                if record.task_id in known or record.task_id in accepted:
                    raise JournalConflict(f"task {record.task_id.hex()} was accepted before")
                accepted[record.task_id] = seq
                open_rows.append(rows.open_row(seq, record))
                seq += 1
            elif isinstance(record, NodeWish):
                node_wishes.append(record)
            else:
                marks.append(record)
        mark_rows = [(_seq(mark.task_id, known, accepted), mark.node) for mark in marks]
        ended_seq = self._next_ended
        ended_rows: list[rows.Row] = []
        for end in ends:
            open_seq = _seq(end.task_id, known, accepted)
            ended[end.task_id] = open_seq
            ended_rows.append(rows.ended_row(open_seq, ended_seq, end))
            ended_seq += 1
        if len(ended) != len(ends):
            raise JournalConflict("a task ended twice in one commit")
        self._write(connection, open_rows, mark_rows, ended_rows, node_wishes)
        self._open.update(accepted)
        self._started.update(mark_seq for mark_seq, _ in mark_rows)
        for task_id, open_seq in ended.items():
            del self._open[task_id]
            self._started.discard(open_seq)
        self._next_open = seq
        self._next_ended = ended_seq
        self._ended_count += len(ended)
        self._checkpointer.written(len(records))

    def open_tasks(self) -> list[tuple[TaskRecord, StartedMark | None]]:
        """Every task that has not ended, in the order of acceptance, with its mark if it has one.

        Raises:
            StoreCorrupt: the file is damaged.
        """
        found: list[tuple[TaskRecord, StartedMark | None]] = []
        for row in self._select(f"{rows.SELECT_OPEN} ORDER BY open.seq"):
            record = rows.record_of(row)
            node = row[13]
            found.append((record, StartedMark(record.task_id, str(node)) if node else None))
        return found

    def ended_ids(self, limit: int) -> list[bytes]:
        """Ids of the last `limit` ended tasks, oldest first."""
        connection = self._connected()
        try:
            found = connection.execute(
                "SELECT id FROM ended ORDER BY seq DESC LIMIT ?", (limit,)
            ).fetchall()
        except sqlite3.Error as error:
            raise explain(error, self._path) from error
        return [task_id for (task_id,) in reversed(found)]

    def task(self, task_id: bytes) -> TaskView | None:
        """One task, None if not known. An open one is shown as queued and without content."""
        seq = self._open.get(task_id)
        if seq is not None:
            (row,) = self._select(f"{rows.SELECT_OPEN} WHERE open.seq = ?", (seq,))
            return rows.open_view(rows.record_of(row), str(row[13] or ""))
        for row in self._select(rows.SELECT_ENDED, (task_id,)):
            return rows.ended_view(row)
        return None

    def is_open(self, task_id: bytes) -> bool:
        """Whether the task was accepted and has not ended; no disk is read."""
        return task_id in self._open

    def end(self, task_id: bytes) -> TaskEnd | None:
        """How a task ended; None if it is open, unknown, or pruned."""
        for row in self._select(rows.SELECT_ENDED, (task_id,)):
            return rows.end_of(row)
        return None

    def tasks(
        self,
        *,
        state: str | None = None,
        model: str | None = None,
        client: str | None = None,
        limit: int = 100,
    ) -> list[TaskView]:
        """Ended tasks, newest first, without content and history. `state` is a final TaskState."""
        conditions: list[str] = []
        parameters: list[str | int] = []
        if state is not None:
            codes = [int(code) for code, name in rows.STATE_OF_STATUS.items() if name == state]
            if not codes:
                return []
            # The extra term lets SQLite use the small index of tasks that ended badly.
            badly = "" if 0 in codes else " AND status <> 0"
            conditions.append(f"status IN ({', '.join(map(str, codes))}){badly}")
        for column, value in (("model", model), ("client", client)):
            if value is not None:
                conditions.append(f"{column} = ?")
                parameters.append(value)
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        found = self._select(
            f"{rows.SELECT_ENDED_VIEW}{where} ORDER BY seq DESC LIMIT ?", (*parameters, limit)
        )
        return [rows.ended_view(row) for row in found]

    def prune(self, older_than_unix_ms: int, keep_newest: int) -> int:
        """Delete some ended tasks that ended before the time given or exceed `keep_newest`.

        One call takes a few milliseconds; call again, after a pause, until it returns 0.

        Returns:
            The number of tasks deleted.
        """
        connection = self._connected()
        deleted = 0
        until = time.perf_counter() + _PRUNE_STEP_S
        try:
            connection.execute("BEGIN IMMEDIATE")
            while True:
                excess = max(0, self._ended_count - deleted - keep_newest)
                oldest = connection.execute(
                    "SELECT seq, ended_at FROM ended ORDER BY seq LIMIT ?", (_PRUNE_STEP_ROWS,)
                ).fetchall()
                doomed = [
                    (seq,)
                    for position, (seq, ended_at) in enumerate(oldest)
                    if position < excess or ended_at < older_than_unix_ms
                ]
                if doomed:
                    connection.executemany("DELETE FROM ended WHERE seq = ?", doomed)
                    deleted += len(doomed)
                if len(doomed) < _PRUNE_STEP_ROWS or time.perf_counter() >= until:
                    break
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back(connection)
            raise explain(error, self._path) from error
        self._ended_count -= deleted
        self._checkpointer.written(deleted)
        return deleted

    def commit_sessions(self, records: Sequence[SessionRecord]) -> None:
        """Write what became of generations, in one transaction.

        Raises:
            JournalConflict: a generation of this id was accepted before.
            StoreFull, StoreError: as `commit`.
        """
        self._in_transaction(lambda connection: sessions.write(connection, records))
        self._checkpointer.written(len(records))

    def stored_sessions(self) -> tuple[list[StoredSession], list[tuple[str, int, int]]]:
        """All generations, and the (node, pipeline, stage) that nodes may hold of them."""
        try:
            connection = self._connected()
            found = sessions.read(connection), sessions.read_stages(connection)
        except sqlite3.Error as error:
            raise explain(error, self._path) from error
        return found

    def stored_rings(self) -> list[RingKept]:
        """How language models were placed. StoreError."""
        try:
            return sessions.read_rings(self._connected())
        except sqlite3.Error as error:
            raise explain(error, self._path) from error

    def prune_sessions(self, ended_before_unix_ms: int) -> int:
        """Delete generations that ended before this time; how many."""
        deleted: list[int] = []
        self._in_transaction(
            lambda connection: deleted.append(sessions.prune(connection, ended_before_unix_ms))
        )
        return deleted[0]

    def commit_wishes(self, changes: Sequence[tuple[Wish, bool]]) -> None:
        """Write (True) what people want of boards, delete (False) what no more. StoreError."""
        self._in_transaction(lambda connection: boards.write(connection, changes))
        self._checkpointer.written(len(changes))

    def wishes(self) -> list[Wish]:
        """All that people want of boards. StoreError."""
        try:
            return boards.read(self._connected())
        except sqlite3.Error as error:
            raise explain(error, self._path) from error

    def node_wishes(self) -> list[NodeWish]:
        """What people want of nodes. StoreError."""
        try:
            return nodes.read(self._connected())
        except sqlite3.Error as error:
            raise explain(error, self._path) from error

    def _in_transaction(self, work: Callable[[sqlite3.Connection], None]) -> None:
        connection = self._connected()
        try:
            connection.execute("BEGIN IMMEDIATE")
            work(connection)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back(connection)
            raise explain(error, self._path) from error

    def counts(self) -> StoreCounts:
        """How many tasks and bytes there are."""
        return StoreCounts(
            len(self._open),
            self._ended_count,
            _size(self._path),
            _size(self._path.with_name(self._path.name + "-wal")),
        )

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f"{self._path} is not open")
        return self._connection

    def _load(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA synchronous = {self._sync}")
        self._open = dict(connection.execute("SELECT id, seq FROM open"))
        self._started = {seq for (seq,) in connection.execute("SELECT seq FROM started")}
        self._next_open = 1 + max(self._open.values(), default=0)
        last, count = connection.execute(
            "SELECT (SELECT ifnull(max(seq), 0) FROM ended), (SELECT count(*) FROM ended)"
        ).fetchone()
        self._next_ended = 1 + last
        self._ended_count = count

    def _write(
        self,
        connection: sqlite3.Connection,
        open_rows: list[rows.Row],
        mark_rows: list[tuple[int, str]],
        ended_rows: list[rows.Row],
        node_wishes: list[NodeWish],
    ) -> None:
        try:
            connection.execute("BEGIN IMMEDIATE")
            if open_rows:
                _all(
                    connection.executemany(rows.INSERT_OPEN, open_rows), len(open_rows), "accepted"
                )
            if mark_rows:
                connection.executemany(rows.INSERT_STARTED, mark_rows)
            if ended_rows:
                _all(
                    connection.executemany(rows.INSERT_ENDED, ended_rows), len(ended_rows), "ended"
                )
                open_seqs = [row[:1] for row in ended_rows]
                _all(connection.executemany(rows.DELETE_OPEN, open_seqs), len(ended_rows), "ended")
                if self._started or mark_rows:
                    connection.executemany(rows.DELETE_STARTED, open_seqs)
            if node_wishes:
                nodes.write(connection, node_wishes)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back(connection)
            raise explain(error, self._path) from error
        except JournalConflict:
            self._roll_back(connection)
            raise

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        # SQLite has already rolled back by itself after some errors.
        if connection.in_transaction:
            connection.execute("ROLLBACK")

    def _select(
        self, statement: str, parameters: tuple[int | str | bytes, ...] = ()
    ) -> list[tuple[object, ...]]:
        try:
            return self._connected().execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            raise explain(error, self._path) from error


def _seq(task_id: bytes, known: dict[bytes, int], accepted: dict[bytes, int]) -> int:
    seq = known.get(task_id) or accepted.get(task_id)
    if seq is None:
        raise JournalConflict(f"task {task_id.hex()} is not open: it ended before, or is unknown")
    return seq


def _all(cursor: sqlite3.Cursor, wanted: int, what: str) -> None:
    if cursor.rowcount != wanted:
        raise JournalConflict(
            f"{wanted - cursor.rowcount} of {wanted} tasks were {what} before; nothing was written"
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
