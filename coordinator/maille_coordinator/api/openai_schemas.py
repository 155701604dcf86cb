"""The JSON that OpenAI's clients send to `/v1`, checked, and what of it this mesh does not do.

A field that would change the answer and is not supported is refused by name; one that changes
nothing here (`user`, `metadata`, ...) is taken and ignored; an unknown one is refused, because a
misspelt `temperature` that is silently ignored costs its author an afternoon.
"""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from maille_coordinator.api.openai_errors import OpenAiError
from maille_protocol.limits import MAX_SCHEMA_BYTES

__all__ = [
    "ChatRequest",
    "CompletionRequest",
    "GenerationRequest",
    "Message",
    "StreamOptions",
    "parse",
]

_MOST_STOPS = 4
_MOST_BIASES = 2048
_MAX_STOP_CHARACTERS = 256

_IGNORED = frozenset(
    {
        "cache_prompt",
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""Of OpenAI and llama.cpp; none of them changes a word of the answer here."""
_WITHOUT_EFFECT: Mapping[str, tuple[object, ...]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "echo": (None, False),
    "function_call": (None, "none"),
    "functions": (None, []),
    "modalities": (None, ["text"]),
    "n": (None, 1),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "suffix": (None, ""),
    "tool_choice": (None, "none"),
    "tools": (None, []),
    "verbosity": (None,),
    "web_search_options": (None,),
}
"""Fields that are not supported, with the values that ask for nothing."""
_INSTEAD: Mapping[str, str] = {
    "n": "one answer is made at a time: send the request once for each, with different seeds",
    "best_of": "one answer is made at a time: send the request once for each, with different seeds",
    "tools": "models of this mesh call no functions: describe them in the messages instead",
    "functions": "models of this mesh call no functions: describe them in the messages instead",
    "echo": "put the prompt before the answer yourself",
}

Kind = TypeVar("Kind", bound="GenerationRequest")
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Stop = Annotated[str, Field(min_length=1, max_length=_MAX_STOP_CHARACTERS)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StreamOptions(_Part):
    """How a stream is told."""

    include_usage: bool = Field(False, description="Whether a last chunk tells the usage.")
    include_obfuscation: bool = Field(False, description="Taken, and ignored.")


class TextPart(_Part):
    """A part of a message. Only text is understood."""

    type: Literal["text"]
    text: str


class Message(_Part):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def plain(self) -> dict[str, object]:
        """The message as chat templates take it."""
        role = "system" if self.role == "developer" else self.role
        content = (
            self.content
            if isinstance(self.content, str)
            else "".join(part.text for part in self.content)
        )
        named = {} if self.name is None else {"name": self.name}
        return {"role": role, "content": content, **named}


class ResponseFormat(BaseModel):
    """The form of the answer."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = Field(
        None, description="With the type of the same name: its `schema` is what the answer follows."
    )

    def grammar(self) -> bytes | None:
        """The JSON schema that the answer follows, UTF-8; empty for any object, None for text."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return b""
        schema = (self.json_schema or {}).get("schema")
        if not isinstance(schema, dict):
            raise OpenAiError(
                400,
                "invalid_value",
                "response_format json_schema has no `json_schema.schema`: give it a JSON schema",
                "response_format",
            )
        text = json.dumps(schema, separators=(",", ":")).encode()
        if len(text) > MAX_SCHEMA_BYTES:
            raise OpenAiError(
                400,
                "invalid_value",
                f"the JSON schema has {len(text)} bytes: shorten it to {MAX_SCHEMA_BYTES}",
                "response_format",
            )
        return text


class GenerationRequest(_Part):
    """What both kinds of requests have in common."""

    model: str = Field(
        min_length=1,
        max_length=80,
        description="Name of a language model, see `/v1/models`; `name:2` for a version.",
    )
    stream: bool = Field(False, description="Whether the answer comes in pieces, as it is made.")
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(
        None, ge=0, le=2, allow_inf_nan=False, description="0: always the likeliest token."
    )
    top_p: Fraction | None = None
    top_k: int | None = Field(None, ge=-1, lt=2**31, description="0 or -1: all.")
    min_p: Fraction | None = None
    repetition_penalty: float | None = Field(None, ge=0.01, le=100, allow_inf_nan=False)
    repeat_penalty: float | None = Field(
        None, ge=0.01, le=100, allow_inf_nan=False, description="llama.cpp's name for the same."
    )
    repeat_last_n: int | None = Field(
        None, ge=-1, lt=2**31, description="How many last tokens the penalty looks at; -1: all."
    )
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Bias] | None = Field(
        None, max_length=_MOST_BIASES, description="By token number, added to its logit."
    )
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=_MOST_STOPS)] | None = None
    ignore_eos: bool = Field(False, description="Go on past the model's own end, as vLLM does.")
    response_format: ResponseFormat | None = None
    maille_keep: bool | Annotated[int, Field(ge=0, le=3600)] = Field(
        False,
        description="What becomes of the answer when you hang up: false cancels it, true goes on "
        "to its end, a number goes on for so many seconds. See `GET /v1/streams/{response_id}`.",
    )
    maille_response_id: str | None = Field(
        None,
        max_length=80,
        description="The response's id, if you choose it yourself; it must be new.",
    )

    def stops(self) -> tuple[str, ...]:
        """The texts that end the answer."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def biases(self) -> tuple[tuple[int, float], ...]:
        """(token, what is added to its logit)."""
        return tuple((int(token), bias) for token, bias in (self.logit_bias or {}).items())

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(GenerationRequest):
    """A conversation to be continued."""

    messages: list[Message] = Field(min_length=1, max_length=4096)
    max_tokens: int | None = Field(None, ge=1, lt=2**31, description="Of the answer.")
    max_completion_tokens: int | None = Field(
        None, ge=1, lt=2**31, description="OpenAI's new name for `max_tokens`."
    )
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)


class CompletionRequest(GenerationRequest):
    """A text to be continued."""

    prompt: str | list[int] | list[str] | list[list[int]] = Field(
        description="A text or token numbers; a list may hold one of them."
    )
    max_tokens: int | None = Field(
        16, ge=1, lt=2**31, description="null: as many as the context takes."
    )
    logprobs: int | None = Field(None, ge=0, le=20)

    def one_prompt(self) -> str | tuple[int, ...]:
        """The prompt; OpenAiError if there are several."""
        prompt: object = self.prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            if len(prompt) > 1:
                raise OpenAiError(
                    400,
                    "unsupported_parameter",
                    f"prompt has {len(prompt)} prompts, one is taken: send a request for each",
                    "prompt",
                )
            prompt = prompt[0]
        if isinstance(prompt, str):
            return prompt
        return tuple(int(token) for token in prompt) if isinstance(prompt, list) else ()


def parse(kind: type[Kind], body: Mapping[str, Any]) -> Kind:
    """Check a request.

    Raises:
        OpenAiError: 400, with the name of the field that does not fit.
    """
    _refuse_unsupported(kind, body)
    kept = {
        name: value
        for name, value in body.items()
        if name in kind.model_fields and not (value is None and name not in _NULL_MEANS)
    }
    try:
        return kind.model_validate(kept)
    except ValidationError as error:
        problem = error.errors()[0]
        place = [str(part) for part in problem["loc"]]
        param = place[0] if place else None
        text = problem["msg"]
        if param == "stop" and isinstance(body.get("stop"), list):
            text = f"give up to {_MOST_STOPS} texts of up to {_MAX_STOP_CHARACTERS} characters"
        raise OpenAiError(
            400,
            "missing_required_parameter" if problem["type"] == "missing" else "invalid_value",
            f"{_place(place)}: {text[:1].lower() + text[1:]}. /docs describes every field",
            param,
        ) from error


_NULL_MEANS = frozenset({"max_tokens"})
"""Where null is not the same as leaving the field out."""


def _refuse_unsupported(kind: type[GenerationRequest], body: Mapping[str, Any]) -> None:
    for name, value in body.items():
        if name in kind.model_fields or name in _IGNORED:
            continue
        if name in _WITHOUT_EFFECT:
            if not any(
                value == same and type(value) is type(same) for same in _WITHOUT_EFFECT[name]
            ):
                raise OpenAiError(
                    400,
                    "unsupported_parameter",
                    f"{name} is not supported: {_INSTEAD.get(name, 'leave it out')}",
                    name,
                )
            continue
        # What cannot be written as UTF-8 cannot be told back either.
        name = name[:60].encode("utf-8", "replace").decode()  # noqa: PLW2901
        near = get_close_matches(name, kind.model_fields, 1)
        raise OpenAiError(
            400,
            "unknown_parameter",
            f"there is no field {name!r}: "
            + (f"did you mean {near[0]!r}?" if near else "leave it out; /docs lists all fields"),
            name,
        )


def _place(parts: list[str]) -> str:
    # Pydantic names the branches of a union; nobody outside knows these names.
    shown = [part for part in parts if part.isidentifier() or part.isdecimal()]
    return ".".join(shown[:4]) or "the body"
