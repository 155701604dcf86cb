"""/api/models: the catalogue."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError

from maille_coordinator.api import schemas, views
from maille_coordinator.api.body import read_body
from maille_coordinator.api.context import MAX_OTHER_BODY_BYTES, Context
from maille_coordinator.api.errors import ApiError, described, validation_text
from maille_coordinator.models import Inspection, inspect_model
from maille_coordinator.models.catalogue import check_model_name
from maille_coordinator.records import ModelRecord
from maille_protocol import ModelFormat

Version = Annotated[int, Query(ge=0, description="0: the newest.")]
VersionOrAll = Annotated[int, Query(ge=0, description="0: all versions.")]

_REQUEST_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ModelRequest"}}},
    }
}


def router(context: Context) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["models"], responses=described())
    service = context.service
    catalogue = service.catalogue
    artefacts = service.artefacts

    @routes.get("/api/models")
    async def list_models() -> schemas.Models:
        """Every version of every model, by name and version."""
        return schemas.Models(models=[views.model(record) for record in catalogue.list()])

    @routes.get("/api/models/{name}", responses=described(404))
    async def show_model(name: str, version: Version = 0) -> schemas.Model:
        """One version of a model."""
        return views.model(catalogue.require(name, version))

    @routes.post(
        "/api/models",
        status_code=201,
        responses={
            200: {"model": schemas.Model, "description": "This version was there already."},
            **described(400, 404, 413, 415, 422, 507),
        },
        openapi_extra=_REQUEST_BODY,
    )
    async def add_model(request: Request, response: Response) -> schemas.Model:
        """Make an uploaded artefact a new version of a model.

        The file (ONNX, tiny, or a GGUF language model) is loaded once, in a process of its own, to
        learn what it is. The bytes of a tiny model, which say what its integers mean, can be had
        from /api/artefacts/{sha256}.
        The same bytes under the same name are the same version.
        """
        wanted = await _parse(request)
        check_model_name(wanted.name)
        size_bytes = artefacts.size(wanted.sha256)
        digest = bytes.fromhex(wanted.sha256)
        known = _same(catalogue.list(), wanted.name, digest)
        if known is not None:
            # Its bytes may have come anew, after the first ones were damaged.
            await artefacts.keep(wanted.sha256)
            service.add_model(known)
            response.status_code = 200
            return views.model(known)
        async with context.inspections:
            inspection = await inspect_model(artefacts.path(wanted.sha256))
        # Kept first: a catalogue must never name bytes that may go away.
        await artefacts.keep(wanted.sha256)
        try:
            record = await asyncio.to_thread(
                catalogue.add,
                wanted.name,
                digest,
                size_bytes,
                inspection.format,
                inspection,
                wanted.description or _described(inspection),
            )
        except BaseException:
            if not catalogue.uses(digest):
                artefacts.release(wanted.sha256)
            raise
        service.add_model(record)
        return views.model(record)

    @routes.delete("/api/models/{name}", responses=described(404))
    async def remove_model(name: str, version: VersionOrAll = 0) -> schemas.Removed:
        """Remove one version of a model, or all. Its open tasks fail."""
        removed = await asyncio.to_thread(catalogue.remove, name, version)
        for record in removed:
            service.remove_model(record.name, record.version)
            # Nodes may still be fetching the bytes: they stay for a while.
            if not catalogue.uses(record.sha256) and artefacts.info(record.sha256.hex()):
                artefacts.release(record.sha256.hex())
        return schemas.Removed(name=name, versions=sorted(record.version for record in removed))

    return routes


async def _parse(request: Request) -> schemas.ModelRequest:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(
            415,
            "unsupported_media_type",
            "send the model's name and SHA-256 as JSON, with `Content-Type: application/json`; "
            "the file itself goes to PUT /api/artefacts/{sha256}",
        )
    body = await read_body(request, MAX_OTHER_BODY_BYTES, "(none: this body is always small)")
    try:
        return schemas.ModelRequest.model_validate_json(body)
    except ValidationError as error:
        raise ApiError(422, "invalid_request", validation_text(error.errors())) from error


def _same(records: list[ModelRecord], name: str, sha256: bytes) -> ModelRecord | None:
    for record in records:
        if record.name == name and record.sha256 == sha256:
            return record
    return None


def _described(inspection: Inspection) -> str:
    """What a language model or a tiny one says of itself, where nobody else says anything."""
    said = inspection.metadata
    if inspection.format is ModelFormat.TINY:
        return (
            f"{said['name'] or 'tiny model'}: {said['layers']} layers, arena {said['arena_bytes']} "
            f"bytes, {said['multiply_accumulates']} multiply-accumulates"
        )
    if inspection.format is not ModelFormat.GGUF:
        return ""
    millions = int(said["parameters"]) / 1e6
    return (
        f"{said['name']}: {said['architecture']}, {millions:.0f} M parameters, "
        f"{said['quantisation']}, {said['layers']} layers, context {said['context']}"
    )
