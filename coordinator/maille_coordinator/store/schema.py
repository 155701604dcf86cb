"""The journal's tables and the settings of its connections, each with its reason."""

import sqlite3
from pathlib import Path

from maille_coordinator.store.errors import StoreCorrupt, StoreVersion

SCHEMA_VERSION = 5
"""Stands in the file's `user_version`; raised with every change of the tables."""

APPLICATION_ID = 0x4D61496C
"""Stands in the file's header, so that another program's database is not taken for a journal."""

# Open and ended tasks are two tables: the open one stays small, so a restart reads it at once,
# and a task's inputs go away when it ends. `open` has no index by id: the store keeps id -> seq
# of the open tasks in memory. `ended` is in the order of ending, which is the order of pruning.
# Contents come last in a row, so that reading the other columns never touches their pages.
TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('epoch', 0);
CREATE TABLE open (
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    client TEXT NOT NULL,
    model TEXT NOT NULL,
    version INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    accepted_at INTEGER NOT NULL,
    deadline_at INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    target TEXT,
    content_size INTEGER, -- not null: the content is the SHA-256 of an artefact of this size
    content BLOB NOT NULL
);
CREATE TABLE started (seq INTEGER PRIMARY KEY, node TEXT NOT NULL);
CREATE TABLE ended (
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    status INTEGER NOT NULL,
    code INTEGER NOT NULL,
    client TEXT NOT NULL,
    model TEXT NOT NULL,
    version INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    accepted_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    node TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    run_us INTEGER NOT NULL,
    total_us INTEGER NOT NULL,
    history BLOB,
    content_size INTEGER,
    content BLOB NOT NULL
);
-- One end per task, whatever the program above does.
CREATE UNIQUE INDEX ended_id ON ended (id);
-- `tasks list --state failed` must not read a hundred thousand rows; done ones cost nothing here.
CREATE INDEX ended_badly ON ended (status) WHERE status <> 0;
"""

# Version 2: generations of language models. Their tokens come in groups, in rows of their own; the
# stages are what nodes may still hold after a restart.
SESSION_TABLES = """
CREATE TABLE session (
    id TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    version INTEGER NOT NULL,
    prompt BLOB NOT NULL,
    sampling BLOB NOT NULL,
    max_tokens INTEGER NOT NULL,
    end_tokens BLOB NOT NULL,
    accepted_at INTEGER NOT NULL,
    extra TEXT NOT NULL,
    finish TEXT,
    code TEXT,
    text TEXT,
    ended_at INTEGER
) WITHOUT ROWID;
CREATE TABLE session_tokens (
    session TEXT NOT NULL,
    at INTEGER NOT NULL,
    tokens BLOB NOT NULL,
    PRIMARY KEY (session, at)
) WITHOUT ROWID;
CREATE TABLE stages_held (
    pipeline INTEGER NOT NULL,
    node TEXT NOT NULL,
    stage INTEGER NOT NULL,
    PRIMARY KEY (pipeline, node, stage)
) WITHOUT ROWID;
"""

# Version 3: what people want of boards, one row a wish.
BOARD_TABLES = """
CREATE TABLE board_wish (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (kind, key)
) WITHOUT ROWID;
"""

# Version 4: how language models are cut and placed, one row a stage.
RING_TABLES = """
CREATE TABLE ring (
    model TEXT NOT NULL,
    version INTEGER NOT NULL,
    stage INTEGER NOT NULL,
    node TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (model, version, stage)
) WITHOUT ROWID;
"""

# Version 5: the nodes that people drained, or took back and that have not said so yet.
NODE_TABLES = """
CREATE TABLE node_wish (node TEXT PRIMARY KEY, drained INTEGER NOT NULL) WITHOUT ROWID;
"""

_ADDED_IN = {2: SESSION_TABLES, 3: BOARD_TABLES, 4: RING_TABLES, 5: NODE_TABLES}

_WRITER_SETTINGS = (
    # Commits append to one file; readers and checkpoints never wait for them.
    "PRAGMA journal_mode = WAL",
    # A checkpoint flushes the disk: the checkpointer's thread does that, never the event loop.
    "PRAGMA wal_autocheckpoint = 0",
    # After a burst the log is cut back to this when it is begun anew.
    "PRAGMA journal_size_limit = 67108864",
    # Some systems build SQLite to overwrite deleted rows with zeros: every ended task would be
    # written twice. The file is readable by its owner only.
    "PRAGMA secure_delete = OFF",
    # Sorting and temporary tables never touch the disk.
    "PRAGMA temp_store = MEMORY",
    # 32 MiB of pages: the open tasks and the index of the ended ones stay in memory.
    "PRAGMA cache_size = -32768",
)

_INITIAL_SETTINGS = (
    # Freed pages are used again by the next tasks: moving pages to shrink the file is waste.
    "PRAGMA auto_vacuum = NONE",
    f"PRAGMA application_id = {APPLICATION_ID}",
)


def connect_writer(path: Path) -> sqlite3.Connection:
    """Open the journal's one writing connection, creating or checking the tables.

    Raises:
        StoreVersion: the file is from a newer version.
        StoreCorrupt: the file is some other program's database.
        sqlite3.Error: what SQLite finds wrong with the file.
    """
    # isolation_level None: transactions are begun and ended by the store, explicitly.
    # The 10 s are for a checkpoint that holds the writer's lock on a slow disk.
    connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_checkpointer(path: Path) -> sqlite3.Connection:
    """Open the connection of the checkpointer's thread."""
    connection = sqlite3.connect(path, timeout=1, isolation_level=None, check_same_thread=False)
    # The log is flushed before its pages are copied, the database afterwards: with less, a power
    # cut could damage the file.
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    empty = _number(connection, "PRAGMA page_count") == 0
    version = _number(connection, "PRAGMA user_version")
    if version > SCHEMA_VERSION:
        raise StoreVersion(
            f"{path} was written by a newer version of this program (schema {version}, this one "
            f"knows {SCHEMA_VERSION}): update it, or choose another state directory"
        )
    if not empty and _number(connection, "PRAGMA application_id") not in {0, APPLICATION_ID}:
        raise StoreCorrupt(
            f"{path} is another program's database: choose another state directory, "
            "or move that file away"
        )
    if empty:
        for setting in _INITIAL_SETTINGS:
            connection.execute(setting)
    for setting in _WRITER_SETTINGS:
        connection.execute(setting)
    if version == 0 and _number(connection, "SELECT count(*) FROM sqlite_master") != 0:
        raise StoreCorrupt(
            f"{path} is another program's database: choose another state directory, "
            "or move that file away"
        )
    if version < SCHEMA_VERSION:
        added = TABLES if version == 0 else ""
        added += "".join(tables for since, tables in _ADDED_IN.items() if since > version)
        # One transaction: a kill in the middle leaves the file as it was, which is begun again.
        connection.executescript(
            f"BEGIN IMMEDIATE; {added} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )


def _number(connection: sqlite3.Connection, statement: str) -> int:
    value: int = connection.execute(statement).fetchone()[0]
    return value
