"""Errors of `/v1` in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`.

Programs written for OpenAI look at the status first, then at `code`; their libraries repeat what
they are told is worth repeating, so an answer that will not change says so (`x-should-retry`).
"""

from collections.abc import Mapping
from typing import Final

from maille_coordinator.service import ServiceError

__all__ = ["PREFIX", "OpenAiError", "error_body", "of_service"]

PREFIX: Final = "/v1/"
"""Paths under which errors have this form."""

_STATUS: Mapping[str, int] = {
    # What a better request mends is the request's fault, whoever noticed it.
    "unprocessable": 400,
    "cache_too_small": 400,
}
_CODES: Mapping[str, str] = {
    "unknown_model": "model_not_found",
    "context_too_long": "context_length_exceeded",
    "unauthorized": "invalid_api_key",
    "queue_full": "rate_limit_exceeded",
}
"""Words that programs for OpenAI know, for ours."""
_PARAMS: Mapping[str, str] = {
    "unknown_model": "model",
    "model_impossible": "model",
    "context_too_long": "messages",
    "cache_too_small": "messages",
    "empty_prompt": "messages",
    "template_refused": "messages",
    "no_chat_template": "messages",
    "response_exists": "maille_response_id",
    "unknown_response": "response_id",
}
_RETRY_AFTER_S: Mapping[int, int] = {429: 1, 503: 5}
_LASTING = frozenset({"model_impossible"})
"""Only a person can change these: a library should tell rather than try again."""


class OpenAiError(Exception):
    """Raised for a request that is refused; the text names the cause and the next step."""

    def __init__(
        self,
        status: int,
        code: str,
        text: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, object]:
        """The answer's JSON."""
        return error_body(self.status, self.code, str(self), self.param)


def error_body(status: int, code: str, text: str, param: str | None = None) -> dict[str, object]:
    """An error's JSON; `code` is ours, OpenAI's word for it is put in its place."""
    return {
        "error": {
            "message": text,
            "type": _type(status),
            "param": param,
            "code": _CODES.get(code, code),
        }
    }


def of_service(error: ServiceError, *, chat: bool = True) -> OpenAiError:
    """What the language service said, in OpenAI's form."""
    status = _STATUS.get(error.code, 400 if error.status == 422 else error.status)
    headers: dict[str, str] = {}
    if status in _RETRY_AFTER_S:
        headers["Retry-After"] = str(_RETRY_AFTER_S[status])
    if error.code in _LASTING:
        headers["x-should-retry"] = "false"
    param = _PARAMS.get(error.code)
    if param == "messages" and not chat:
        param = "prompt"
    return OpenAiError(status, error.code, str(error), param, headers)


def _type(status: int) -> str:
    match status:
        case 401:
            return "authentication_error"
        case 403:
            return "permission_error"
        case 404:
            return "not_found_error"
        case 429:
            return "rate_limit_error"
        case _ if status >= 500:
            return "server_error"
        case _:
            return "invalid_request_error"
