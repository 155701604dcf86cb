"""Moves the journal's log into the database file, in a thread of its own.

A checkpoint waits for the disk twice; the event loop must not. A passive checkpoint lets commits
go on, but while they do the log is never begun anew and grows: once it is large a restarting
checkpoint, which holds commits back for the moment that the last pages take, ends that.
"""

import logging
import sqlite3
import threading
from pathlib import Path

from maille_coordinator.store.errors import explain
from maille_coordinator.store.schema import connect_checkpointer

_LOGGER = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_RECORDS_PER_CHECKPOINT = 20_000
_IDLE_ROUNDS_PER_CHECKPOINT = 15
"""Rounds with few commits after which the log is moved all the same."""
_RESTART_ABOVE_PAGES = 16_384
"""64 MiB of log."""
_PASSES = 4
_FEW_PAGES = 64
"""What may be left to a restart; each pass leaves only what was committed during it."""


class Checkpointer:
    """A thread that checkpoints the database at `path` from `start` to `stop`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = 0
        self._moved = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin watching the log."""
        self._thread = threading.Thread(target=self._run, name="journal-checkpoint", daemon=True)
        self._thread.start()

    def written(self, records: int) -> None:
        """Count records that were committed; called by the committing thread, never blocks."""
        self._written += records

    def stop(self) -> None:
        """End the thread; waits for a checkpoint that is under way."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        connection = connect_checkpointer(self._path)
        rounds = 0
        try:
            while not self._stop.wait(_LOOK_EVERY_S):
                written = self._written
                rounds += 1
                waiting = written - self._moved
                if waiting >= _RECORDS_PER_CHECKPOINT or (
                    waiting and rounds >= _IDLE_ROUNDS_PER_CHECKPOINT
                ):
                    rounds = 0
                    if self._checkpoint(connection):
                        self._moved = written
        finally:
            connection.close()

    def _checkpoint(self, connection: sqlite3.Connection) -> bool:
        try:
            for _ in range(_PASSES):
                _, pages, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if pages - moved <= _FEW_PAGES:
                    break
            if pages > _RESTART_ABOVE_PAGES:
                connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        except sqlite3.Error as error:
            # The log keeps what was committed; the next round tries again.
            _LOGGER.warning("checkpoint put off: %s", explain(error, self._path))
            return False
        return True
