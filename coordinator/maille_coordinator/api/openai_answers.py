"""Pieces of a generation as OpenAI's JSON: chunks of a stream, or one answer.

Pure functions of what the language service gives; nothing here waits or sends.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from maille_coordinator.api.openai_errors import OpenAiError
from maille_coordinator.language import TextPiece, TokenPiece, Usage

__all__ = ["CHAT_PREFIX", "COMPLETION_PREFIX", "DONE", "Form", "Writer", "failure", "whole"]

CHAT_PREFIX = "chatcmpl-"
COMPLETION_PREFIX = "cmpl-"
DONE = b"data: [DONE]\n\n"
_FINISHED_WELL = frozenset({"stop", "length"})

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Form:
    """What every part of one response has in common."""

    response_id: str
    model: str
    created_at_unix_s: int
    include_usage: bool = False

    @property
    def chat(self) -> bool:
        """Whether it is a conversation's answer, not a text's; its id says so."""
        return self.response_id.startswith(CHAT_PREFIX)

    def head(self, *, chunk: bool) -> Json:
        """The fields that come first."""
        kind = "text_completion"
        if self.chat:
            kind = "chat.completion.chunk" if chunk else "chat.completion"
        return {
            "id": self.response_id,
            "object": kind,
            "created": self.created_at_unix_s,
            "model": self.model,
        }


@dataclass(slots=True)
class Writer:
    """Writes one stream's events, from the start (`first`) or from somewhere within."""

    form: Form
    first: bool = True
    _characters: int = field(default=0, init=False)

    def begin(self) -> Iterator[bytes]:
        """What comes before the first piece."""
        if self.first and self.form.chat:
            yield self._chunk(None, {"role": "assistant", "content": ""}, None, None)

    def piece(self, piece: TextPiece) -> Iterator[bytes]:
        """The events of one piece; after the last one nothing more is to come."""
        logprobs = self._logprobs(piece)
        if piece.text or logprobs:
            yield self._chunk(piece.index, self._text(piece.text), None, logprobs)
        self._characters += len(piece.text)
        if piece.finish_reason is None:
            return
        problem = failure(piece)
        if problem is not None:
            yield _event(problem.body(), None)
            return
        yield self._chunk(piece.index, self._text(""), piece.finish_reason, None)
        if self.form.include_usage and piece.usage is not None:
            body = {**self.form.head(chunk=True), "choices": [], "usage": _usage(piece.usage)}
            yield _event(body, piece.index)
        yield DONE

    @staticmethod
    def error(problem: OpenAiError) -> bytes:
        """An error in the middle of a stream, where no status can tell it any more."""
        return _event(problem.body(), None)

    def _text(self, text: str) -> Json:
        return {"content": text} if text else {}

    def _logprobs(self, piece: TextPiece) -> Json | None:
        return _logprobs(self.form.chat, piece.tokens, self._characters)

    def _chunk(
        self, index: int | None, delta: Json, finish_reason: str | None, logprobs: Json | None
    ) -> bytes:
        choice: Json = {"index": 0}
        if self.form.chat:
            choice["delta"] = delta
        else:
            choice["text"] = delta.get("content", "")
        choice |= {"logprobs": logprobs, "finish_reason": finish_reason}
        body = {**self.form.head(chunk=True), "choices": [choice]}
        if self.form.include_usage:
            body["usage"] = None
        if index is not None:
            body["maille_index"] = index
        return _event(body, index)


def whole(form: Form, pieces: Sequence[TextPiece]) -> Json:
    """The complete answer of all its pieces.

    Raises:
        OpenAiError: it failed on the way.
    """
    last = pieces[-1]
    problem = failure(last)
    if problem is not None:
        raise problem
    text = "".join(piece.text for piece in pieces)
    tokens = [token for piece in pieces for token in piece.tokens]
    choice: Json = {"index": 0}
    if form.chat:
        choice["message"] = {"role": "assistant", "content": text, "refusal": None}
    else:
        choice["text"] = text
    choice |= {
        "logprobs": _logprobs(form.chat, tokens, 0),
        "finish_reason": last.finish_reason,
    }
    body: Json = {**form.head(chunk=False), "choices": [choice]}
    if last.usage is not None:
        body["usage"] = _usage(last.usage)
    return body


def failure(piece: TextPiece) -> OpenAiError | None:
    """The error that a last piece stands for; None if the answer ended well."""
    if piece.finish_reason is None or piece.finish_reason in _FINISHED_WELL:
        return None
    if piece.finish_reason == "cancelled":
        return OpenAiError(
            409, "cancelled", "this response was cancelled; send the request again to have it"
        )
    return OpenAiError(
        500,
        piece.error_code or "generation_failed",
        piece.error or "the generation failed: the coordinator's log says why; send it again",
    )


def _usage(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.answer_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _logprobs(chat: bool, tokens: Sequence[TokenPiece], characters: int) -> Json | None:
    if not any(token.logprob is not None for token in tokens):
        return None
    if chat:
        return {"content": [_chat_logprob(token) for token in tokens], "refusal": None}
    offsets = []
    for token in tokens:
        offsets.append(characters)
        characters += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [
            {_decoded(data): logprob for _, data, logprob in token.top} for token in tokens
        ],
        "text_offset": offsets,
    }


def _chat_logprob(token: TokenPiece) -> Json:
    top = [_logprob(data, logprob) for _, data, logprob in token.top]
    return {**_logprob(token.data, token.logprob), "top_logprobs": top}


def _logprob(data: bytes, logprob: float | None) -> Json:
    return {"token": _decoded(data), "logprob": logprob, "bytes": list(data)}


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _event(body: Json, index: int | None) -> bytes:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    identity = "" if index is None else f"id: {index}\n"
    return f"{identity}data: {text}\n\n".encode()
