"""/v1: language models for every program that speaks OpenAI's API."""

import json
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from maille_coordinator.api.body import read_body
from maille_coordinator.api.openai_answers import (
    CHAT_PREFIX,
    COMPLETION_PREFIX,
    Form,
    Writer,
    whole,
)
from maille_coordinator.api.openai_errors import OpenAiError, of_service
from maille_coordinator.api.openai_schemas import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    parse,
)
from maille_coordinator.api.openai_stream import EARLY_S, Keep, Keepers, Reading, Streaming, collect
from maille_coordinator.language import GenerateRequest, LanguageApi, LanguageModelView
from maille_coordinator.service import ServiceError

MAX_BODY_BYTES = 8 * 1024 * 1024
_REMEMBERED = 1024
_ID = re.compile(r"(chatcmpl|cmpl)-[A-Za-z0-9_-]{1,70}")

_FROM = Annotated[
    int,
    Query(alias="from", ge=0, lt=2**31, description="How many tokens you have: 0 for all."),
]
_KEEP = Annotated[
    Annotated[int, Field(ge=0, le=3600)] | bool,
    Query(description="Go on when you hang up: `true` to the end, or for so many seconds."),
]
_USAGE = Annotated[bool, Query(description="End with a chunk that tells the usage.")]


class _OpenAiErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAiErrorAnswer(BaseModel):
    """Every error under /v1 has this form."""

    error: _OpenAiErrorBody


_ERRORS: dict[int | str, dict[str, object]] = {
    status: {"model": OpenAiErrorAnswer, "description": text}
    for status, text in {
        400: "A field does not fit, or the prompt is longer than the context; `param` names it.",
        401: "The key is missing or wrong.",
        404: "No such model or response.",
        429: "Too many wait already; try again after `Retry-After` seconds.",
        503: "Not now, or no set of nodes can hold the model; the message says what is missing.",
    }.items()
}
# With a default the documentation does not claim FastAPI's own 422, which never comes from here.
_ERRORS["default"] = {"model": OpenAiErrorAnswer, "description": "Any other error."}


def router(language: LanguageApi) -> APIRouter:
    """The routes, over the coordinator's language models."""
    routes = APIRouter(tags=["language models (OpenAI)"], responses=_ERRORS)
    keepers = Keepers()
    remembered: OrderedDict[str, Form] = OrderedDict()

    async def respond(
        request: Request, wanted: GenerationRequest, asked: GenerateRequest
    ) -> Response:
        form = Form(asked.response_id, wanted.model, int(time.time()), wanted.include_usage)
        remembered[form.response_id] = form
        if len(remembered) > _REMEMBERED:
            remembered.popitem(last=False)
        headers = _headers(form.response_id)
        reading = Reading(language.generate(asked))
        try:
            if wanted.stream:
                return await _stream(reading, Writer(form), keepers, wanted.maille_keep, headers)
            pieces = await collect(reading, request, keepers, wanted.maille_keep)
        except ServiceError as error:
            problem = of_service(error, chat=form.chat)
            problem.headers |= headers
            raise problem from error
        return JSONResponse(whole(form, pieces), headers=headers)

    @routes.post("/v1/chat/completions", openapi_extra=_body(ChatRequest))
    async def chat(request: Request) -> Response:
        """Continue a conversation, as OpenAI's API does.

        With `stream` the answer comes as server-sent events, each with `data:` a chunk and `id:`
        the number of tokens so far (also `maille_index` in the chunk), then `data: [DONE]`. The
        response's id is the header `Maille-Response-Id`, there before the first token: with it
        `GET /v1/streams/{response_id}` goes on after a lost connection.
        """
        wanted = parse(ChatRequest, await _json(request))
        if wanted.top_logprobs is not None and not wanted.logprobs:
            raise OpenAiError(
                400,
                "invalid_value",
                "top_logprobs needs logprobs: true beside it",
                "top_logprobs",
            )
        limit = wanted.max_completion_tokens or wanted.max_tokens
        return await respond(
            request,
            wanted,
            _generation(
                wanted,
                CHAT_PREFIX,
                prompt=tuple(message.plain() for message in wanted.messages),
                max_tokens=limit,
                logprobs=(wanted.top_logprobs or 0) if wanted.logprobs else None,
            ),
        )

    @routes.post("/v1/completions", openapi_extra=_body(CompletionRequest))
    async def completions(request: Request) -> Response:
        """Continue a text, as OpenAI's API does. Streams as of `/v1/chat/completions`."""
        wanted = parse(CompletionRequest, await _json(request))
        return await respond(
            request,
            wanted,
            _generation(
                wanted,
                COMPLETION_PREFIX,
                prompt=wanted.one_prompt(),
                max_tokens=wanted.max_tokens,
                logprobs=wanted.logprobs,
            ),
        )

    @routes.get("/v1/models")
    async def list_models() -> dict[str, object]:
        """The language models of this mesh, in OpenAI's form."""
        return {"object": "list", "data": _models(language.models())}

    @routes.get("/v1/models/{model}")
    async def show_model(model: str) -> dict[str, object]:
        """One language model, in OpenAI's form."""
        data = _models(language.models())
        for item in data:
            if item["id"] == model or (":" in model and _versioned(item) == model):
                return {**item, "id": model}
        names = ", ".join(str(item["id"]) for item in data[:20])
        raise OpenAiError(
            404,
            "unknown_model",
            f"no language model is called {model[:80]!r}: "
            + (f"there are {names}" if names else "add one with `maille models add FILE.gguf`"),
            "model",
        )

    @routes.get(
        "/v1/streams/{response_id}",
        response_class=Response,
        responses={
            200: {
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
                "description": "The same events as of the request that began it.",
            }
        },
    )
    async def resume(
        response_id: str, start: _FROM = 0, *, keep: _KEEP = False, usage: _USAGE = False
    ) -> Response:
        """Go on with a response after a lost connection or a restart of the coordinator.

        1. Send the request with `maille_keep: true` (or a number of seconds): then the answer goes
           on when the connection is lost. After a restart of the coordinator it goes on anyway.
        2. Remember the header `Maille-Response-Id`, and of each event the `id:`, the number of
           tokens that you have.
        3. Ask here with that number as `from`. What you have is not sent again, nothing is left
           out, and an answer that has not ended goes on live. Hanging up here cancels it too, so
           say `keep=true` to be able to come back.

        An answer is kept for ten minutes after its end. A request without a stream is fetched the
        same way, from 0. `model` is empty in the chunks of an answer that was asked for before the
        coordinator started anew; the offsets of legacy log probabilities count from `from`.
        """
        _check_id(response_id)
        form = remembered.get(response_id) or Form(response_id, "", int(time.time()))
        form = Form(form.response_id, form.model, form.created_at_unix_s, usage)
        reading = Reading(language.resume(response_id, start))
        writer = Writer(form, first=start == 0)
        return await _stream(reading, writer, keepers, keep, _headers(response_id))

    @routes.delete("/v1/streams/{response_id}")
    async def cancel(response_id: str) -> dict[str, object]:
        """Cancel a response; every node forgets it. `cancelled` is false if it had ended before."""
        _check_id(response_id)
        cancelled = language.cancel(response_id)
        return {"id": response_id, "object": "stream", "cancelled": cancelled}

    return routes


async def _stream(
    reading: Reading, writer: Writer, keepers: Keepers, keep: Keep, headers: dict[str, str]
) -> Response:
    try:
        await reading.peek(EARLY_S)
    except BaseException:
        await reading.close()
        raise
    return Streaming(reading, writer, keepers, keep, headers)


def _generation(
    wanted: GenerationRequest,
    prefix: str,
    *,
    prompt: str | tuple[Mapping[str, object], ...] | tuple[int, ...],
    max_tokens: int | None,
    logprobs: int | None,
) -> GenerateRequest:
    """The request as the language service takes it; None becomes what it takes for default."""
    response_id = wanted.maille_response_id or prefix + secrets.token_hex(12)
    if not (_ID.fullmatch(response_id) and response_id.startswith(prefix)):
        raise OpenAiError(
            400,
            "invalid_value",
            f"maille_response_id is {prefix!r} and up to 70 letters, digits, - and _",
            "maille_response_id",
        )
    penalty = wanted.repetition_penalty or wanted.repeat_penalty
    return GenerateRequest(
        model=wanted.model,
        prompt=prompt,
        response_id=response_id,
        max_tokens=max_tokens,
        temperature=1.0 if wanted.temperature is None else wanted.temperature,
        top_k=max(wanted.top_k or 0, 0),
        top_p=1.0 if wanted.top_p is None else wanted.top_p,
        min_p=wanted.min_p or 0.0,
        repetition_penalty=penalty or 1.0,
        repetition_window=64 if wanted.repeat_last_n is None else wanted.repeat_last_n,
        presence_penalty=wanted.presence_penalty or 0.0,
        frequency_penalty=wanted.frequency_penalty or 0.0,
        seed=wanted.seed,
        stop=wanted.stops(),
        ignore_end=wanted.ignore_eos,
        logprobs=logprobs,
        logit_bias=wanted.biases(),
        grammar=None if wanted.response_format is None else wanted.response_format.grammar(),
    )


async def _json(request: Request) -> Mapping[str, Any]:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise OpenAiError(
            415,
            "unsupported_media_type",
            "send JSON, and say so: the header `Content-Type: application/json`",
        )
    body = await read_body(request, MAX_BODY_BYTES, "(none: no model's context is longer)")
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise OpenAiError(400, "invalid_json", f"the body is no JSON: {error}") from error
    if not isinstance(data, Mapping):
        raise OpenAiError(400, "invalid_json", "the body is JSON, but no object: send {...}")
    return data


def _check_id(response_id: str) -> None:
    if _ID.fullmatch(response_id) is None:
        raise OpenAiError(
            404,
            "unknown_response",
            "no response has such an id: take it from the header Maille-Response-Id, it begins "
            f"with {CHAT_PREFIX} or {COMPLETION_PREFIX}",
            "response_id",
        )


def _headers(response_id: str) -> dict[str, str]:
    # X-Request-Id: where OpenAI's libraries look for a name of the exchange.
    return {"Maille-Response-Id": response_id, "X-Request-Id": response_id}


def _models(views: list[LanguageModelView]) -> list[dict[str, object]]:
    """The newest version of each under its name, older ones under `name:version`."""
    newest = {view.name: max(v.version for v in views if v.name == view.name) for view in views}
    return [
        {
            "id": view.name if view.version == newest[view.name] else f"{view.name}:{view.version}",
            "object": "model",
            "created": view.added_at_unix_ms // 1000,
            "owned_by": "maille",
            "max_model_len": view.context_length,
            "maille": {"version": view.version, "state": view.state, "text": view.state_text},
        }
        for view in views
    ]


def _versioned(item: Mapping[str, object]) -> str:
    name = str(item["id"]).partition(":")[0]
    more = item["maille"]
    return f"{name}:{more['version']}" if isinstance(more, Mapping) else name


def _body(model: type[GenerationRequest]) -> dict[str, object]:
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}
    }
