"""The artefact store: verified, resumable, limited, and clean after every fault."""

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from maille_coordinator.models import (
    ArtefactBusy,
    ArtefactDiskFull,
    ArtefactError,
    ArtefactInfo,
    ArtefactMismatch,
    ArtefactOffset,
    ArtefactStore,
    ArtefactStoreFull,
    ArtefactTooLarge,
    InvalidArtefactName,
    UnknownArtefact,
)

MEBIBYTE = 1024 * 1024
DATA = bytes(range(256)) * 16 * 1024  # 4 MiB: several flushes
NAME = hashlib.sha256(DATA).hexdigest()


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def make_store(
    tmp_path: Path,
    max_bytes: int = 64 * MEBIBYTE,
    max_artefact_bytes: int = 16 * MEBIBYTE,
    clock: Clock | None = None,
    reserve_bytes: int = 0,
    busy_wait_s: float = 10,
) -> ArtefactStore:
    return ArtefactStore(
        tmp_path / "artefacts",
        max_bytes,
        max_artefact_bytes,
        transient_ttl_s=100,
        reserve_bytes=reserve_bytes,
        busy_wait_s=busy_wait_s,
        clock=clock or Clock(),
    )


async def chunks(data: bytes, size: int = 65536) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
        await asyncio.sleep(0)


async def breaking(data: bytes, error: BaseException) -> AsyncIterator[bytes]:
    async for chunk in chunks(data):
        yield chunk
    raise error


def receive(
    store: ArtefactStore,
    data: bytes = DATA,
    name: str = NAME,
    offset: int = 0,
    total: int | None = None,
) -> ArtefactInfo:
    return asyncio.run(store.receive(name, chunks(data), offset=offset, total=total))


def files(tmp_path: Path) -> list[str]:
    root = tmp_path / "artefacts"
    return sorted(str(file.relative_to(root)) for file in root.rglob("*") if file.is_file())


def keep(store: ArtefactStore, name: str = NAME) -> ArtefactInfo:
    return asyncio.run(store.keep(name))


@pytest.mark.parametrize("total", [None, len(DATA)])
def test_received_artefact_is_there_after_a_restart(tmp_path: Path, total: int | None) -> None:
    store = make_store(tmp_path)
    info = receive(store, total=total)
    assert (info.complete, info.size_bytes) == (True, len(DATA))
    again = make_store(tmp_path)
    assert again.path(NAME).read_bytes() == DATA
    assert again.size(NAME) == again.used_bytes == len(DATA)
    assert [item.sha256 for item in again.list()] == [NAME]
    assert again.path(NAME).stat().st_mode & 0o077 == 0


def test_kept_artefacts_lie_by_their_first_two_digits(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    receive(store)
    assert files(tmp_path) == [f"transient/{NAME}"]
    assert keep(store).expires_at_unix_s is None
    assert files(tmp_path) == [f"{NAME[:2]}/{NAME}"]
    assert make_store(tmp_path).list() == [ArtefactInfo(NAME, len(DATA))]


def test_small_artefact_from_memory(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    small = asyncio.run(store.add(b"inputs"))
    large = asyncio.run(store.add(DATA))
    assert (small.sha256, large.sha256) == (hashlib.sha256(b"inputs").hexdigest(), NAME)
    assert asyncio.run(store.read(small.sha256)) == b"inputs"
    assert asyncio.run(store.add(b"inputs")) == small
    empty = asyncio.run(store.add(b""))
    assert store.size(empty.sha256) == 0


def test_transient_artefacts_go_and_kept_ones_stay(tmp_path: Path) -> None:
    clock = Clock()
    store = make_store(tmp_path, clock=clock)
    receive(store)
    keep(store)
    brief = asyncio.run(store.add(b"brief"))
    used = asyncio.run(store.add(b"used"))
    clock.now += 90
    store.touch_transient(used.sha256)
    clock.now += 20
    assert store.prune() == 1
    assert store.info(brief.sha256) is None
    assert store.info(used.sha256) is not None
    # The times are still known after a restart.
    store = make_store(tmp_path, clock=clock)
    clock.now += 100
    assert store.prune() == 1
    assert [info.sha256 for info in store.list()] == [NAME]
    # A model that is removed becomes transient: a task may still be fetching it.
    store.release(NAME)
    assert store.prune() == 0
    clock.now += 101
    assert store.prune() == 1
    assert files(tmp_path) == []
    assert store.used_bytes == 0


def test_touch_leaves_a_kept_artefact_alone(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    receive(store)
    keep(store)
    assert store.touch_transient(NAME, 1.0).expires_at_unix_s is None
    assert receive(store).expires_at_unix_s is None


def test_upload_in_parts(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    first = receive(store, DATA[:1_500_000], total=len(DATA))
    assert first == ArtefactInfo(NAME, 1_500_000, complete=False)
    assert store.info(NAME) is None
    # A restart in between does no harm: the part lies on the disk.
    store = make_store(tmp_path)
    assert store.partial_size(NAME) == 1_500_000
    last = receive(store, DATA[1_500_000:], offset=1_500_000, total=len(DATA))
    assert last.complete
    assert store.path(NAME).read_bytes() == DATA
    assert store.partial_size(NAME) == 0


@pytest.mark.parametrize("error", [ConnectionError("gone"), asyncio.CancelledError()])
def test_upload_that_breaks_off_can_go_on(tmp_path: Path, error: BaseException) -> None:
    store = make_store(tmp_path)

    async def scenario() -> None:
        with pytest.raises(type(error)):
            await store.receive(NAME, breaking(DATA[:1_300_000], error), total=len(DATA))

    asyncio.run(scenario())
    assert store.partial_size(NAME) == 1_300_000
    assert receive(store, DATA[1_300_000:], offset=1_300_000, total=len(DATA)).complete


def test_upload_may_begin_anew(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    receive(store, DATA[:1000], total=len(DATA))
    assert receive(store, total=len(DATA)).complete


def test_wrong_offset_names_the_right_one_and_keeps_the_part(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    receive(store, DATA[:1000], total=len(DATA))
    with pytest.raises(ArtefactOffset, match="send from byte 1000 on") as caught:
        receive(store, DATA[2000:], offset=2000, total=len(DATA))
    assert caught.value.length_bytes == 1000
    assert store.partial_size(NAME) == 1000


@pytest.mark.parametrize(
    ("data", "total"),
    [
        (DATA[:-1] + b"\0", None),
        (DATA[:-1] + b"\0", len(DATA)),
        (DATA[:-1], None),
        (DATA + b"x", len(DATA)),
        (b"", None),
    ],
)
def test_wrong_bytes_leave_nothing(tmp_path: Path, data: bytes, total: int | None) -> None:
    store = make_store(tmp_path)
    with pytest.raises(ArtefactMismatch, match="send"):
        receive(store, data, total=total)
    assert files(tmp_path) == []
    assert store.info(NAME) is None


def test_part_that_was_damaged_is_found_at_the_end(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    receive(store, DATA[:1000], total=len(DATA))
    (tmp_path / "artefacts" / "partial" / NAME).write_bytes(bytes(1000))
    with pytest.raises(ArtefactMismatch):
        receive(store, DATA[1000:], offset=1000, total=len(DATA))
    assert files(tmp_path) == []


@pytest.mark.parametrize("total", [None, len(DATA)])
def test_too_large(tmp_path: Path, total: int | None) -> None:
    store = make_store(tmp_path, max_artefact_bytes=3 * MEBIBYTE)
    with pytest.raises(ArtefactTooLarge, match=r"3145728 bytes.*max_artefact_bytes"):
        receive(store, total=total)
    assert files(tmp_path) == []


@pytest.mark.parametrize("total", [None, len(DATA)])
def test_store_full(tmp_path: Path, total: int | None) -> None:
    store = make_store(tmp_path, max_bytes=7 * MEBIBYTE)
    receive(store)
    other = DATA[::-1]
    name = hashlib.sha256(other).hexdigest()
    with pytest.raises(ArtefactStoreFull, match="max_store_bytes"):
        receive(store, other, name, total=total)
    assert files(tmp_path) == [f"transient/{NAME}"]
    store.remove(NAME)
    assert receive(store, other, name).complete


def test_parts_count_as_well(tmp_path: Path) -> None:
    store = make_store(tmp_path, max_bytes=5 * MEBIBYTE)
    receive(store, DATA[:-1], total=len(DATA))
    with pytest.raises(ArtefactStoreFull):
        asyncio.run(store.add(DATA[::-1]))
    assert receive(store, DATA[-1:], offset=len(DATA) - 1, total=len(DATA)).complete


def test_room_is_left_for_the_journal(tmp_path: Path) -> None:
    store = make_store(tmp_path, reserve_bytes=1 << 60)
    with pytest.raises(ArtefactDiskFull, match="left to the journal"):
        receive(store)
    assert files(tmp_path) == []


_FULL_DISK = """
import asyncio, resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_models_artefacts import DATA, NAME, breaking, chunks, files, make_store
from maille_coordinator.models import ArtefactDiskFull
# From here on the kernel refuses the bytes above 2 MiB of a file, as a full disk does.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, resource.RLIM_INFINITY))
store = make_store(Path(sys.argv[1]))
try:
    asyncio.run(store.receive(NAME, chunks(DATA)))
except ArtefactDiskFull as error:
    print(error)
assert files(Path(sys.argv[1])) == []
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert asyncio.run(store.receive(NAME, chunks(DATA))).complete
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such limits there")
def test_full_disk_leaves_nothing_and_is_survived(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "free some space" in done.stdout


def test_second_upload_of_the_same_bytes_waits_for_the_first(tmp_path: Path) -> None:
    store = make_store(tmp_path)

    async def scenario() -> None:
        reached, go_on = asyncio.Event(), asyncio.Event()
        first = asyncio.ensure_future(store.receive(NAME, held_up(reached, go_on)))
        await reached.wait()
        second = asyncio.ensure_future(store.receive(NAME, never()))
        third = asyncio.ensure_future(store.add(DATA))
        await asyncio.sleep(0)
        go_on.set()
        for upload in (first, second, third):
            assert (await upload).complete

    asyncio.run(scenario())
    assert files(tmp_path) == [f"transient/{NAME}"]


def test_second_upload_takes_over_when_the_first_breaks_off(tmp_path: Path) -> None:
    store = make_store(tmp_path)

    async def scenario() -> None:
        reached, go_on = asyncio.Event(), asyncio.Event()
        first = asyncio.ensure_future(store.receive(NAME, held_up(reached, go_on)))
        await reached.wait()
        second = asyncio.ensure_future(store.add(DATA))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).complete
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(scenario())


def test_second_upload_does_not_wait_for_ever(tmp_path: Path) -> None:
    store = make_store(tmp_path, busy_wait_s=0.05)

    async def scenario() -> None:
        reached, go_on = asyncio.Event(), asyncio.Event()
        first = asyncio.ensure_future(store.receive(NAME, held_up(reached, go_on)))
        await reached.wait()
        with pytest.raises(ArtefactBusy, match="try again"):
            await store.receive(NAME, never())
        go_on.set()
        assert (await first).complete

    asyncio.run(scenario())


async def held_up(reached: asyncio.Event, go_on: asyncio.Event) -> AsyncIterator[bytes]:
    yield DATA[:10]
    reached.set()
    await go_on.wait()
    yield DATA[10:]


def never() -> AsyncIterator[bytes]:
    return breaking(b"", AssertionError("read although the artefact is there"))


def test_abandoned_parts_are_bounded_and_go_in_time(tmp_path: Path) -> None:
    clock = Clock()
    store = make_store(tmp_path, clock=clock)
    for number in range(40):
        data = f"artefact {number}".encode()
        receive(store, data[:4], hashlib.sha256(data).hexdigest(), total=len(data))
    assert len(files(tmp_path)) <= 17
    clock.now = (tmp_path / files_root(tmp_path)).stat().st_mtime + 25 * 3600
    store.prune()
    assert files(tmp_path) == []


def files_root(tmp_path: Path) -> Path:
    return tmp_path / "artefacts" / files(tmp_path)[0]


@pytest.mark.parametrize(
    "name", ["", "abc", NAME.upper(), "../../etc/passwd", f"{NAME}\n", f"{NAME}0"]
)
def test_names_that_are_no_digest(tmp_path: Path, name: str) -> None:
    store = make_store(tmp_path)
    with pytest.raises(InvalidArtefactName, match="64 lower-case"):
        store.path(name)
    with pytest.raises(InvalidArtefactName):
        receive(store, name=name)


def test_unknown(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    for ask in (store.path, store.size, store.remove, store.touch_transient, store.release):
        with pytest.raises(UnknownArtefact, match=f"PUT /api/artefacts/{NAME}"):
            ask(NAME)
    assert store.info(NAME) is None


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "artefacts").write_bytes(b"a file")
    with pytest.raises(ArtefactError, match="another state directory"):
        make_store(tmp_path)
