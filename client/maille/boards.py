"""Boards and senses of a mesh (`mesh.boards`, `mesh.senses`), for both kinds of programs."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Callable, Generator
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from maille.board_views import Board, BoardModel, Reading, Sense
from maille.errors import BoardRefused, ResultTimeout, SettingsError, UnknownNode
from maille.json_fields import Json

if TYPE_CHECKING:
    from maille.async_mesh import AsyncMesh
    from maille.mesh import Mesh

POLL_S = 0.2
_MAX_INTERVAL_MS = (1 << 32) - 1

OnDelivery = Callable[[BoardModel], None]


class AsyncBoards:
    """Nodes that hold only the models delivered to them: microcontrollers."""

    def __init__(self, mesh: "AsyncMesh") -> None:
        self._mesh = mesh

    async def list(self) -> "list[Board]":
        """Every board, by name."""
        return [
            Board.from_json(found)
            for found in await self._mesh.http.objects("/api/boards", "boards")
        ]

    async def show(self, node: str) -> Board:
        """One board.

        Raises:
            UnknownNode: there is none of that name.
            BoardRefused: it is a node that fetches models by itself.
        """
        return Board.from_json(await self._mesh.http.ask("GET", _path(node)))

    async def deploy(
        self,
        model: str,
        on: str,
        *,
        version: int = 0,
        wait: bool = True,
        timeout_s: float | None = None,
        on_progress: OnDelivery | None = None,
    ) -> BoardModel:
        """Put a model on a board and keep it there; what failed before is tried again.

        Args:
            model: its name.
            on: the board.
            version: 0 means the newest.
            wait: until it is there, verified and tested.
            timeout_s: how long to wait; None: until it is there or refused.
            on_progress: called while it is on its way.

        Raises:
            UnknownModel, UnknownNode: correct the name.
            BoardRefused: the board cannot hold it; the text says why.
            ResultTimeout: it goes on without this program.
        """
        body = {"model": model, "version": version}
        told = await self._mesh.http.ask("POST", f"{_path(on)}/models", body)
        found = BoardModel.from_json(told)
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while wait and found.state in {"waiting", "sending"}:
            if on_progress is not None:
                on_progress(found)
            if until_s is not None and time.monotonic() > until_s:
                raise ResultTimeout(
                    f"{model} is not on {on} after {timeout_s:g} s ({found.state}). It goes on: "
                    "look again with `maille nodes`."
                )
            await asyncio.sleep(POLL_S)
            known = (await self.show(on)).model(model)
            if known is None:
                raise BoardRefused(
                    f"{model} is no longer wanted on {on}: another model took its place, or it "
                    "was evicted."
                )
            found = known
        if on_progress is not None:
            on_progress(found)
        if found.state == "failed":
            raise BoardRefused(f"Node {on} cannot hold {model}: {found.text} ({found.code}).")
        return found

    async def evict(self, model: str, on: str, *, version: int = 0) -> Board:
        """Take a model off a board, now or when the board is there again.

        Raises:
            BoardRefused: it is not there, a sense runs it, or it is built in.
        """
        query = f"?version={version}" if version else ""
        path = f"{_path(on)}/models/{quote(model, safe='')}{query}"
        return Board.from_json(await self._mesh.http.ask("DELETE", path))

    async def calibrate(
        self, on: str, *, wait: bool = True, timeout_s: float | None = 60.0
    ) -> Board:
        """Have a board measure its kernels again.

        Raises:
            ResultTimeout: it has not done so within `timeout_s`; it will when it is there.
        """
        before = await self.show(on)
        found = Board.from_json(await self._mesh.http.ask("POST", f"{_path(on)}/calibrate"))
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while wait and found.calibrating and found.calibrated <= before.calibrated:
            if until_s is not None and time.monotonic() > until_s:
                raise ResultTimeout(
                    f"{on} has not measured itself within {timeout_s:g} s. It will when it is "
                    "there: see `maille nodes`."
                )
            await asyncio.sleep(POLL_S)
            found = await self.show(on)
        return found


class AsyncSenses:
    """Models that run on boards' sensors."""

    def __init__(self, mesh: "AsyncMesh") -> None:
        self._mesh = mesh

    async def start(
        self,
        model: str,
        on: str,
        sensor: str,
        *,
        every_s: float = 1.0,
        changes: bool = False,
        version: int = 0,
    ) -> Sense:
        """Run a model on a sensor from now on, also after restarts of whatever it may be.

        Args:
            model: its name; it is brought to the board if need be.
            on: the board.
            sensor: as `Board.sensors` names it.
            every_s: from one run to the next; 0: as fast as it can.
            changes: publish only outputs that differ from the last.
            version: 0 means the newest.

        Raises:
            UnknownModel, UnknownNode, BoardRefused: with the cause and what there is.
        """
        interval_ms = round(every_s * 1000)
        if not 0 <= interval_ms <= _MAX_INTERVAL_MS:
            raise SettingsError(f"every_s is {every_s}: give 0 to 4,294,967 seconds.")
        body = {
            "node": on,
            "model": model,
            "version": version,
            "sensor": sensor,
            "interval_ms": interval_ms,
            "changes": changes,
        }
        return Sense.from_json(await self._mesh.http.ask("POST", "/api/senses", body))

    async def list(self) -> "list[Sense]":
        """Every sense, by number."""
        return [
            Sense.from_json(found)
            for found in await self._mesh.http.objects("/api/senses", "senses")
        ]

    async def show(self, sense: int) -> Sense:
        """One sense; UnknownSense."""
        return Sense.from_json(await self._mesh.http.ask("GET", f"/api/senses/{sense}"))

    async def stop(self, sense: int) -> Sense:
        """End a sense; returns how it was; UnknownSense."""
        return Sense.from_json(await self._mesh.http.ask("DELETE", f"/api/senses/{sense}"))

    async def readings(self, sense: int, limit: int = 20) -> tuple[Reading, ...]:
        """The last readings (200 at most are kept), newest first; UnknownSense."""
        path = f"/api/senses/{sense}/readings?limit={limit}"
        found = await self._mesh.http.objects(path, "readings")
        return tuple(Reading.from_json(told) for told in found)

    async def watch(self, sense: int) -> AsyncGenerator[Reading]:
        """Readings from now on, as they come; ends when the sense is stopped.

        Raises:
            UnknownSense: there is none of that number.
            BoardRefused: the board cannot run it; the text says why.
        """
        events = self._mesh.http.events("GET", "/api/events")
        async with contextlib.aclosing(events):
            failed = _failure(await self.show(sense))
            if failed is not None:
                raise failed
            async for event in events:
                told = cast("Json", json.loads(event.data))
                details = cast("Json", told.get("details") or {})
                if details.get("sense") != sense:
                    continue
                match told.get("kind"):
                    case "sense.reading":
                        yield _reading(told, details)
                    case "sense.failed":
                        raise BoardRefused(str(told.get("text")))
                    case "sense.stopped":
                        return
                    case _:
                        pass


class Boards:
    """As `AsyncBoards`, for programs without an event loop."""

    def __init__(self, mesh: "Mesh") -> None:
        self._mesh = mesh

    def list(self) -> "list[Board]":
        """Every board, by name."""
        return self._mesh.wait_for(self._mesh.asynchronous.boards.list())

    def show(self, node: str) -> Board:
        """One board; errors as of `AsyncBoards.show`."""
        return self._mesh.wait_for(self._mesh.asynchronous.boards.show(node))

    def deploy(
        self,
        model: str,
        on: str,
        *,
        version: int = 0,
        wait: bool = True,
        timeout_s: float | None = None,
        on_progress: OnDelivery | None = None,
    ) -> BoardModel:
        """Put a model on a board; as `AsyncBoards.deploy`. `on_progress`: in another thread."""
        return self._mesh.wait_for(
            self._mesh.asynchronous.boards.deploy(
                model, on, version=version, wait=wait, timeout_s=timeout_s, on_progress=on_progress
            )
        )

    def evict(self, model: str, on: str, *, version: int = 0) -> Board:
        """Take a model off a board; as `AsyncBoards.evict`."""
        return self._mesh.wait_for(self._mesh.asynchronous.boards.evict(model, on, version=version))

    def calibrate(self, on: str, *, wait: bool = True, timeout_s: float | None = 60.0) -> Board:
        """Have a board measure its kernels again; as `AsyncBoards.calibrate`."""
        return self._mesh.wait_for(
            self._mesh.asynchronous.boards.calibrate(on, wait=wait, timeout_s=timeout_s)
        )


class Senses:
    """As `AsyncSenses`, for programs without an event loop."""

    def __init__(self, mesh: "Mesh") -> None:
        self._mesh = mesh

    def start(
        self,
        model: str,
        on: str,
        sensor: str,
        *,
        every_s: float = 1.0,
        changes: bool = False,
        version: int = 0,
    ) -> Sense:
        """Run a model on a sensor from now on; as `AsyncSenses.start`."""
        return self._mesh.wait_for(
            self._mesh.asynchronous.senses.start(
                model, on, sensor, every_s=every_s, changes=changes, version=version
            )
        )

    def list(self) -> "list[Sense]":
        """Every sense, by number."""
        return self._mesh.wait_for(self._mesh.asynchronous.senses.list())

    def show(self, sense: int) -> Sense:
        """One sense; UnknownSense."""
        return self._mesh.wait_for(self._mesh.asynchronous.senses.show(sense))

    def stop(self, sense: int) -> Sense:
        """End a sense; returns how it was; UnknownSense."""
        return self._mesh.wait_for(self._mesh.asynchronous.senses.stop(sense))

    def readings(self, sense: int, limit: int = 20) -> tuple[Reading, ...]:
        """The last readings, newest first; UnknownSense."""
        return self._mesh.wait_for(self._mesh.asynchronous.senses.readings(sense, limit))

    def watch(self, sense: int) -> Generator[Reading]:
        """Readings from now on, as they come; as `AsyncSenses.watch`."""
        readings = self._mesh.asynchronous.senses.watch(sense)

        async def following() -> Reading | None:
            return await anext(readings, None)

        try:
            while (reading := self._mesh.wait_for(following())) is not None:
                yield reading
        finally:
            self._mesh.wait_for(readings.aclose())


def _path(node: str) -> str:
    if not node:
        raise UnknownNode("Name the board, as `maille nodes` shows it.")
    return f"/api/boards/{quote(node, safe='')}"


def _failure(sense: Sense) -> BoardRefused | None:
    if sense.state != "failed":
        return None
    return BoardRefused(f"Sense {sense.id} failed on {sense.node}: {sense.text} ({sense.code}).")


def _reading(told: Json, details: Json) -> Reading:
    text = str(told.get("text", ""))
    well = details.get("code") == "none"
    return Reading.from_json(
        {
            **details,
            "at_unix_ms": told.get("at_unix_ms"),
            "outputs": json.loads(text) if well else None,
            "text": "" if well else text,
        }
    )
