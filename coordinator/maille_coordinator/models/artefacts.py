"""Files named by the SHA-256 of their bytes, received in parts and verified before they count.

    <directory>/<aa>/<sha256>       kept: models
    <directory>/transient/<sha256>  inputs and outputs of tasks, and uploads not yet made a model;
                                    the file's time of change is the time it may be removed
    <directory>/partial/<sha256>    the first part of an upload that broke off

Where a file lies says all about it, so there is no index to lose. Calls are made in one event loop,
which hashing and writing of more than a little leave for threads; `prune` may run in a thread.
"""

import asyncio
import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from maille_coordinator.models.artefact_info import (
    ArtefactInfo,
    checked_name,
    damaged,
    is_name,
    is_over,
    unknown,
)
from maille_coordinator.models.errors import (
    ArtefactBusy,
    ArtefactDiskFull,
    ArtefactError,
    ArtefactMismatch,
    ArtefactOffset,
    ArtefactStoreFull,
    ArtefactTooLarge,
)
from maille_coordinator.models.partial import (
    DISK_FULL_ERRORS,
    DiskError,
    PartialFile,
    in_thread,
    make_durable,
)

_FLUSH_BYTES = 1024 * 1024
_INLINE_BYTES = 128 * 1024
"""Below this, hashing and writing take less time than handing them to a thread."""
_ABANDONED_PARTS = 16
_PART_KEPT_S = 24 * 3600.0


class ArtefactStore:
    """The artefacts in `directory`, which is made if need be."""

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        max_artefact_bytes: int,
        *,
        transient_ttl_s: float = 24 * 3600.0,
        reserve_bytes: int = 64 * 1024 * 1024,
        busy_wait_s: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._transient = directory / "transient"
        self._partial = directory / "partial"
        self._max_bytes = max_bytes
        self._max_artefact_bytes = max_artefact_bytes
        self._ttl_s = transient_ttl_s
        self._reserve_bytes = reserve_bytes
        self._busy_wait_s = busy_wait_s
        self._clock = clock
        self._receiving: dict[str, asyncio.Event] = {}
        self._known: dict[str, ArtefactInfo] = {}
        self._damaged: set[str] = set()
        try:
            for folder in (directory, self._transient, self._partial):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._scan()
        except OSError as error:
            raise ArtefactError(
                f"{directory} cannot be used for artefacts ({error.strerror}): give this user "
                "access to it, or choose another state directory"
            ) from error

    @property
    def max_artefact_bytes(self) -> int:
        """The limit for one artefact."""
        return self._max_artefact_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes of all artefacts and parts."""
        return self._complete_bytes + sum(part.stat().st_size for part in self._partial.iterdir())

    def info(self, sha256: str) -> ArtefactInfo | None:
        """A complete artefact, or None."""
        return self._known.get(checked_name(sha256))

    def path(self, sha256: str) -> Path:
        """The file of a complete artefact. UnknownArtefact."""
        return self._path(self._existing(sha256))

    def size(self, sha256: str) -> int:
        """Bytes of a complete artefact. UnknownArtefact."""
        return self._existing(sha256).size_bytes

    def partial_size(self, sha256: str) -> int:
        """Bytes that an upload which broke off has left; an upload may go on there. 0: none."""
        try:
            return (self._partial / checked_name(sha256)).stat().st_size
        except FileNotFoundError:
            return 0

    async def receive(
        self,
        sha256_hex: str,
        chunks: AsyncIterator[bytes],
        *,
        offset: int = 0,
        total: int | None = None,
    ) -> ArtefactInfo:
        """Store the bytes in `chunks`, which begin at `offset` of the artefact.

        With `total`, chunks that end before it leave a part: the information returned is not
        `complete` and says how much is there. Without it, chunks end where the artefact does.
        If reading `chunks` fails, what came is left as a part and the error goes on.
        A new artefact is transient until `keep`. One that is there already, or comes by another
        upload meanwhile, is not read again.

        Raises:
            InvalidArtefactName, ArtefactOffset, ArtefactBusy: nothing was changed.
            ArtefactMismatch, ArtefactTooLarge, ArtefactStoreFull, ArtefactDiskFull: nothing of
                the upload is left.
        """
        await self._wait_for_others(checked_name(sha256_hex))
        if sha256_hex in self._known:
            return self.touch_transient(sha256_hex)
        stored = self.partial_size(sha256_hex)
        if total is not None:
            self._check_size(total, stored)
        if offset not in {0, stored}:
            raise ArtefactOffset(
                f"artefact {sha256_hex}: the upload goes on at byte {offset}, but {stored} bytes "
                f"are stored: send from byte {stored} on",
                stored,
            )
        self._drop_abandoned()
        done = self._receiving[sha256_hex] = asyncio.Event()
        part = PartialFile(self._partial / sha256_hex)
        try:
            await self._fill(part, chunks, offset, total)
            if total is not None and part.length < total:
                return ArtefactInfo(sha256_hex, part.length, complete=False)
            return self._accept(part, sha256_hex)
        except ArtefactError:
            part.discard()
            raise
        except DiskError as error:
            part.discard()
            raise self._explain(error.cause) from error
        finally:
            part.close()
            del self._receiving[sha256_hex]
            done.set()

    async def add(self, data: bytes) -> ArtefactInfo:
        """Store `data` as a transient artefact. As `receive`."""

        async def once() -> AsyncIterator[bytes]:
            yield data

        digest = (
            hashlib.sha256(data)
            if len(data) < _INLINE_BYTES
            else await in_thread(hashlib.sha256, data)
        )
        return await self.receive(digest.hexdigest(), once(), total=len(data))

    async def read(self, sha256: str) -> bytes:
        """All bytes of a complete artefact. UnknownArtefact."""
        return await in_thread(self.path(sha256).read_bytes)

    async def keep(self, sha256: str) -> ArtefactInfo:
        """Make an artefact stay until it is removed; on the disk for good when this returns."""
        info = self._existing(sha256)
        if info.expires_at_unix_s is None:
            return info
        source = self._path(info)
        kept = ArtefactInfo(sha256, info.size_bytes)
        try:
            await in_thread(make_durable, source, self._path(kept))
        except OSError as error:
            raise self._explain(error) from error
        self._known[sha256] = kept
        return kept

    @property
    def scratch(self) -> Path:
        """Where files may be made that `adopt` takes in."""
        return self._directory / "scratch"

    async def adopt(self, file: Path) -> ArtefactInfo:
        """Take in a file of `scratch` that is named by its SHA-256, as a kept artefact.

        Its bytes are not hashed again: it was made by this program.

        Raises:
            ArtefactStoreFull, ArtefactTooLarge, ArtefactDiskFull: it was deleted.
        """
        sha256 = checked_name(file.name)
        info = ArtefactInfo(sha256, os.stat(file).st_size)  # noqa: PTH116 - as quick as a look-up
        if sha256 in self._known:
            _discard(file)
            return await self.keep(sha256)
        try:
            self._check_size(info.size_bytes, 0)
            await in_thread(make_durable, file, self._path(info))
        except ArtefactError:
            _discard(file)
            raise
        except OSError as error:
            _discard(file)
            raise self._explain(error) from error
        self._damaged.discard(sha256)
        self._known[sha256] = info
        self._complete_bytes += info.size_bytes
        return info

    def release(self, sha256: str) -> ArtefactInfo:
        """Make a kept artefact transient, so that it goes when nobody has used it for a while."""
        info = self._existing(sha256)
        if info.expires_at_unix_s is None:
            source = self._path(info)
            info = ArtefactInfo(sha256, info.size_bytes, True, self._clock() + self._ttl_s)
            source.replace(self._transient / sha256)
            self._known[sha256] = info
        return self.touch_transient(sha256)

    def touch_transient(self, sha256: str, ttl_s: float | None = None) -> ArtefactInfo:
        """Let a transient artefact live for `ttl_s` from now on; a kept one is left as it is."""
        info = self._existing(sha256)
        if info.expires_at_unix_s is None:
            return info
        expires = self._clock() + (self._ttl_s if ttl_s is None else ttl_s)
        try:
            os.utime(self._transient / sha256, (expires, expires))
        except FileNotFoundError as error:
            self._known.pop(sha256, None)
            raise unknown(sha256) from error
        info = ArtefactInfo(sha256, info.size_bytes, True, expires)
        self._known[sha256] = info
        return info

    def remove(self, sha256: str) -> None:
        """Delete an artefact, kept or not. UnknownArtefact."""
        info = self._existing(sha256)
        if self._known.pop(sha256, None) is not None:
            self._complete_bytes -= info.size_bytes
        self._path(info).unlink(missing_ok=True)

    def remove_damaged(self, sha256: str) -> None:
        """Delete an artefact whose file is not what its name says, and remember that it was."""
        if sha256 in self._known:
            self._damaged.add(sha256)
            self.remove(sha256)

    def prune(self) -> int:
        """Delete transient artefacts whose time is over and old parts; returns how many."""
        now = self._clock()
        over = [
            info.sha256
            # A copy: the event loop may add artefacts while a thread is here.
            for info in list(self._known.values())
            if is_over(info, now)
        ]
        for sha256 in over:
            info = self._known.get(sha256)
            # It may have been touched since.
            if info is not None and is_over(info, now):
                self.remove(sha256)
        old = [
            part
            for part in self._partial.iterdir()
            if part.name not in self._receiving and part.stat().st_mtime < now - _PART_KEPT_S
        ]
        for part in old:
            part.unlink()
        return len(over) + len(old)

    def list(self) -> list[ArtefactInfo]:
        """Every complete artefact, by name."""
        return [self._known[name] for name in sorted(self._known)]

    def _scan(self) -> None:
        self._known.clear()
        self._complete_bytes = 0
        for folder in self._directory.iterdir():
            transient = folder == self._transient
            if not folder.is_dir() or not (transient or len(folder.name) == 2):
                continue
            for file in os.scandir(folder):
                if not is_name(file.name):
                    continue
                status = file.stat()
                self._known[file.name] = ArtefactInfo(
                    file.name, status.st_size, True, status.st_mtime if transient else None
                )
                self._complete_bytes += status.st_size

    def _existing(self, sha256: str) -> ArtefactInfo:
        info = self._known.get(checked_name(sha256))
        if info is None:
            raise damaged(sha256) if sha256 in self._damaged else unknown(sha256)
        return info

    def _path(self, info: ArtefactInfo) -> Path:
        if info.expires_at_unix_s is not None:
            return self._transient / info.sha256
        return self._directory / info.sha256[:2] / info.sha256

    async def _wait_for_others(self, sha256: str) -> None:
        until = time.monotonic() + self._busy_wait_s
        while (done := self._receiving.get(sha256)) is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until - time.monotonic()):
                    await done.wait()
            if time.monotonic() >= until and sha256 in self._receiving:
                raise ArtefactBusy(
                    f"artefact {sha256} is still being received from somebody else: "
                    "try again when that upload has ended"
                )

    async def _fill(
        self, part: PartialFile, chunks: AsyncIterator[bytes], offset: int, total: int | None
    ) -> None:
        if offset:
            await in_thread(part.open, offset)
        else:
            part.open(0)
        buffer = bytearray()
        try:
            async for chunk in chunks:
                buffer += chunk
                length = part.length + len(buffer)
                if total is not None and length > total:
                    break
                if len(buffer) >= _FLUSH_BYTES:
                    self._check_size(length, part.length)
                    full, buffer = buffer, bytearray()
                    await in_thread(part.write, full)
        except (ArtefactError, DiskError):
            raise
        except BaseException:
            # The sender went away: what came is worth keeping, the sender may come back.
            self._save_rest(part, buffer)
            raise
        if total is not None and part.length + len(buffer) > total:
            raise ArtefactMismatch(
                f"more than the announced {total} bytes came: send the right length"
            )
        self._check_size(part.length + len(buffer), part.length)
        if len(buffer) <= _INLINE_BYTES:
            part.write(buffer)
        else:
            await in_thread(part.write, buffer)

    def _save_rest(self, part: PartialFile, rest: bytearray) -> None:
        try:
            self._check_size(part.length + len(rest), part.length)
            part.write(rest)
        except (ArtefactError, DiskError):
            part.discard()

    def _accept(self, part: PartialFile, sha256: str) -> ArtefactInfo:
        digest = part.digest()
        if digest != sha256:
            raise ArtefactMismatch(
                f"the {part.length} bytes received have the SHA-256 {digest}, not {sha256}: "
                "they were damaged on the way, or the file changed; send it again"
            )
        info = ArtefactInfo(sha256, part.length, True, self._clock() + self._ttl_s)
        part.move_to(self._transient / sha256)
        self._known[sha256] = info
        self._damaged.discard(sha256)
        self._complete_bytes += info.size_bytes
        return self.touch_transient(sha256)

    def _check_size(self, size: int, of_which_stored: int) -> None:
        if size > self._max_artefact_bytes:
            raise ArtefactTooLarge(
                f"an artefact may have {self._max_artefact_bytes} bytes, this one has "
                f"{'at least ' if of_which_stored else ''}{size}: make it smaller, "
                "or raise the coordinator's setting max_artefact_bytes"
            )
        used = self.used_bytes
        if used + size - of_which_stored > self._max_bytes:
            raise ArtefactStoreFull(
                f"the artefact store holds {used} of at most {self._max_bytes} bytes, {size} more "
                "do not fit: remove models that are no longer used, "
                "or raise the coordinator's setting max_store_bytes"
            )
        free = shutil.disk_usage(self._directory).free
        if free - (size - of_which_stored) < self._reserve_bytes:
            raise ArtefactDiskFull(
                f"the disk that holds {self._directory} has {free} bytes free, of which "
                f"{self._reserve_bytes} are left to the journal: free some space there"
            )

    def _explain(self, error: OSError) -> ArtefactError:
        if error.errno in DISK_FULL_ERRORS:
            return ArtefactDiskFull(
                f"the disk that holds {self._directory} is full ({error.strerror}): "
                "free some space there and send the artefact again"
            )
        return ArtefactError(
            f"{self._directory} cannot be written ({error.strerror}): look at the disk and the "
            "directory's access rights, then send the artefact again"
        )

    def _drop_abandoned(self) -> None:
        parts = [part for part in self._partial.iterdir() if part.name not in self._receiving]
        parts.sort(key=lambda part: part.stat().st_mtime, reverse=True)
        for part in parts[_ABANDONED_PARTS:]:
            part.unlink()


def _discard(file: Path) -> None:
    file.unlink(missing_ok=True)
