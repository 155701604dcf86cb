"""One upload on its way to the disk: a file that grows while its SHA-256 is computed."""

import asyncio
import errno
import hashlib
import os
import sys
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")

# EFBIG: a limit of the process or the file system on one file's size.
DISK_FULL_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_READ_BYTES = 1024 * 1024


class DiskError(Exception):
    """Raised when the file cannot be written; not an OSError, which the sender's side may raise."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class PartialFile:
    """The growing file at `path`; `open` and `write` block.

    After a DiskError the file is worthless.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None
        self._hash = hashlib.sha256()
        self.length = 0
        """Bytes written so far, those of earlier uploads included."""

    def open(self, offset: int) -> None:
        """Go on at `offset`, which is the length of the file or 0 to begin anew. DiskError."""
        try:
            # Unbuffered: what `write` returned from is in the file, and a full disk shows there.
            self._file = self._path.open("r+b" if offset else "w+b", buffering=0)
            self._path.chmod(0o600)
            while self.length < offset:
                data = self._file.read(min(_READ_BYTES, offset - self.length))
                if not data:
                    raise DiskError(OSError(errno.EIO, "the stored part became shorter"))
                self._hash.update(data)
                self.length += len(data)
        except OSError as error:
            raise DiskError(error) from error

    def write(self, data: bytes | bytearray) -> None:
        """Append `data`. DiskError."""
        if self._file is None:
            raise ValueError("write before open")
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise DiskError(error) from error
        self._hash.update(data)
        self.length += len(data)

    def digest(self) -> str:
        """The SHA-256 of all bytes so far, in hexadecimal."""
        return self._hash.hexdigest()

    def move_to(self, target: Path) -> None:
        """Give the file its final name, atomically."""
        self.close()
        self._path.replace(target)

    def discard(self) -> None:
        """Delete the file."""
        self.close()
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file and leave it; a second call does nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None


async def in_thread(
    function: Callable[Parameters, Returned],
    *arguments: Parameters.args,
    **named: Parameters.kwargs,
) -> Returned:
    """As `asyncio.to_thread`, but a cancelled caller waits until the thread is done.

    Otherwise the thread would go on with a file that the caller has closed.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function, *arguments, **named))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


def make_durable(source: Path, target: Path) -> None:
    """Move `source` to `target`, in a folder that is made if need be, and wait for the disk."""
    target.parent.mkdir(exist_ok=True, mode=0o700)
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.replace(target)
    if sys.platform != "win32":  # where a folder cannot be opened
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
