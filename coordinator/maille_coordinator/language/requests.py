"""What a person asks for, in the terms of the wire: prompts as tokens, fractions as millionths."""

import json
import secrets
from collections.abc import Mapping
from math import isfinite

from maille_coordinator.language.model_files import LoadedModel
from maille_coordinator.language.records import SessionStart
from maille_coordinator.language.service import GenerateRequest
from maille_coordinator.service import ServiceError
from maille_coordinator.slices import ChatTemplateError
from maille_protocol import Grammar, Reference, Sampling

_MILLION = 1_000_000
_MOST_BIASES = 1024


def prompt_tokens(
    loaded: LoadedModel, prompt: str | tuple[Mapping[str, object], ...] | tuple[int, ...]
) -> tuple[int, ...]:
    """The tokens of a prompt. ServiceError(400)."""
    if isinstance(prompt, str):
        tokens = loaded.tokenizer.encode(prompt)
    elif all(isinstance(item, int) for item in prompt):
        tokens = [item for item in prompt if isinstance(item, int)]
        size = loaded.model.vocabulary_size
        wrong = next((token for token in tokens if not 0 <= token < size), None)
        if wrong is not None:
            text = f"{wrong} is no token of this model, which has {size}"
            raise ServiceError(400, "bad_parameter", text)
    else:
        if loaded.template is None:
            raise ServiceError(400, "no_chat_template", loaded.no_template)
        messages = [item for item in prompt if isinstance(item, Mapping)]
        try:
            text = loaded.template.render(messages)
        except ChatTemplateError as error:
            raise ServiceError(400, "template_refused", str(error)) from error
        tokens = loaded.tokenizer.encode(text, special=True, add_bos=False)
    if not tokens:
        raise ServiceError(400, "empty_prompt", "the prompt is empty: send at least one token")
    return tuple(tokens)


def end_tokens_of(loaded: LoadedModel, request: GenerateRequest) -> tuple[int, ...]:
    """Tokens that end the answer."""
    return () if request.ignore_end else tuple(sorted(loaded.model.eos_tokens))


def sampling_of(
    request: GenerateRequest, vocabulary_size: int, vocabulary: Reference | None = None
) -> Sampling:
    """How tokens are chosen; `vocabulary` where the answer follows a grammar. ServiceError(400)."""
    if len(request.logit_bias) > _MOST_BIASES:
        text = f"logit_bias has {len(request.logit_bias)} tokens, {_MOST_BIASES} are possible"
        raise ServiceError(400, "bad_parameter", text)
    for token, _ in request.logit_bias:
        _between("a token of logit_bias", token, 0, vocabulary_size - 1)
    seed = secrets.randbits(63) if request.seed is None else request.seed
    logprobs = 0
    if request.logprobs is not None:
        # The wire's 0 is none at all; a token's own comes with 1.
        logprobs = max(1, int(_between("logprobs", request.logprobs, 0, 20)))
    return Sampling(
        temperature_ppm=_ppm("temperature", request.temperature, 0, 100),
        top_k=int(_between("top_k", request.top_k, 0, 1 << 31)),
        top_p_ppm=_ppm("top_p", request.top_p, 0, 1),
        min_p_ppm=_ppm("min_p", request.min_p, 0, 1),
        repetition_ppm=_ppm("repetition_penalty", request.repetition_penalty, 0.01, 100),
        repetition_window=int(_between("repetition_window", request.repetition_window, 0, 1 << 20)),
        presence_ppm=_ppm("presence_penalty", request.presence_penalty, -2, 2),
        frequency_ppm=_ppm("frequency_penalty", request.frequency_penalty, -2, 2),
        # A seed may be any number: what counts is that the same one gives the same answer.
        seed=seed % (1 << 64),
        top_logprobs=logprobs,
        logit_bias=tuple(
            (token, _ppm(f"logit_bias of {token}", bias, -100, 100))
            for token, bias in request.logit_bias
        ),
        grammar=(
            None
            if request.grammar is None or vocabulary is None
            else Grammar(request.grammar, vocabulary)
        ),
    )


def session_start(
    loaded: LoadedModel,
    request: GenerateRequest,
    response_id: str,
    vocabulary: Reference | None,
    context_tokens: int,
    now_unix_ms: int,
) -> SessionStart:
    """A request as it is accepted. ServiceError(400)."""
    prompt = prompt_tokens(loaded, request.prompt)
    room = min(loaded.model.context_length, context_tokens) - len(prompt)
    max_tokens = max(1, room) if request.max_tokens is None else request.max_tokens
    if max_tokens < 1:
        raise ServiceError(400, "bad_parameter", "max_tokens is at least 1")
    return SessionStart(
        response_id,
        *loaded.key,
        prompt,
        sampling_of(request, loaded.model.vocabulary_size, vocabulary),
        max_tokens,
        end_tokens_of(loaded, request),
        now_unix_ms,
        json.dumps({"stop": request.stop, "logprobs": request.logprobs}),
    )


def _ppm(name: str, value: float, least: float, most: float) -> int:
    return round(_between(name, value, least, most) * _MILLION)


def _between(name: str, value: float, least: float, most: float) -> float:
    if not (isfinite(value) and least <= value <= most):
        raise ServiceError(
            400, "bad_parameter", f"{name} is {value}: give a number from {least} to {most}"
        )
    return value
