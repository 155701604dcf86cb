"""Every error as JSON: `{"error": {"code": ..., "message": ...}}`, whoever raised it."""

import logging
from collections.abc import Mapping

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from maille_coordinator.api.openai_errors import PREFIX, OpenAiError, error_body, of_service
from maille_coordinator.api.schemas import ErrorAnswer
from maille_coordinator.models import (
    ArtefactBusy,
    ArtefactDiskFull,
    ArtefactMismatch,
    ArtefactOffset,
    ArtefactStoreFull,
    ArtefactTooLarge,
    DamagedArtefact,
    InspectionError,
    InvalidArtefactName,
    InvalidModelName,
    ModelsError,
    UnknownArtefact,
    UnknownModel,
)
from maille_coordinator.service import ServiceError
from maille_coordinator.store import StoreError, StoreFull

_LOGGER = logging.getLogger(__name__)

_OF_MODELS: Mapping[type[ModelsError], tuple[int, str]] = {
    InvalidArtefactName: (400, "invalid_sha256"),
    DamagedArtefact: (410, "artefact_damaged"),
    UnknownArtefact: (404, "unknown_artefact"),
    ArtefactMismatch: (422, "artefact_mismatch"),
    ArtefactTooLarge: (413, "artefact_too_large"),
    ArtefactOffset: (409, "upload_offset"),
    ArtefactBusy: (503, "artefact_busy"),
    ArtefactStoreFull: (507, "store_full"),
    ArtefactDiskFull: (507, "disk_full"),
    UnknownModel: (404, "unknown_model"),
    InvalidModelName: (422, "invalid_model_name"),
}
_OF_STATUS = {
    404: ("not_found", "there is nothing at this address: /docs lists what there is"),
    405: ("method_not_allowed", "this address does not take this method: see /docs"),
}

DESCRIBED = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "The request is malformed.",
        401: "The key is missing or wrong.",
        404: "There is no such thing.",
        409: "The thing is in a state that does not allow this.",
        410: "It was damaged on the coordinator's disk; send it again.",
        413: "Too large; the message names the limit and its setting.",
        415: "The body's type is not taken here.",
        416: "The range lies outside of the artefact.",
        422: "The content does not fit; the message names what would.",
        503: "Not now; try again.",
        507: "No room; the message names the limit or the disk.",
    }.items()
}
"""Error answers for the OpenAPI page; `described` picks some."""


class ApiError(HTTPException):
    """Raised by this package's own checks; the text names the cause and the next step."""

    def __init__(
        self, status: int, code: str, text: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, text, dict(headers or {}))
        self.code = code


def described(*statuses: int) -> dict[int | str, dict[str, object]]:
    """Those error answers, as FastAPI's `responses` takes them; 401 is always among them."""
    return {status: dict(DESCRIBED[status]) for status in sorted({401, *statuses})}


def answer(
    status: int,
    code: str,
    text: str,
    headers: Mapping[str, str] | None = None,
    *,
    path: str = "",
) -> JSONResponse:
    """The error as an answer; in OpenAI's form where `path` is one of OpenAI's."""
    if path.startswith(PREFIX):
        # OpenAI's programs do not know 422, they know "bad request".
        status = 400 if status == 422 else status
        body = error_body(status, code, text)
    else:
        body = {"error": {"code": code, "message": text}}
    return JSONResponse(body, status, dict(headers) if headers else None)


def add_handlers(app: FastAPI) -> None:
    """Make `app` answer every error in this one form."""
    app.add_exception_handler(StarletteHTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(OpenAiError, _openai)
    app.add_exception_handler(ServiceError, _service)
    app.add_exception_handler(ModelsError, _models)
    app.add_exception_handler(StoreError, _store)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)


async def _http(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, ApiError):
        return answer(
            error.status_code, error.code, str(error.detail), error.headers, path=request.url.path
        )
    if not isinstance(error, StarletteHTTPException):
        raise error
    code, text = _OF_STATUS.get(error.status_code, ("bad_request", str(error.detail)))
    return answer(error.status_code, code, text, error.headers, path=request.url.path)


async def _validation(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    return answer(422, "invalid_request", validation_text(error.errors()), path=request.url.path)


def validation_text(problems: object) -> str:
    """Pydantic's problems in one line: where, and what."""
    if not isinstance(problems, list | tuple):
        return "the request does not fit: see /docs"
    texts = []
    for problem in problems[:5]:
        place = ".".join(
            str(part) for part in problem.get("loc", ()) if part not in {"body", "query", "path"}
        )
        texts.append(f"{place or 'body'}: {problem.get('msg', 'not valid')}")
    more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
    return f"the request does not fit: {'; '.join(texts)}{more}. /docs describes every field"


async def _openai(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, OpenAiError):
        raise error
    return JSONResponse(error.body(), error.status, error.headers or None)


async def _service(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, ServiceError):
        raise error
    if request.url.path.startswith(PREFIX):
        return await _openai(request, of_service(error))
    return answer(error.status, error.code, str(error))


async def _models(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, InspectionError):
        return answer(422, f"model_{error.code}", str(error), path=request.url.path)
    headers = None
    if isinstance(error, ArtefactOffset):
        headers = {"Upload-Offset": str(error.length_bytes)}
    if isinstance(error, ArtefactBusy):
        headers = {"Retry-After": "1"}
    for kind, (status, code) in _OF_MODELS.items():
        if isinstance(error, kind):
            return answer(status, code, str(error), headers, path=request.url.path)
    _LOGGER.error("models: %s", error)
    return answer(500, "storage_failed", str(error), path=request.url.path)


async def _store(request: Request, error: Exception) -> JSONResponse:
    _LOGGER.error("journal: %s", error)
    if isinstance(error, StoreFull):
        return answer(507, "disk_full", str(error), path=request.url.path)
    return answer(500, "storage_failed", str(error), path=request.url.path)


async def _gone(_request: Request, _error: Exception) -> JSONResponse:
    # Nobody reads this; without it the sender's going away would be logged as our fault.
    return answer(400, "client_gone", "the request broke off")


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    _LOGGER.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return answer(
        500,
        "internal_error",
        f"the coordinator failed at this request ({type(error).__name__}): its log says where; "
        "please report that",
        path=request.url.path,
    )
