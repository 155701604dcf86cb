"""What only a real server shows: streams that break off, large files, events, memory."""

import asyncio
import contextlib
import hashlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
import uvicorn
from api_service import MEBIBYTE, MemoryService
from test_api_basics import error_of

from maille_coordinator.api import create_app, event_routes
from maille_coordinator.records import MeshEvent

DATA = bytes(range(256)) * (4 * 4096)  # 4 MiB
URL = f"/api/artefacts/{hashlib.sha256(DATA).hexdigest()}"
Scenario = Callable[[MemoryService, httpx.AsyncClient], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[tuple[MemoryService, int]]:
    service = MemoryService(directory)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        create_app(service, key=None, max_task_body_bytes=MEBIBYTE), log_config=None, lifespan="off"
    )
    server = uvicorn.Server(config)
    server.config.load()
    work = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        yield service, listener.getsockname()[1]
    finally:
        server.should_exit = True
        await work
        listener.close()
        service.catalogue.close()


def play(directory: Path, scenario: Scenario) -> None:
    async def run() -> None:
        async with (
            serving(directory) as (service, port),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
        ):
            await scenario(service, client)

    asyncio.run(run())


def test_upload_and_download(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        assert (await client.put(URL, content=DATA)).status_code == 201
        assert (await client.get(URL)).content == DATA
        response = await client.get(URL, headers={"Range": "bytes=1000000-3000000"})
        assert (response.status_code, response.content) == (206, DATA[1_000_000:3_000_001])
        head = await client.head(URL)
        assert (head.headers["content-length"], head.content) == (str(len(DATA)), b"")

    play(tmp_path, scenario)


def test_upload_without_a_length(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(DATA), 100_000):
                yield DATA[start : start + 100_000]

        assert (await client.put(URL, content=pieces())).status_code == 201

    play(tmp_path, scenario)


def test_upload_that_breaks_off_goes_on_where_it_was(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path) as (service, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            head = f"PUT {URL} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(DATA)}\r\n\r\n"
            writer.write(head.encode() + DATA[:1_500_000])
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            name = URL.rpartition("/")[2]
            while (  # noqa: ASYNC110 - the server's own state
                not (stored := service.artefacts.partial_size(name)) or service.artefacts._receiving
            ):
                await asyncio.sleep(0.01)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                offset = int((await client.head(URL)).headers["upload-offset"])
                assert offset == stored <= 1_500_000
                response = await client.put(
                    URL,
                    content=DATA[offset:],
                    headers={"Content-Range": f"bytes {offset}-{len(DATA) - 1}/{len(DATA)}"},
                )
                assert response.status_code == 201
                assert (await client.get(URL)).content == DATA

    asyncio.run(run())


@pytest.mark.parametrize("path", ["/api/tasks", f"/api/artefacts/{'0' * 64}"])
def test_a_hundred_megabytes_get_a_clear_answer(tmp_path: Path, path: str) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        piece = bytes(MEBIBYTE)

        async def hundred() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield piece

        response = await client.request(
            "PUT" if "artefacts" in path else "POST",
            path,
            content=hundred(),
            headers={"Content-Type": "application/json", "Content-Length": str(100 * MEBIBYTE)},
        )
        assert error_of(response)[0] == 413
        assert (await client.get("/healthz")).status_code == 200
        assert service.artefacts.used_bytes == 0

    play(tmp_path, scenario)


def test_download_goes_on_after_its_artefact_was_removed(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        await client.put(URL, content=DATA)
        async with client.stream("GET", URL) as response:
            service.artefacts.remove(URL.rpartition("/")[2])
            assert await response.aread() == DATA
        assert (await client.get(URL)).status_code == 404

    play(tmp_path, scenario)


def test_events_come_as_they_happen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_routes, "HEARTBEAT_S", 0.02)

    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        async with client.stream("GET", "/api/events") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = response.aiter_lines()
            assert await anext(lines) == ": connected"
            while not service.listeners:
                service.changed.clear()
                await service.changed.wait()
            while await anext(lines) != ": still here":
                pass
            service.publish(MeshEvent("node.ready", 1000, "desk", "hello", {"slots": 2}))
            service.publish(MeshEvent("task.dead", 1001, "00ff", "line one\nline two"))
            found = [line async for line in taken(lines, 2)]
            assert found[0][0] == "node.ready"
            assert found[0][1] == {
                "kind": "node.ready",
                "at_unix_ms": 1000,
                "subject": "desk",
                "text": "hello",
                "details": {"slots": 2},
            }
            assert found[1][1]["text"] == "line one\nline two"
        # Hanging up ends the listening.
        while service.listeners:
            service.changed.clear()
            await service.changed.wait()

    play(tmp_path, scenario)


async def taken(
    lines: AsyncIterator[str], count: int
) -> AsyncIterator[tuple[str, dict[str, object]]]:
    kind = ""
    async for line in lines:
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield kind, json.loads(line.removeprefix("data: "))
            count -= 1
            if not count:
                return


def test_event_stream_ends_with_its_source() -> None:
    async def source() -> AsyncIterator[MeshEvent]:
        yield MeshEvent("node.lost", 1, "desk")

    async def run() -> list[bytes]:
        return [piece async for piece in event_routes.event_lines(source(), 10)]

    pieces = asyncio.run(run())
    assert pieces[0].startswith(b":")
    assert pieces[1].startswith(b"event: node.lost\ndata: {")
    assert len(pieces) == 2
