"""The id of a node that was given none: from the host's name, and the same after a restart."""

import fcntl
import platform
import re
import secrets
from pathlib import Path
from typing import TextIO

from maille_node.errors import SettingsError
from maille_protocol.limits import ID_PATTERN

MAX_NODES_PER_MACHINE = 256
_MAX_HOST_CHARACTERS = 24


class Identity:
    """A node id of this machine that no other running process has; `close` gives it back."""

    def __init__(self, node: str, lock: TextIO | None) -> None:
        self.node = node
        self._lock = lock

    def close(self) -> None:
        """Let another process have the id."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def claim(state_directory: Path, *, host: str | None = None) -> Identity:
    """The machine's first free identity; makes one where none is left.

    Raises:
        SettingsError: the directory cannot be written.
    """
    try:
        state_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for number in range(MAX_NODES_PER_MACHINE):
            file = (state_directory / f"node-{number}.id").open("a+", encoding="ascii")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            return Identity(_read_or_make(file, host or platform.node()), file)
    except OSError as error:
        raise SettingsError(
            f"the state directory {state_directory} cannot be used ({error.strerror}): "
            "make it writable, or give another one or a node id"
        ) from error
    raise SettingsError(
        f"{MAX_NODES_PER_MACHINE} nodes run on this machine already: stop one, or give a node id"
    )


def from_host(host: str) -> str:
    """A host's name as far as an id can say it."""
    cleaned = re.sub(r"[^a-z0-9]+", "-", host.split(".", 1)[0].lower()).strip("-")
    return cleaned[:_MAX_HOST_CHARACTERS].strip("-") or "node"


def _read_or_make(file: TextIO, host: str) -> str:
    file.seek(0)
    try:
        text = file.read(64).strip()
    except UnicodeDecodeError:
        text = ""
    if re.fullmatch(ID_PATTERN, text):
        return text
    node = f"{from_host(host)}-{secrets.token_hex(2)}"
    file.seek(0)
    file.truncate()
    file.write(node + "\n")
    file.flush()
    return node
