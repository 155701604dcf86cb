"""/api/events: what happens in the mesh, as it happens (server-sent events)."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from anyio import CancelScope
from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from maille_coordinator.api import views
from maille_coordinator.api.context import Context
from maille_coordinator.api.errors import described
from maille_coordinator.records import MeshEvent

HEARTBEAT_S = 15.0
"""Proxies close connections on which nothing comes for longer, typically 30 or 60 s."""

_ANSWER: dict[int | str, dict[str, object]] = {
    200: {
        "content": {"text/event-stream": {"schema": {"$ref": "#/components/schemas/Event"}}},
        "description": "One event after the other: `event:` is the kind, `data:` this JSON.",
    }
}


def router(context: Context) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["mesh"], responses=described())

    @routes.get("/api/events", response_class=StreamingResponse, responses=_ANSWER)
    async def events() -> StreamingResponse:
        """Events from now on, until you hang up; a comment line every 15 s in between.

        A reader that is too slow loses the oldest ones and is told how many.
        """
        return StreamingResponse(
            event_lines(context.service.events(), HEARTBEAT_S),
            media_type="text/event-stream",
            # X-Accel-Buffering: some proxies would collect events before passing them on.
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    return routes


async def event_lines(events: AsyncIterator[MeshEvent], heartbeat_s: float) -> AsyncIterator[bytes]:
    """The stream's bytes; `events` is closed when this generator is."""
    following: asyncio.Task[MeshEvent] | None = None
    # Sent at once, so that the reader knows that it is connected.
    yield b": connected\n\n"
    try:
        while True:
            if following is None:
                following = asyncio.ensure_future(_next(events))
            done, _ = await asyncio.wait([following], timeout=heartbeat_s)
            if not done:
                yield b": still here\n\n"
                continue
            try:
                event = following.result()
            except StopAsyncIteration:
                return
            finally:
                following = None
            text = views.event(event).model_dump_json()
            yield f"event: {event.kind}\ndata: {text}\n\n".encode()
    finally:
        # The framework cancels this when the reader hangs up, and would cancel what follows too.
        with CancelScope(shield=True):
            if following is not None:
                following.cancel()
                await asyncio.wait([following])
            if isinstance(events, AsyncGenerator):
                await events.aclose()


async def _next(events: AsyncIterator[MeshEvent]) -> MeshEvent:
    return await anext(events)
