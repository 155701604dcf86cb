"""How programs of one user on one machine find a mesh: a private file per running coordinator."""

import json
import logging
import os
import stat
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import psutil

from maille_broker.access import is_mesh_name
from maille_broker.endpoint import Endpoint, parse_url
from maille_broker.errors import BrokerConfigError
from maille_broker.running import write_private

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 16 * 1024
MAX_FILES = 256


@dataclass(frozen=True, slots=True)
class RuntimeRecord:
    """One running coordinator on this machine.

    Attributes:
        mesh: its mesh.
        http_url: of its HTTP interface.
        broker_url: of its broker, without credentials.
        pid: of the coordinator's process.
        username, password: for the broker; None when it wants none.
        token: for the HTTP interface; None when it wants none.
        ca_file: authorities for the broker's certificate.
        started_s: when the process started (Unix time), so that a process that got the same
            pid later is not taken for it; filled in by `write_runtime_file`.
    """

    mesh: str
    http_url: str
    broker_url: str
    pid: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    started_s: float | None = None

    def endpoint(self) -> Endpoint:
        """The broker with the credentials."""
        return parse_url(self.broker_url, ca_file=self.ca_file).with_credentials(
            self.username, self.password
        )


def write_runtime_file(directory: Path, record: RuntimeRecord) -> Path:
    """Announce a coordinator; readable by this user only. Delete the file at the end.

    Raises:
        BrokerConfigError: the folder cannot be written to, or the record has no such process.
    """
    if not is_mesh_name(record.mesh):
        raise BrokerConfigError(
            f"'{record.mesh}' is no mesh name. Use 1 to 32 of a-z, 0-9 and inner hyphens."
        )
    started_s = _process_started_s(record.pid)
    if started_s is None:
        raise BrokerConfigError(f"No process with id {record.pid} runs: give the coordinator's.")
    path = directory / f"{record.mesh}-{record.pid}.json"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, json.dumps(asdict(replace(record, started_s=started_s))) + "\n")
    except OSError as error:
        raise BrokerConfigError(
            f"The folder {directory} for running meshes cannot be written to: {error.strerror}. "
            "Correct its rights."
        ) from error
    return path


def read_runtime_files(directory: Path) -> list[RuntimeRecord]:
    """All coordinators of this user that run now, newest first.

    Files of processes that are gone are deleted. Files that are damaged, belong to someone else
    or can be written by others are ignored and logged.
    """
    records: list[RuntimeRecord] = []
    try:
        paths = sorted(directory.glob("*.json"))[:MAX_FILES]
    except OSError:
        return []
    for path in paths:
        record = _read(path)
        if record is None:
            continue
        if not _still_runs(record):
            path.unlink(missing_ok=True)
            continue
        records.append(record)
    return sorted(records, key=lambda record: record.started_s or 0.0, reverse=True)


def _read(path: Path) -> RuntimeRecord | None:
    try:
        _check_owner(path)
        document = json.loads(path.read_text(encoding="utf-8"))
        return _record(document)
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("ignored %s: %s", path, error)
        return None


def _check_owner(path: Path) -> None:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
        raise ValueError("it is no small regular file")
    if hasattr(os, "geteuid") and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
        raise ValueError("others may have written it")


def _record(document: object) -> RuntimeRecord:
    if not isinstance(document, dict):
        raise ValueError("it holds no JSON object")  # noqa: TRY004 - all bad content alike
    known = {item.name for item in fields(RuntimeRecord)}
    values = {key: value for key, value in document.items() if key in known}
    texts = ("mesh", "http_url", "broker_url")
    optional_texts = ("username", "password", "token", "ca_file")
    if not all(isinstance(values.get(key), str) for key in texts) or not all(
        isinstance(values.get(key), str | None) for key in optional_texts
    ):
        raise ValueError("a text is missing or something else")
    pid, started_s = values.get("pid"), values.get("started_s")
    if type(pid) is not int or pid <= 0:
        raise ValueError("pid is missing or no number")
    if started_s is not None and not isinstance(started_s, int | float):
        raise ValueError("started_s is no number")
    return RuntimeRecord(**values)


def _process_started_s(pid: int) -> float | None:
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def _still_runs(record: RuntimeRecord) -> bool:
    started_s = _process_started_s(record.pid)
    if started_s is None:
        return False
    return record.started_s is None or abs(started_s - record.started_s) < 2.0
