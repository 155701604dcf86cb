"""Filling in the chat template that a model brings along.

A template is a program from a file that somebody else wrote, so it runs in Jinja's sandbox: it sees
the messages and plain values, cannot reach Python's objects, and its output is bounded.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from maille_coordinator.slices.errors import LanguageModelError, UnsupportedModelError
from maille_coordinator.slices.model import LanguageModel

__all__ = ["ChatTemplate", "ChatTemplateError"]

_MAX_TEXT = 16 << 20
_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class ChatTemplateError(LanguageModelError):
    """Raised when a model's template refuses the messages; the message is the template's own."""


class ChatTemplate:
    """Turns a conversation into the text that the model was trained on."""

    def __init__(self, model: LanguageModel) -> None:
        """Compile the model's template, or ChatML where the file has none but knows its tokens.

        Raises:
            UnsupportedModelError: there is no template, or it is no valid Jinja.
        """
        source = model.chat_template
        vocabulary = model.vocabulary
        if source is None:
            if "<|im_start|>" not in vocabulary.tokens:
                raise UnsupportedModelError(
                    f"{model.name} has no chat template; ask it to complete a text instead of "
                    "chatting, or choose an instruct model"
                )
            source = _CHATML
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols],
            undefined=jinja2.Undefined,
        )
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _now
        environment.filters["tojson"] = _to_json
        self._specials = {
            "bos_token": _text(vocabulary.tokens, vocabulary.bos_token),
            "eos_token": _text(vocabulary.tokens, vocabulary.eos_token),
        }
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise UnsupportedModelError(
                f"the chat template of {model.name} is not understood: {error}; "
                "choose another file of this model"
            ) from error

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, object]] | None = None,
    ) -> str:
        """The text of a conversation, to be encoded with `special=True, add_bos=False`.

        Args:
            messages: each with `role` and `content`, in OpenAI's form.
            add_generation_prompt: whether the assistant's turn begins at the end.
            tools: descriptions of functions, for templates that know them.

        Raises:
            ChatTemplateError: the template refuses the messages or fails on them.
        """
        try:
            pieces: list[str] = []
            size = 0
            for piece in self._template.generate(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                tools=None if tools is None else [dict(tool) for tool in tools],
                **self._specials,
            ):
                pieces.append(piece)
                size += len(piece)
                if size > _MAX_TEXT:
                    raise ChatTemplateError(
                        "the conversation is too long for the chat template; shorten it"
                    )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, OverflowError) as error:
            raise ChatTemplateError(
                f"the model's chat template refuses these messages: {error}; check their roles "
                "and contents"
            ) from error
        return "".join(pieces)


def _refuse(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _now(pattern: str) -> str:
    return datetime.now(UTC).strftime(pattern)


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _text(tokens: Sequence[str], number: int | None) -> str:
    return "" if number is None else tokens[number]
