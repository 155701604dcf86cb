"""Artefacts on disk, named by their SHA-256: fetched once, verified, resumed, evicted by age.

The directory may be shared by several nodes of one machine: a file stands under its final name
only when it is whole and verified, and a lock on the partial file keeps two downloads apart.
"""

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from io import FileIO
from pathlib import Path

import httpx

from maille_node.errors import TaskProblem
from maille_protocol import ErrorCode, Reference

MAX_FAILURES = 5
"""Tries in a row that brought no byte before a download is given up."""

FIRST_RETRY_S = 0.05
LAST_RETRY_S = 1.0
CHUNK_BYTES = 1024 * 1024
FREE_BYTES_KEPT = 32 * 1024 * 1024
"""A download that would leave less on the disk is refused."""

_NO_SPACE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_LOCK_POLL_S = 0.05
_PARTIAL = ".part"


class ArtefactCache:
    """The artefacts of one directory, for one event loop.

    Args:
        directory: made if missing, readable by this user only.
        limit_bytes: finished and unfinished files together take no more.
        client: asks the coordinator; brings time limits and trust.
    """

    def __init__(self, directory: Path, limit_bytes: int, client: httpx.AsyncClient) -> None:
        self._directory = directory
        self._limit_bytes = limit_bytes
        self._client = client
        self._http_url = ""
        self._headers: Mapping[str, str] = {}
        self._no_key_reason = ""
        self._flights: dict[bytes, asyncio.Task[Path]] = {}
        self._in_use: Counter[bytes] = Counter()
        self._reserved: dict[bytes, int] = {}
        self._verified: set[bytes] = set()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def use(self, http_url: str, headers: Mapping[str, str], no_key_reason: str = "") -> None:
        """Ask this coordinator from now on; `no_key_reason` explains a login that must fail."""
        self._http_url = http_url.rstrip("/")
        self._headers = headers
        self._no_key_reason = no_key_reason

    def path(self, sha256: bytes) -> Path:
        """Where an artefact lies once it is there."""
        return self._directory / sha256.hex()

    def acquire(self, sha256: bytes) -> None:
        """Keep an artefact from eviction until `release`; may be called several times."""
        self._in_use[sha256] += 1

    def release(self, sha256: bytes) -> None:
        """Undo one `acquire`."""
        self._in_use[sha256] -= 1
        if self._in_use[sha256] <= 0:
            del self._in_use[sha256]

    async def fetch(self, sha256: bytes, size_bytes: int) -> Path:
        """The artefact's file, whole and verified; hold an `acquire` while it is needed.

        Raises:
            TaskProblem: ARTEFACT_UNAVAILABLE, ARTEFACT_CORRUPT or NO_SPACE; the text says why.
        """
        flight = self._flights.get(sha256)
        if flight is None:
            flight = asyncio.create_task(self._fetch(sha256, size_bytes))
            self._flights[sha256] = flight
            flight.add_done_callback(lambda done: self._landed(sha256, done))
        # One caller that gives up must not end the download for the others.
        return await asyncio.shield(flight)

    def read(self, reference: Reference) -> bytes:
        """In a worker thread: the bytes of an artefact that was fetched and is still acquired.

        Raises:
            TaskProblem: CONTENT_UNAVAILABLE, the file is gone.
        """
        try:
            return self.path(reference.sha256).read_bytes()
        except OSError as error:
            raise TaskProblem(
                ErrorCode.CONTENT_UNAVAILABLE, f"the input left the cache: {error.strerror}"
            ) from error

    async def put(self, data: bytes) -> bytes:
        """Deliver `data` to the coordinator; returns its SHA-256.

        Raises:
            TaskProblem: CONTENT_UNAVAILABLE, OUTPUT_TOO_LARGE or NO_SPACE.
        """
        sha256 = await asyncio.to_thread(lambda: hashlib.sha256(data).digest())
        failures = 0
        while True:
            url = self._url(sha256, ErrorCode.CONTENT_UNAVAILABLE)
            try:
                response = await self._client.put(url, content=data, headers=self._headers)
            except httpx.HTTPError as error:
                failures += 1
                if failures > MAX_FAILURES:
                    raise TaskProblem(
                        ErrorCode.CONTENT_UNAVAILABLE,
                        f"the output could not be delivered to {self._http_url}: {_why(error)}",
                    ) from error
                await asyncio.sleep(_pause_s(failures))
                continue
            if response.is_success:
                return sha256
            if response.status_code >= 500 and response.status_code != 507:
                failures += 1
                if failures <= MAX_FAILURES:
                    await asyncio.sleep(_pause_s(failures))
                    continue
            code = {413: ErrorCode.OUTPUT_TOO_LARGE, 507: ErrorCode.NO_SPACE}.get(
                response.status_code, ErrorCode.CONTENT_UNAVAILABLE
            )
            raise TaskProblem(
                code, f"the coordinator did not take the output: {self._status_text(response)}"
            )

    async def close(self) -> None:
        """End all downloads; partial files stay and are resumed later."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    # --- one artefact --------------------------------------------------------------------------

    def _landed(self, sha256: bytes, flight: asyncio.Task[Path]) -> None:
        self._flights.pop(sha256, None)
        if not flight.cancelled():
            flight.exception()

    async def _fetch(self, sha256: bytes, size_bytes: int) -> Path:
        path = self.path(sha256)
        if await asyncio.to_thread(self._is_whole, sha256, size_bytes):
            return path
        if size_bytes > self._limit_bytes:
            raise TaskProblem(
                ErrorCode.NO_SPACE,
                f"the artefact takes {size_bytes} bytes, this node's cache holds at most "
                f"{self._limit_bytes}: raise the cache limit or use another node",
            )
        self._reserved[sha256] = size_bytes
        try:
            async with self._locked_partial(sha256) as partial:
                # Another node of this machine may have finished it while we waited.
                if await asyncio.to_thread(self._is_whole, sha256, size_bytes):
                    partial.path.unlink(missing_ok=True)
                    return path
                reserved = dict(self._reserved)
                await asyncio.to_thread(self._make_room, sha256, size_bytes, reserved)
                for _ in range(2):
                    if await self._download(
                        sha256, size_bytes, partial
                    ) and await asyncio.to_thread(partial.finish, sha256, path):
                        self._verified.add(sha256)
                        return path
                partial.path.unlink(missing_ok=True)
        except OSError as error:
            raise self._disk_problem(error, size_bytes) from error
        finally:
            self._reserved.pop(sha256, None)
        raise TaskProblem(
            ErrorCode.ARTEFACT_CORRUPT,
            f"artefact {sha256.hex()[:12]} came twice from {self._http_url} with other bytes than "
            "its name says: add the model to the coordinator again",
        )

    def _is_whole(self, sha256: bytes, size_bytes: int) -> bool:
        path = self.path(sha256)
        try:
            if path.stat().st_size != size_bytes:
                path.unlink(missing_ok=True)
                return False
            if sha256 not in self._verified:
                if _digest_of(path) != sha256:
                    path.unlink(missing_ok=True)
                    return False
                self._verified.add(sha256)
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    @contextlib.asynccontextmanager
    async def _locked_partial(self, sha256: bytes) -> AsyncIterator["_Partial"]:
        path = self._directory / (sha256.hex() + _PARTIAL)
        while True:
            file = path.open("ab+", buffering=0)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The file we locked may have been renamed or deleted by who held it before.
                if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    break
            except BlockingIOError:
                pass
            except BaseException:
                file.close()
                raise
            file.close()
            await asyncio.sleep(_LOCK_POLL_S)
        with file:
            try:
                yield _Partial(path, file)
            finally:
                if not os.fstat(file.fileno()).st_size:
                    path.unlink(missing_ok=True)

    async def _download(self, sha256: bytes, size_bytes: int, partial: "_Partial") -> bool:
        """Fill the partial file; False (and emptied) if the server gives more than it should."""
        have = await asyncio.to_thread(partial.restart_hash)
        failures = 0
        while have != size_bytes:
            if have > size_bytes:
                partial.truncate()
                return False
            headers = {**self._headers, "Accept-Encoding": "identity"}
            if have:
                headers["Range"] = f"bytes={have}-"
            before = have
            trouble = "the connection ended early"
            try:
                url = self._url(sha256, ErrorCode.ARTEFACT_UNAVAILABLE)
                async with self._client.stream("GET", url, headers=headers) as response:
                    status = response.status_code
                    resumed = status == 206 and _range_start(response) == have
                    if have and not resumed and status in {200, 206, 416}:
                        partial.truncate()
                        have = 0
                    if resumed or status == 200:
                        have = await self._receive(response, have, size_bytes, partial)
                    elif status >= 500 or status in {206, 408, 416, 429}:
                        trouble = self._status_text(response)
                    else:
                        raise TaskProblem(
                            ErrorCode.ARTEFACT_CORRUPT
                            if status == 410
                            else ErrorCode.ARTEFACT_UNAVAILABLE,
                            f"artefact {sha256.hex()[:12]}: {self._status_text(response)}",
                        )
            except httpx.HTTPError as error:
                trouble = _why(error)
                have = partial.size_bytes
            if have == size_bytes:
                break
            failures = 0 if have > before else failures + 1
            if failures > MAX_FAILURES:
                raise TaskProblem(
                    ErrorCode.ARTEFACT_UNAVAILABLE,
                    f"artefact {sha256.hex()[:12]} cannot be fetched from {self._http_url}: "
                    f"{trouble}. Is the coordinator's HTTP address reachable from this machine?",
                )
            await asyncio.sleep(_pause_s(failures))
        return True

    @staticmethod
    async def _receive(
        response: httpx.Response, have: int, size_bytes: int, partial: "_Partial"
    ) -> int:
        """Append what comes, also when it ends early; returns the file's size."""
        buffer = bytearray()
        try:
            async for chunk in response.aiter_raw():
                buffer += chunk
                have += len(chunk)
                if have > size_bytes:
                    break
                if len(buffer) >= CHUNK_BYTES:
                    await asyncio.to_thread(partial.append, bytes(buffer))
                    buffer.clear()
        finally:
            partial.append(bytes(buffer))
        return have

    def _url(self, sha256: bytes, code: ErrorCode) -> str:
        if not self._http_url:
            raise TaskProblem(
                code,
                "the coordinator has told no HTTP address: start it with one, or give this node "
                "the address",
            )
        return f"{self._http_url}/api/artefacts/{sha256.hex()}"

    def _status_text(self, response: httpx.Response) -> str:
        status = response.status_code
        where = self._http_url
        if status in {401, 403}:
            reason = self._no_key_reason or "give this node the coordinator's key"
            return f"{where} refused the key (HTTP {status}): {reason}"
        if status == 410:
            return (
                f"the copy at {where} was damaged on the disk and is gone (HTTP 410): add the "
                "model, or send the input, again"
            )
        if status == 404:
            return f"{where} does not have it (HTTP 404): add the model again"
        return f"{where} answered HTTP {status}"

    # --- space ---------------------------------------------------------------------------------

    def _make_room(self, sha256: bytes, size_bytes: int, reserved: Mapping[bytes, int]) -> None:
        """Evict what was not used longest until `size_bytes` fit under the limit and on the disk.

        `reserved` are the sizes of the downloads under way.
        """
        files: list[tuple[float, int, Path, bytes]] = []
        used = 0
        for path in self._directory.iterdir():
            name = path.name.removesuffix(_PARTIAL)
            try:
                status = path.stat()
                name_sha256 = bytes.fromhex(name)
            except (FileNotFoundError, ValueError):
                continue
            if not stat.S_ISREG(status.st_mode) or name_sha256 == sha256:
                continue
            if path.name == name or name_sha256 not in reserved:
                used += status.st_size
            if not self._in_use[name_sha256] and name_sha256 not in reserved:
                files.append((status.st_mtime, status.st_size, path, name_sha256))
        used += sum([size for other, size in reserved.items() if other != sha256])
        files.sort()
        needed_free = size_bytes + FREE_BYTES_KEPT
        for _, size, path, name_sha256 in files:
            free = shutil.disk_usage(self._directory).free
            if used + size_bytes <= self._limit_bytes and free >= needed_free:
                return
            if self._in_use[name_sha256]:
                # Taken into use since the list was made.
                continue
            path.unlink(missing_ok=True)
            self._verified.discard(name_sha256)
            used -= size
        if used + size_bytes > self._limit_bytes:
            raise TaskProblem(
                ErrorCode.NO_SPACE,
                f"no room for {size_bytes} bytes: {used} of the cache's {self._limit_bytes} are "
                "in use now; raise the cache limit",
            )
        free = shutil.disk_usage(self._directory).free
        if free < needed_free:
            raise TaskProblem(
                ErrorCode.NO_SPACE,
                f"no room for {size_bytes} bytes: the disk of {self._directory} has {free} left; "
                "free some, or give the node another cache directory",
            )

    def _disk_problem(self, error: OSError, size_bytes: int) -> TaskProblem:
        if error.errno in _NO_SPACE_ERRORS:
            return TaskProblem(
                ErrorCode.NO_SPACE,
                f"the disk of {self._directory} is full while storing {size_bytes} bytes "
                f"({error.strerror}): free some space, or give the node another cache directory",
            )
        return TaskProblem(
            ErrorCode.NODE_ERROR,
            f"the cache directory {self._directory} cannot be used ({error.strerror}): check its "
            "permissions and its disk",
        )


class _Partial:
    """A locked, unfinished file and the digest of what stands in it."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self.path = path
        self.size_bytes = 0
        self._file = file
        self._hash = hashlib.sha256()

    def restart_hash(self) -> int:
        """Take in what an earlier download left; returns its size."""
        self._hash = hashlib.sha256()
        self._file.seek(0)
        self.size_bytes = 0
        while chunk := self._file.read(CHUNK_BYTES):
            self._hash.update(chunk)
            self.size_bytes += len(chunk)
        return self.size_bytes

    def truncate(self) -> None:
        """Begin again."""
        self._file.truncate(0)
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def append(self, data: bytes) -> None:
        """Write through to the system; a full disk leaves no half file."""
        rest = memoryview(data)
        try:
            while rest:
                written = self._file.write(rest) or 0
                self._hash.update(rest[:written])
                self.size_bytes += written
                rest = rest[written:]
        except OSError as error:
            if error.errno in _NO_SPACE_ERRORS:
                self.path.unlink(missing_ok=True)
            raise

    def finish(self, sha256: bytes, path: Path) -> bool:
        """Verify, sync, read back and rename; False (and emptied) if the bytes are wrong."""
        if self._hash.digest() == sha256:
            os.fsync(self._file.fileno())
            if _digest_of(self.path) == sha256:
                self.path.replace(path)
                return True
        self.truncate()
        return False


def _digest_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _range_start(response: httpx.Response) -> int:
    value = response.headers.get("content-range", "")
    start = value.removeprefix("bytes ").split("-", 1)[0]
    return int(start) if start.isascii() and start.isdigit() else -1


def _pause_s(failures: int) -> float:
    return min(LAST_RETRY_S, FIRST_RETRY_S * 2.0**failures)


def _why(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__
