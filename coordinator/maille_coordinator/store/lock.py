"""A lock file, so that two coordinators never share one directory.

The lock belongs to the open file: the system drops it when the process dies, however it dies.
"""

import os
import sys
from pathlib import Path

from maille_coordinator.store.errors import StoreError, StoreLocked

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _try_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class FileLock:
    """An exclusive lock on `path`, held from `acquire` to `release`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock at once.

        Raises:
            StoreLocked: another process (or another store in this one) holds it.
            StoreError: the lock file cannot be written.
        """
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"{self._path} cannot be written ({error.strerror}): give this user write access "
                "to the directory, or choose another state directory"
            ) from error
        try:
            _try_lock(descriptor)
        except OSError as error:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            by = f"process {holder}" if holder.isdigit() else "another process"
            raise StoreLocked(
                f"{self._path.parent} is in use by {by}: stop that coordinator first, "
                "or start this one with another state directory"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; the file stays, because removing it would race with a new holder."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
