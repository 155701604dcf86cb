"""The artefact cache against a real HTTP server and a real disk."""

import asyncio
import errno
import os
import resource
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest
from node_mesh import ArtefactServer

from maille_node import artefacts
from maille_node.artefacts import ArtefactCache
from maille_node.errors import TaskProblem
from maille_protocol import ErrorCode

BIG = bytes(range(256)) * 12_000
LIMIT = 8 * 1024 * 1024


@pytest.fixture
def server() -> Iterator[ArtefactServer]:
    with ArtefactServer() as running:
        yield running


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefacts, "FIRST_RETRY_S", 0.001)
    monkeypatch.setattr(artefacts, "FREE_BYTES_KEPT", 0)


def with_cache(
    directory: Path,
    url: str,
    work: Callable[[ArtefactCache], Awaitable[None]],
    *,
    limit_bytes: int = LIMIT,
    key: str | None = None,
) -> None:
    async def main() -> None:
        async with httpx.AsyncClient(timeout=5) as client:
            cache = ArtefactCache(directory, limit_bytes, client)
            cache.use(url, {} if key is None else {"Authorization": f"Bearer {key}"})
            try:
                await work(cache)
            finally:
                await cache.close()

    asyncio.run(main())


def fails_with(
    directory: Path,
    server: ArtefactServer,
    sha256: bytes,
    size: int,
    code: ErrorCode,
    limit_bytes: int = LIMIT,
) -> str:
    found: list[TaskProblem] = []

    async def work(cache: ArtefactCache) -> None:
        with pytest.raises(TaskProblem) as caught:
            await cache.fetch(sha256, size)
        found.append(caught.value)

    with_cache(directory, server.url, work, limit_bytes=limit_bytes)
    assert found[0].code is code, found[0].text
    return found[0].text


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_an_artefact_is_fetched_once_for_all_who_want_it(
    server: ArtefactServer, tmp_path: Path
) -> None:
    sha256 = server.add(BIG)

    async def work(cache: ArtefactCache) -> None:
        paths = await asyncio.gather(*[cache.fetch(sha256, len(BIG)) for _ in range(5)])
        assert {path.read_bytes() for path in paths} == {BIG}
        assert await cache.fetch(sha256, len(BIG)) == paths[0]

    with_cache(tmp_path, server.url, work)
    assert server.requests == [("GET", "")]
    assert names(tmp_path) == [sha256.hex()]


def test_two_nodes_with_one_directory_download_once(server: ArtefactServer, tmp_path: Path) -> None:
    sha256 = server.add(BIG)

    async def work(cache: ArtefactCache) -> None:
        async with httpx.AsyncClient() as client:
            other = ArtefactCache(tmp_path, LIMIT, client)
            other.use(server.url, {})
            await asyncio.gather(cache.fetch(sha256, len(BIG)), other.fetch(sha256, len(BIG)))
            await other.close()

    with_cache(tmp_path, server.url, work)
    assert len(server.requests) == 1
    assert names(tmp_path) == [sha256.hex()]


def test_cut_connections_are_resumed_where_they_broke(
    server: ArtefactServer, tmp_path: Path
) -> None:
    sha256 = server.add(BIG)
    server.cut_after = [1_000_000, 0, 500_000]

    async def work(cache: ArtefactCache) -> None:
        assert (await cache.fetch(sha256, len(BIG))).read_bytes() == BIG

    with_cache(tmp_path, server.url, work)
    assert server.requests == [
        ("GET", ""),
        ("GET", "bytes=1000000-"),
        ("GET", "bytes=1000000-"),
        ("GET", "bytes=1500000-"),
    ]


def test_a_partial_file_of_an_earlier_process_is_resumed(
    server: ArtefactServer, tmp_path: Path
) -> None:
    sha256 = server.add(BIG)
    (tmp_path / f"{sha256.hex()}.part").write_bytes(BIG[:2_000_000])

    async def work(cache: ArtefactCache) -> None:
        assert (await cache.fetch(sha256, len(BIG))).read_bytes() == BIG

    with_cache(tmp_path, server.url, work)
    assert server.requests == [("GET", "bytes=2000000-")]


@pytest.mark.parametrize("left", [b"z" * 1000, b"z" * len(BIG), BIG + b"too long"])
def test_a_partial_file_with_wrong_bytes_is_thrown_away(
    left: bytes, server: ArtefactServer, tmp_path: Path
) -> None:
    sha256 = server.add(BIG)
    (tmp_path / f"{sha256.hex()}.part").write_bytes(left)

    async def work(cache: ArtefactCache) -> None:
        assert (await cache.fetch(sha256, len(BIG))).read_bytes() == BIG

    with_cache(tmp_path, server.url, work)
    assert names(tmp_path) == [sha256.hex()]


def test_a_server_without_ranges_is_asked_from_the_start(
    server: ArtefactServer, tmp_path: Path
) -> None:
    sha256 = server.add(BIG)
    server.ranges = False
    server.cut_after = [1_000_000]

    async def work(cache: ArtefactCache) -> None:
        assert (await cache.fetch(sha256, len(BIG))).read_bytes() == BIG

    with_cache(tmp_path, server.url, work)
    assert len(server.requests) == 2


def test_a_server_that_always_breaks_off_is_given_up(
    server: ArtefactServer, tmp_path: Path
) -> None:
    sha256 = server.add(BIG)
    server.ranges = False
    server.cut_after = [1_000_000] * 50
    text = fails_with(tmp_path, server, sha256, len(BIG), ErrorCode.ARTEFACT_UNAVAILABLE)
    assert server.url in text
    assert len(server.requests) < 10


def test_wrong_bytes_are_fetched_once_more(server: ArtefactServer, tmp_path: Path) -> None:
    sha256 = server.add(BIG)
    server.serve_instead = [b"x" * len(BIG)]

    async def work(cache: ArtefactCache) -> None:
        assert (await cache.fetch(sha256, len(BIG))).read_bytes() == BIG

    with_cache(tmp_path, server.url, work)
    assert len(server.requests) == 2


@pytest.mark.parametrize("wrong", [b"x" * len(BIG), b"x" * (len(BIG) + 1)])
def test_bytes_wrong_twice_are_corrupt_and_leave_nothing(
    wrong: bytes, server: ArtefactServer, tmp_path: Path
) -> None:
    sha256 = server.add(BIG)
    server.serve_instead = [wrong, wrong]
    text = fails_with(tmp_path, server, sha256, len(BIG), ErrorCode.ARTEFACT_CORRUPT)
    assert "add the model" in text
    assert names(tmp_path) == []


def test_a_file_that_rotted_on_disk_is_fetched_again(
    server: ArtefactServer, tmp_path: Path
) -> None:
    sha256 = server.add(BIG)
    (tmp_path / sha256.hex()).write_bytes(BIG[:-1] + b"!")

    async def work(cache: ArtefactCache) -> None:
        assert (await cache.fetch(sha256, len(BIG))).read_bytes() == BIG

    with_cache(tmp_path, server.url, work)
    assert len(server.requests) == 1


def test_a_whole_file_of_an_earlier_process_is_used(server: ArtefactServer, tmp_path: Path) -> None:
    sha256 = server.add(BIG)
    (tmp_path / sha256.hex()).write_bytes(BIG)

    async def work(cache: ArtefactCache) -> None:
        await cache.fetch(sha256, len(BIG))

    with_cache(tmp_path, server.url, work)
    assert server.requests == []


def test_what_is_not_there_says_so(server: ArtefactServer, tmp_path: Path) -> None:
    text = fails_with(tmp_path, server, b"n" * 32, 10, ErrorCode.ARTEFACT_UNAVAILABLE)
    assert "404" in text
    assert len(server.requests) == 1
    assert names(tmp_path) == []


def test_nobody_answering_is_unavailable(tmp_path: Path, server: ArtefactServer) -> None:
    server.url = "http://127.0.0.1:9"
    text = fails_with(tmp_path, server, b"n" * 32, 10, ErrorCode.ARTEFACT_UNAVAILABLE)
    assert "reachable" in text
    server.url = ""
    text = fails_with(tmp_path, server, b"n" * 32, 10, ErrorCode.ARTEFACT_UNAVAILABLE)
    assert "no HTTP address" in text


def test_the_key_is_shown_and_its_refusal_explained(tmp_path: Path) -> None:
    with ArtefactServer(key="s3cret") as server:
        sha256 = server.add(BIG)
        text = fails_with(tmp_path, server, sha256, len(BIG), ErrorCode.ARTEFACT_UNAVAILABLE)
        assert "key" in text

        async def work(cache: ArtefactCache) -> None:
            await cache.fetch(sha256, len(BIG))
            assert await cache.put(b"output") in server.artefacts

        with_cache(tmp_path, server.url, work, key="s3cret")


# --- space ------------------------------------------------------------------------------------


def test_the_oldest_unused_artefacts_make_room(server: ArtefactServer, tmp_path: Path) -> None:
    contents = [bytes([n]) * 1000 for n in range(5)]
    shas = [server.add(content) for content in contents]

    async def work(cache: ArtefactCache) -> None:
        for number, sha256 in enumerate(shas[:3]):
            path = await cache.fetch(sha256, 1000)
            os.utime(path, (number, number))
        cache.acquire(shas[0])
        await cache.fetch(shas[3], 1000)
        assert names(tmp_path) == sorted(sha.hex() for sha in (shas[0], shas[2], shas[3]))
        for sha256 in shas[2:4]:
            cache.acquire(sha256)
        with pytest.raises(TaskProblem, match="raise the cache limit") as caught:
            await cache.fetch(shas[4], 1000)
        assert caught.value.code is ErrorCode.NO_SPACE
        cache.release(shas[0])
        await cache.fetch(shas[4], 1000)
        assert shas[0].hex() not in names(tmp_path)

    with_cache(tmp_path, server.url, work, limit_bytes=3500)


def test_an_artefact_over_the_limit_is_refused_unasked(
    server: ArtefactServer, tmp_path: Path
) -> None:
    sha256 = server.add(BIG)
    text = fails_with(tmp_path, server, sha256, len(BIG), ErrorCode.NO_SPACE, limit_bytes=1000)
    assert str(len(BIG)) in text
    assert "1000" in text
    assert server.requests == []


def test_a_disk_without_room_is_found_before_the_download(
    server: ArtefactServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = server.add(BIG)
    monkeypatch.setattr(artefacts, "FREE_BYTES_KEPT", 1 << 60)
    text = fails_with(tmp_path, server, sha256, len(BIG), ErrorCode.NO_SPACE)
    assert str(tmp_path) in text
    assert server.requests == []


FULL_DISK = """
import asyncio, resource, sys, httpx
from pathlib import Path
from maille_node.artefacts import ArtefactCache
from maille_node.errors import TaskProblem
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
async def main():
    async with httpx.AsyncClient() as client:
        cache = ArtefactCache(Path(sys.argv[1]), 1 << 30, client)
        cache.use(sys.argv[2], {})
        try:
            await cache.fetch(bytes.fromhex(sys.argv[3]), int(sys.argv[4]))
        except TaskProblem as problem:
            print(problem.code.name, problem.text)
        await cache.close()
asyncio.run(main())
"""


def test_a_disk_that_fills_up_on_the_way_leaves_no_half_file(
    server: ArtefactServer, tmp_path: Path
) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    sha256 = server.add(BIG)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), server.url, sha256.hex(), str(len(BIG))],
        capture_output=True,
        text=True,
        timeout=15,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("NO_SPACE")
    assert "free some space" in done.stdout
    assert names(tmp_path) == []


def test_a_disk_error_of_another_kind_is_named(
    server: ArtefactServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = server.add(BIG)

    def broken(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    text = fails_with(tmp_path, server, sha256, len(BIG), ErrorCode.NODE_ERROR)
    assert "Input/output error" in text


# --- delivering -------------------------------------------------------------------------------


def test_an_output_is_delivered_after_a_hiccup(server: ArtefactServer, tmp_path: Path) -> None:
    server.put_status = [503, 500]

    async def work(cache: ArtefactCache) -> None:
        sha256 = await cache.put(BIG)
        assert server.artefacts[sha256] == BIG

    with_cache(tmp_path, server.url, work)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (413, ErrorCode.OUTPUT_TOO_LARGE),
        (507, ErrorCode.NO_SPACE),
        (403, ErrorCode.CONTENT_UNAVAILABLE),
        (500, ErrorCode.CONTENT_UNAVAILABLE),
    ],
)
def test_an_output_that_is_not_taken_says_why(
    status: int, code: ErrorCode, server: ArtefactServer, tmp_path: Path
) -> None:
    server.put_status = [status] * 20

    async def work(cache: ArtefactCache) -> None:
        with pytest.raises(TaskProblem) as caught:
            await cache.put(b"output")
        assert caught.value.code is code

    with_cache(tmp_path, server.url, work)
