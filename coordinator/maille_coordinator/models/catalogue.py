"""Which models there are: names, versions and what they take and give.

The catalogue has its own small SQLite file: it changes rarely, each change must be on the disk at
once, and it is read with every task, so all of it is kept in memory as well. `add` and `remove`
wait for the disk and may be called in threads.
"""

import difflib
import json
import re
import sqlite3
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from maille_coordinator.models.errors import CatalogueError, InvalidModelName, UnknownModel
from maille_coordinator.models.inspection import Inspection
from maille_coordinator.records import ModelRecord
from maille_protocol import ModelFormat
from maille_protocol.limits import MODEL_NAME_PATTERN
from maille_protocol.signature import TensorSpec

_NAME = re.compile(MODEL_NAME_PATTERN)
_SCHEMA_VERSION = 1
_MAX_DESCRIPTION_CHARACTERS = 2000

# last_version outlives removed versions: a number is never given to other bytes.
_TABLES = """
CREATE TABLE names (name TEXT PRIMARY KEY, last_version INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE models (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    size_bytes INTEGER NOT NULL,
    format INTEGER NOT NULL,
    inputs TEXT NOT NULL,
    outputs TEXT NOT NULL,
    batchable INTEGER NOT NULL,
    added_at INTEGER NOT NULL,
    description TEXT NOT NULL,
    PRIMARY KEY (name, version)
) WITHOUT ROWID;
"""


class Catalogue:
    """The catalogue in the file `path`, made if need be; open until `close`.

    Raises:
        CatalogueError: the file is damaged, from a newer version, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._models: dict[str, dict[int, ModelRecord]] = {}
        self._writing = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            self._connection = sqlite3.connect(
                path, timeout=5, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise CatalogueError(
                f"{path} cannot be written ({error}): give this user write access to it, "
                "or choose another state directory"
            ) from error
        try:
            self._prepare()
            self._load()
        except sqlite3.Error as error:
            self._connection.close()
            raise self._explain(error) from error
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        self._connection.close()

    def add(
        self,
        name: str,
        sha256: bytes,
        size_bytes: int,
        model_format: ModelFormat,
        inspection: Inspection,
        description: str = "",
    ) -> ModelRecord:
        """Add a version, one above the newest there ever was; on the disk when this returns.

        If a version of this name has these bytes, it is returned and nothing is changed.

        Raises:
            InvalidModelName: the name cannot be a model's.
            CatalogueError: the disk fails or is full.
        """
        check_model_name(name)
        with self._writing:
            return self._add(name, sha256, size_bytes, model_format, inspection, description)

    def _add(
        self,
        name: str,
        sha256: bytes,
        size_bytes: int,
        model_format: ModelFormat,
        inspection: Inspection,
        description: str,
    ) -> ModelRecord:
        for record in self._models.get(name, {}).values():
            if record.sha256 == sha256:
                return record
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            (row,) = self._connection.execute(
                "INSERT INTO names VALUES (?, 1)"
                " ON CONFLICT (name) DO UPDATE SET last_version = last_version + 1"
                " RETURNING last_version",
                (name,),
            ).fetchall()
            record = ModelRecord(
                name=name,
                version=row[0],
                sha256=sha256,
                size_bytes=size_bytes,
                format=model_format,
                inputs=inspection.inputs,
                outputs=inspection.outputs,
                batchable=inspection.batchable,
                added_at_unix_ms=time.time_ns() // 1_000_000,
                description=description[:_MAX_DESCRIPTION_CHARACTERS],
            )
            self._connection.execute(
                "INSERT INTO models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    name,
                    record.version,
                    sha256,
                    size_bytes,
                    int(model_format),
                    _specs_text(record.inputs),
                    _specs_text(record.outputs),
                    record.batchable,
                    record.added_at_unix_ms,
                    record.description,
                ),
            )
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise self._explain(error) from error
        self._models.setdefault(name, {})[record.version] = record
        return record

    def get(self, name: str, version: int = 0) -> ModelRecord | None:
        """A version of a model, 0 for the newest; None if there is none. Reads no disk."""
        versions = self._models.get(name)
        if not versions:
            return None
        return versions.get(version or max(versions))

    def require(self, name: str, version: int = 0) -> ModelRecord:
        """As `get`.

        Raises:
            UnknownModel: with names or versions that may have been meant.
        """
        record = self.get(name, version)
        if record is None:
            raise UnknownModel(self._unknown_text(name, version))
        return record

    def remove(self, name: str, version: int = 0) -> tuple[ModelRecord, ...]:
        """Remove a version, 0 for all of them; returns what was removed.

        Raises:
            UnknownModel: there is none such.
            CatalogueError: the disk fails.
        """
        with self._writing:
            return self._remove(name, version)

    def _remove(self, name: str, version: int) -> tuple[ModelRecord, ...]:
        versions = self._models.get(name, {})
        doomed = [versions[number] for number in versions if version in {0, number}]
        if not doomed:
            raise UnknownModel(self._unknown_text(name, version))
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(
                "DELETE FROM models WHERE name = ? AND version = ?",
                [(record.name, record.version) for record in doomed],
            )
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise self._explain(error) from error
        for record in doomed:
            del versions[record.version]
        return tuple(doomed)

    def uses(self, sha256: bytes) -> bool:
        """Whether a model has these bytes."""
        return any(record.sha256 == sha256 for record in self.list())

    def list(self) -> list[ModelRecord]:
        """Every version of every model, by name and version."""
        return [
            versions[version]
            for _, versions in sorted(self._models.items())
            for version in sorted(versions)
        ]

    def _unknown_text(self, name: str, version: int) -> str:
        names = sorted(known for known, versions in self._models.items() if versions)
        if name in names:
            there = ", ".join(str(number) for number in sorted(self._models[name]))
            return f"model {name!r} has no version {version}; it has: {there}"
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        if close:
            meant = " or ".join(repr(known) for known in close)
            return f"no model is called {name[:80]!r}; did you mean {meant}?"
        if names:
            shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            return f"no model is called {name[:80]!r}; there are: {shown}"
        return (
            f"no model is called {name[:80]!r}, and there is none yet: add one with "
            "`maille models add FILE`"
        )

    def _prepare(self) -> None:
        # The default of some systems is less: a model that was added must be there after a
        # power cut, because its clients have been told its version.
        self._connection.execute("PRAGMA synchronous = FULL")
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > _SCHEMA_VERSION:
            raise CatalogueError(
                f"{self._path} was written by a newer version of this program: update it, "
                "or choose another state directory"
            )
        if version == 0:
            self._connection.executescript(
                f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;"
            )

    def _load(self) -> None:
        for row in self._connection.execute("SELECT * FROM models"):
            name, version, sha256, size, code, inputs, outputs, batchable, added, about = row
            self._models.setdefault(name, {})[version] = ModelRecord(
                name=name,
                version=version,
                sha256=sha256,
                size_bytes=size,
                format=ModelFormat(code),
                inputs=_specs(inputs),
                outputs=_specs(outputs),
                batchable=bool(batchable),
                added_at_unix_ms=added,
                description=about,
            )

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _explain(self, error: sqlite3.Error) -> CatalogueError:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            return CatalogueError(
                f"the disk that holds {self._path} is full: free some space there"
            )
        return CatalogueError(
            f"{self._path} cannot be used ({error}): if it is damaged, move it away and add the "
            "models again; otherwise look at the disk and the file's access rights"
        )


def check_model_name(name: str) -> None:
    """InvalidModelName, with a name that would do, unless `name` can be a model's."""
    if _NAME.fullmatch(name):
        return
    offer = re.sub(r"[^a-z0-9._-]+", "-", name.lower())[:64].strip("._-")
    example = f", for example {offer!r}" if offer else ""
    raise InvalidModelName(
        f"{name[:80]!r} cannot name a model: use 1 to 64 of a-z, 0-9 and inner . _ -{example}"
    )


def _specs_text(specs: Iterable[TensorSpec]) -> str:
    return json.dumps([[spec.name, spec.dtype, spec.shape] for spec in specs])


def _specs(text: str) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, dtype, tuple(shape)) for name, dtype, shape in json.loads(text))
