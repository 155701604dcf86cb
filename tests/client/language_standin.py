"""The stand-in mesh with language models: the coordinator's real routes over scripted answers."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Literal

from fastapi import FastAPI
from scripted_language import ScriptedLanguage
from standin import StandIn

from maille_coordinator.api import language_routes, openai_routes
from maille_coordinator.api.errors import add_handlers
from maille_coordinator.language import GenerateRequest, TextPiece
from maille_coordinator.service import ServiceError

STORY: dict[str, object] = {
    "name": "story",
    "version": 2,
    "format": "gguf",
    "size_bytes": 98_000_000,
    "sha256": "22" * 32,
    "batchable": False,
    "description": "",
    "added_at_unix_ms": 1,
    "inputs": [],
    "outputs": [],
}


class BrittleLanguage(ScriptedLanguage):
    """Loses its connections where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.break_after: set[int] = set()
        """A connection breaks once after so many tokens of the answer, 1 at least."""
        self.behind = 0
        """How often a resumed answer is said to have fewer tokens than the client has."""
        self.requests = 0

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TextPiece]:
        self.requests += 1
        async for piece in self._breaking(super().generate(request), 0):
            yield piece

    async def resume(self, response_id: str, from_index: int = 0) -> AsyncIterator[TextPiece]:
        if self.behind:
            self.behind -= 1
            raise ServiceError(400, "bad_parameter", "the response has fewer tokens: ask for less")
        async for piece in self._breaking(super().resume(response_id, from_index), from_index):
            yield piece

    async def _breaking(
        self, pieces: AsyncIterator[TextPiece], index: int
    ) -> AsyncIterator[TextPiece]:
        async for piece in pieces:
            self._break(index)
            yield piece
            index = piece.index
        self._break(index)

    def _break(self, index: int) -> None:
        if index in self.break_after:
            self.break_after.discard(index)
            raise ConnectionResetError


class Proxy:
    """Passes connections on, and closes them at the start of requests to /v1 as told."""

    def __init__(self, port: int) -> None:
        self.faults: list[Literal["unheard", "unanswered"]] = []
        """For each next request: the coordinator never sees it, or its answer is never seen."""
        self._port = port
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._port)
        muted = asyncio.Event()
        answering = asyncio.ensure_future(self._answer(inner_reader, writer, muted))
        try:
            while data := await reader.read(65536):
                fault = self.faults.pop(0) if b" /v1/" in data and self.faults else None
                if fault == "unheard":
                    break
                if fault == "unanswered":
                    muted.set()
                inner_writer.write(data)
                await inner_writer.drain()
        except OSError:
            pass
        finally:
            answering.cancel()
            inner_writer.close()
            writer.close()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, muted: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if muted.is_set():
                    break
                writer.write(data)
                await writer.drain()
        writer.close()


class LanguageStandIn(StandIn):
    """A stand-in with the model "story"; `proxy_url` leads to it too."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.language = BrittleLanguage()
        self.models.append(STORY)
        self.proxy: Proxy | None = None
        self.proxy_url = ""

    def open_proxy(self) -> Proxy:
        assert self.loop is not None
        self.proxy = Proxy(int(self.http_url.rpartition(":")[2]))
        starting = asyncio.run_coroutine_threadsafe(self.proxy.start(), self.loop)
        self.proxy_url = starting.result(5)
        return self.proxy

    def close_proxy(self) -> None:
        assert self.loop is not None
        if self.proxy is not None:
            asyncio.run_coroutine_threadsafe(self.proxy.stop(), self.loop).result(5)

    def _app(self) -> FastAPI:
        app = FastAPI()
        app.include_router(openai_routes.router(self.language))
        app.include_router(language_routes.router(self.language))
        add_handlers(app)

        @app.post("/api/models")
        async def add() -> dict[str, object]:
            return STORY

        app.mount("/", super()._app())
        return app

    def release(self, count: int = 1) -> None:
        self.in_loop(lambda: self.language.release(count))

    def end_of(self, response_id: str) -> str | None:
        """Wait for the end of an answer; its finish reason."""
        assert self.loop is not None
        waiting = self.language.until_ended(response_id)
        return asyncio.run_coroutine_threadsafe(waiting, self.loop).result(10)


@contextlib.contextmanager
def language_stand_in(directory: Path) -> Iterator[LanguageStandIn]:
    mesh = LanguageStandIn(directory)
    thread = threading.Thread(target=mesh.main, daemon=True)
    thread.start()
    assert mesh.started.wait(15)
    assert mesh.error is None, mesh.error
    try:
        yield mesh
    finally:
        assert mesh.loop is not None
        assert mesh.stop is not None
        mesh.loop.call_soon_threadsafe(mesh.stop.set)
        thread.join(10)
        assert not thread.is_alive()
