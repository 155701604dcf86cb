"""Reading a generation for a client who may hang up: the stream, and what becomes of the rest.

Whoever hangs up cancels the generation, unless the request said to keep it (`maille_keep`): then it
goes on, to its end or for the time that was given, and can be fetched by the response's id.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from anyio import CancelScope
from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from maille_coordinator.api.openai_answers import Writer
from maille_coordinator.api.openai_errors import OpenAiError, of_service
from maille_coordinator.language import TextPiece
from maille_coordinator.service import ServiceError

__all__ = ["EARLY_S", "HEARTBEAT_S", "Keepers", "Reading", "Streaming", "collect"]

HEARTBEAT_S = 10.0
"""A comment is sent after so long without a piece: proxies close silent connections."""
EARLY_S = 1.0
"""How long the status is held back for the first piece, so that most errors have their own."""
_MOST_KEPT = 64

Keep = bool | int
"""False: cancel when the client hangs up; True: go on; a number: for so many seconds."""


class Reading:
    """The pieces of one generation, read by one task at a time. `close` it."""

    def __init__(self, pieces: AsyncIterator[TextPiece]) -> None:
        self._pieces = pieces
        self._following: asyncio.Task[TextPiece] | None = None
        self._peeked: TextPiece | None = None
        self.ended = False
        """Whether nothing more is to come."""
        self.left = False
        """Whether its reader is gone, and `Keepers.leave` has seen to the rest."""

    async def next(self, timeout_s: float | None) -> TextPiece | None:
        """The next piece; None if there is none within `timeout_s`.

        Raises:
            ServiceError: what the service raised.
            OpenAiError: the stream ended without a last piece.
        """
        if self._peeked is not None:
            piece, self._peeked = self._peeked, None
            return piece
        if self._following is None:
            self._following = asyncio.ensure_future(_anext(self._pieces))
        done, _ = await asyncio.wait([self._following], timeout=timeout_s)
        if not done:
            return None
        following, self._following = self._following, None
        try:
            piece = following.result()
        except StopAsyncIteration:
            self.ended = True
            raise OpenAiError(
                500,
                "stream_broken",
                "the answer broke off without saying why: fetch the rest by its id, see /docs",
            ) from None
        except BaseException:
            self.ended = True
            raise
        self.ended = piece.finish_reason is not None
        return piece

    @property
    def has_peeked(self) -> bool:
        """Whether a piece has been waited for and not been taken."""
        return self._peeked is not None

    async def peek(self, timeout_s: float) -> None:
        """Wait for the next piece without taking it; errors as of `next`."""
        self._peeked = await self.next(timeout_s)

    async def close(self) -> None:
        """Stop reading: a generation that has not ended is cancelled."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
            if not self._following.cancelled():
                self._following.exception()  # looked at: nobody is left to be told
            self._following = None
        if isinstance(self._pieces, AsyncGenerator):
            await self._pieces.aclose()

    async def drain(self) -> None:
        """Read to the end, for nobody."""
        with contextlib.suppress(ServiceError, OpenAiError):
            while not self.ended:
                await self.next(None)


class Keepers:
    """Generations whose readers are gone and that go on all the same; at most 64."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def leave(self, reading: Reading, keep: Keep) -> None:
        """The reader is gone. A second call does nothing."""
        if reading.left:
            return
        reading.left = True
        kept = keep is True or keep > 0
        if reading.ended or not kept or len(self._tasks) >= _MOST_KEPT:
            await reading.close()
            return
        limit_s = None if keep is True else float(keep)
        task = asyncio.create_task(_keep(reading, limit_s), name="kept generation")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Streaming(StreamingResponse):
    """Sends a generation as server-sent events; sees to the rest when the client is gone."""

    def __init__(
        self,
        reading: Reading,
        writer: Writer,
        keepers: Keepers,
        keep: Keep,
        headers: dict[str, str],
    ) -> None:
        self._reading = reading
        self._keepers = keepers
        self._keep = keep
        self._events = _events(reading, writer)
        super().__init__(
            self._events,
            media_type="text/event-stream",
            # X-Accel-Buffering: some proxies would collect pieces before passing them on.
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", **headers},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            # The framework cancels this when the client hangs up, and would cancel what follows.
            with CancelScope(shield=True):
                await self._events.aclose()
                await self._keepers.leave(self._reading, self._keep)


async def collect(
    reading: Reading, request: Request, keepers: Keepers, keep: Keep
) -> list[TextPiece]:
    """All pieces of a generation, the last one at the end.

    Raises:
        ServiceError, OpenAiError: as of `Reading.next`.
        ClientDisconnect: nobody waits for them any more.
    """
    collecting = asyncio.ensure_future(_all(reading))
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({collecting, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not collecting.done():
            raise ClientDisconnect
        return collecting.result()
    finally:
        with CancelScope(shield=True):
            collecting.cancel()
            gone.cancel()
            await asyncio.wait({collecting, gone})
            await keepers.leave(reading, keep)


async def _events(reading: Reading, writer: Writer) -> AsyncGenerator[bytes]:
    for event in writer.begin():
        yield event
    try:
        while not reading.ended or reading.has_peeked:
            piece = await reading.next(HEARTBEAT_S)
            if piece is None:
                yield b": still at it\n\n"
                continue
            for event in writer.piece(piece):
                yield event
    except ServiceError as error:
        yield writer.error(of_service(error, chat=writer.form.chat))
    except OpenAiError as error:
        yield writer.error(error)


async def _all(reading: Reading) -> list[TextPiece]:
    pieces: list[TextPiece] = []
    while not reading.ended:
        piece = await reading.next(None)
        if piece is not None:
            pieces.append(piece)
    return pieces


async def _keep(reading: Reading, limit_s: float | None) -> None:
    try:
        async with asyncio.timeout(limit_s):
            await reading.drain()
    except TimeoutError:
        pass
    finally:
        await reading.close()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _anext(pieces: AsyncIterator[TextPiece]) -> TextPiece:
    return await anext(pieces)
