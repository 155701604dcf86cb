"""/api/artefacts: bytes by their SHA-256, up and down, in parts where need be."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, BinaryIO

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from maille_coordinator.api import schemas
from maille_coordinator.api.body import chunks, content_length, drain
from maille_coordinator.api.context import Context
from maille_coordinator.api.errors import ApiError, described
from maille_coordinator.api.ranges import given_part, wanted_range
from maille_coordinator.models import ArtefactBusy, ArtefactError, ArtefactInfo, ArtefactStore
from maille_coordinator.models.artefact_info import damaged

_LOGGER = logging.getLogger(__name__)

_READ_BYTES = 512 * 1024

_BYTES_ANSWER: dict[int | str, dict[str, object]] = {
    200: {"content": {"application/octet-stream": {}}, "description": "All bytes."},
    206: {"content": {"application/octet-stream": {}}, "description": "The range asked for."},
    304: {"description": "`If-None-Match` names these bytes: you have them."},
}
_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def router(context: Context) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["artefacts"], responses=described())
    artefacts = context.service.artefacts

    @routes.head("/api/artefacts/{sha256}", operation_id="ask_artefact", responses=described(404))
    async def ask(sha256: str) -> Response:
        """Whether the artefact is there.

        200: yes, `Content-Length` says its size. 404: no; if an upload broke off, the header
        `Upload-Offset` says how many bytes are there: send the rest with `Content-Range`.
        """
        info = artefacts.info(sha256)
        if info is None:
            stored = artefacts.partial_size(sha256)
            return Response(
                status_code=404, headers={"Upload-Offset": str(stored), "Upload-Complete": "?0"}
            )
        return Response(
            headers={
                **_headers(info),
                "Content-Length": str(info.size_bytes),
                "Upload-Complete": "?1",
            },
            media_type="application/octet-stream",
        )

    @routes.get(
        "/api/artefacts/{sha256}",
        response_class=StreamingResponse,
        responses={**_BYTES_ANSWER, **described(404, 410, 416)},
    )
    async def download(request: Request, sha256: str) -> Response:
        """The bytes, or with a `Range` header some of them.

        All of them are checked against their name on the way out. A file that the disk has damaged
        is removed then: whoever asks next is told (410), and it can be uploaded again.
        """
        path = artefacts.path(sha256)
        info = artefacts.touch_transient(sha256)
        headers = _headers(info)
        if headers["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        condition = request.headers.get("if-range")
        span = None
        if condition is None or condition == headers["ETag"]:
            span = wanted_range(request.headers.get("range"), info.size_bytes)
        start, end = span or (0, info.size_bytes)
        if span is not None:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{info.size_bytes}"
        headers["Content-Length"] = str(end - start)
        # Opened now: it may be removed while it is sent.
        try:
            file = await asyncio.to_thread(_open, path, start)
        except FileNotFoundError:
            artefacts.remove_damaged(sha256)
            raise damaged(sha256) from None
        return StreamingResponse(
            _checked(file, sha256, artefacts) if span is None else _pieces(file, end - start),
            206 if span is not None else 200,
            headers,
            "application/octet-stream",
        )

    @routes.put(
        "/api/artefacts/{sha256}",
        status_code=201,
        response_model=schemas.Artefact,
        responses={
            200: {"model": schemas.Artefact, "description": "The artefact was there already."},
            202: {"model": schemas.Artefact, "description": "A part; send the rest."},
            **described(400, 409, 413, 422, 503, 507),
        },
        openapi_extra=_UPLOAD_BODY,
    )
    async def upload(
        request: Request,
        sha256: str,
        content_range: Annotated[
            str | None,
            Header(description="`bytes FIRST-LAST/SIZE` of a part; FIRST is what HEAD told."),
        ] = None,
    ) -> Response:
        """Upload bytes, whole or in parts, in order.

        They are checked against their name. An upload that broke off can go on: HEAD says where.
        The artefact is dropped after a day in which nobody used it, unless it is made a model.
        """
        known = artefacts.info(sha256)
        if known is not None:
            await drain(request)
            return _stored(artefacts.touch_transient(sha256), 200)
        offset, total = _announced(request, content_range)
        try:
            info = await artefacts.receive(sha256, chunks(request), offset=offset, total=total)
        except ArtefactBusy:
            raise
        except ArtefactError:
            await drain(request)
            raise
        return _stored(info, 201 if info.complete else 202)

    return routes


def _announced(request: Request, content_range: str | None) -> tuple[int, int | None]:
    part = given_part(content_range)
    length = content_length(request)
    if part is None:
        return 0, length
    first, part_length, total = part
    if length is not None and length != part_length:
        raise ApiError(
            400,
            "invalid_content_range",
            f"Content-Range says {part_length} bytes, Content-Length {length}: make them agree",
        )
    return first, total


def _stored(info: ArtefactInfo, status: int) -> Response:
    body = schemas.Artefact(sha256=info.sha256, size_bytes=info.size_bytes, complete=info.complete)
    headers = {
        "Upload-Offset": str(info.size_bytes),
        "Upload-Complete": "?1" if info.complete else "?0",
    }
    return JSONResponse(body.model_dump(), status, headers)


def _headers(info: ArtefactInfo) -> dict[str, str]:
    return {
        "Accept-Ranges": "bytes",
        "ETag": f'"{info.sha256}"',
        # The name is made from the bytes: they never change.
        "Cache-Control": "private, max-age=31536000, immutable",
    }


def _open(path: Path, start: int) -> BinaryIO:
    file = path.open("rb")
    file.seek(start)
    return file


async def _checked(file: BinaryIO, sha256: str, artefacts: ArtefactStore) -> AsyncIterator[bytes]:
    """The whole file; removed from the store if it is not what its name says."""
    digest = hashlib.sha256()

    def read() -> bytes:
        piece = file.read(_READ_BYTES)
        digest.update(piece)
        return piece

    with file:
        while piece := await asyncio.to_thread(read):
            yield piece
    if digest.hexdigest() != sha256:
        _LOGGER.error(
            "artefact %s was damaged on the disk: removed; send it again (a model: "
            "`maille models add`), and look after that disk",
            sha256,
        )
        artefacts.remove_damaged(sha256)


async def _pieces(file: BinaryIO, length: int) -> AsyncIterator[bytes]:
    with file:
        while length > 0:
            piece = await asyncio.to_thread(file.read, min(_READ_BYTES, length))
            if not piece:
                return
            length -= len(piece)
            yield piece
