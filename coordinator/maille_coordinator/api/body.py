"""Request bodies, read up to a limit."""

import contextlib
from collections.abc import AsyncIterator

from fastapi import Request

from maille_coordinator.api.errors import ApiError

_DRAIN_BYTES = 256 * 1024 * 1024
"""What is read and thrown away so that a sender who is too generous still reads the answer."""


def content_length(request: Request) -> int | None:
    """The announced length of the body; None if it is not announced."""
    value = request.headers.get("content-length", "")
    return int(value) if value.isdecimal() and len(value) < 20 else None


async def read_body(request: Request, limit_bytes: int, setting: str) -> bytes:
    """The whole body.

    Raises:
        ApiError: 413, naming `limit_bytes` and the `setting` that holds it.
    """
    announced = content_length(request)
    parts = bytearray()
    if announced is None or announced <= limit_bytes:
        async for chunk in request.stream():
            parts += chunk
            if len(parts) > limit_bytes:
                break
        else:
            return bytes(parts)
    await drain(request)
    size = f"{announced}" if announced is not None else f"more than {limit_bytes}"
    raise ApiError(
        413,
        "input_too_large",
        f"the body has {size} bytes, at most {limit_bytes} are taken: send less at once, "
        f"or raise the coordinator's setting {setting}",
    )


async def drain(request: Request) -> None:
    """Read what is left of the body, up to a bound, and drop it."""
    left = _DRAIN_BYTES
    # Starlette raises RuntimeError where the body has been read to its end already.
    with contextlib.suppress(RuntimeError):
        async for chunk in request.stream():
            left -= len(chunk)
            if left < 0:
                return


def chunks(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes."""
    return request.stream()
