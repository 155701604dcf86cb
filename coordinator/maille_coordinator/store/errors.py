"""Errors of the journal, by what the reader can do about them.

StoreError           base; also what has no class of its own (a disk that fails, a denied access)
├── StoreLocked      another coordinator uses the directory
├── StoreVersion     written by a newer version of this program
├── StoreCorrupt     not a journal, or a damaged one
├── StoreFull        no room on the disk; nothing of the commit was written
└── JournalConflict  this program's own mistake: a task ended twice, or accepted twice
"""

import sqlite3
from pathlib import Path


class StoreError(Exception):
    """Base of the journal's errors; the text names the cause and the next step."""


class StoreLocked(StoreError):
    """Raised when another process has the journal open."""


class StoreVersion(StoreError):
    """Raised when the file was written by a newer version."""


class StoreCorrupt(StoreError):
    """Raised when the file is not a journal or is damaged."""


class StoreFull(StoreError):
    """Raised when the disk has no room; the commit that raised it changed nothing."""


class JournalConflict(StoreError):
    """Raised when a commit contradicts the journal; the commit changed nothing."""


def explain(error: sqlite3.Error, path: Path) -> StoreError:
    """The error to raise for what SQLite reported about the file at `path`."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StoreFull(
            f"the disk that holds {path} is full: free some space there, "
            "or start the coordinator with another state directory"
        )
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return StoreCorrupt(
            f"{path} is damaged or no journal ({error}): move it and its -wal and -shm files away, "
            "or bring back a copy, then start again; tasks that were open in it must be sent again"
        )
    if code == sqlite3.SQLITE_CONSTRAINT:
        return JournalConflict(f"the journal refused a commit: {error}")
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreLocked(
            f"{path} is locked by another program: close it (a database browser, a backup) "
            "and try again"
        )
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN}:
        return StoreError(
            f"{path} cannot be written ({error}): give this user write access to the file and "
            "its directory, or choose another state directory"
        )
    return StoreError(
        f"{path}: {error}; look for disk faults in the system's log, "
        "then start the coordinator again"
    )
