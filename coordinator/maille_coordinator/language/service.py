"""What the HTTP API may ask of the coordinator's language models.

`runner.LanguageService` implements it; `Coordinator.language` is one. Errors are `ServiceError`s,
raised by the first `anext` of a stream at the latest; what goes wrong later is the last piece's
`error` with the finish reason "error".
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = [
    "GenerateRequest",
    "LanguageApi",
    "LanguageModelView",
    "PlanView",
    "StagePlace",
    "TextPiece",
    "TokenPiece",
    "Usage",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One generation. Fractions as people write them; the service turns them into millionths."""

    model: str
    """Name in the catalogue; "name:3" for a version, else the newest."""
    prompt: str | tuple[Mapping[str, object], ...] | tuple[int, ...]
    """A text to go on from, messages (`role`, `content`) for the chat template, or tokens."""
    response_id: str = ""
    """Chosen by the API (such as "chatcmpl-..."), unique, up to 80 characters; "" to have one made.
    With it the answer can be resumed, also after the coordinator started anew."""
    max_tokens: int | None = None
    """Of the answer; None: as many as the context or the cache takes."""
    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """0: all."""
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_window: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    """None: a random one."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer; they are not part of it."""
    ignore_end: bool = False
    """Go on past the model's own end token, up to `max_tokens`."""
    logprobs: int | None = None
    """None: none; 0: of each token; n: of the n likeliest too (up to 20)."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token, what to add to its logit)."""
    grammar: bytes | None = None
    """The JSON schema that the answer follows, UTF-8; empty: any object; None: any text."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a generation took."""

    prompt_tokens: int
    answer_tokens: int
    cached_tokens: int = 0
    """Of the prompt, those whose cache an earlier session had left."""

    @property
    def total_tokens(self) -> int:
        """Prompt and answer."""
        return self.prompt_tokens + self.answer_tokens


@dataclass(frozen=True, slots=True)
class TokenPiece:
    """One token of an answer."""

    token: int
    text: str
    """The token's own bytes as text; a cut character shows as a replacement character."""
    data: bytes
    logprob: float | None = None
    """Natural logarithm; None if not asked for."""
    top: tuple[tuple[int, bytes, float], ...] = ()
    """(token, its bytes, log probability) of the likeliest."""


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A bit of an answer. `text` holds only what is certain: whole characters, no stop text."""

    response_id: str
    index: int
    """How many tokens of the answer there are up to and with this piece: give it as `from_index`
    to `resume` to go on right after it."""
    text: str
    tokens: tuple[TokenPiece, ...] = ()
    finish_reason: str | None = None
    """None while it goes on; "stop", "length", "cancelled", or "error" on the last piece."""
    usage: Usage | None = None
    """On the last piece."""
    error: str = ""
    """Cause and next step, with the finish reason "error"."""
    error_code: str = ""
    """A stable word, with the finish reason "error"."""


@dataclass(frozen=True, slots=True)
class StagePlace:
    """Where a run of layers is."""

    node: str
    first_layer: int
    last_layer: int
    shadows: tuple[str, ...] = ()
    weight_bytes: int = 0
    state: str = "ready"
    """"planned", "loading" or "ready"."""


@dataclass(frozen=True, slots=True)
class LanguageModelView:
    """A language model as lists show it."""

    name: str
    version: int
    added_at_unix_ms: int
    architecture: str
    quantisation: str
    parameters: int
    size_bytes: int
    layer_count: int
    context_length: int
    state: str
    """"waiting" (no node yet), "measuring", "loading", "checking" (the first token goes round),
    "ready", "recovering", "impossible", or "broken" (the file cannot be used)."""
    state_text: str = ""
    """Why it is not ready, and what to do."""
    stages: tuple[StagePlace, ...] = ()
    predicted_tokens_per_s: float = 0.0
    measured_tokens_per_s: float = 0.0
    """Of the last session, 0 before one."""
    active_sessions: int = 0
    queued_sessions: int = 0
    has_chat_template: bool = True


@dataclass(frozen=True, slots=True)
class PlanView:
    """What the planner chose, or would choose now, and why."""

    model: str
    version: int
    possible: bool
    current: bool
    """Whether this is what runs; otherwise what would be arranged from the present measurements."""
    stages: tuple[StagePlace, ...]
    predicted_tokens_per_s: float
    lines: tuple[str, ...]
    """For a person: the choice, and what each left-out node would have cost."""


class LanguageApi(Protocol):
    """Language models of the running coordinator. All calls are made in its event loop."""

    def generate(self, request: GenerateRequest) -> AsyncIterator[TextPiece]:
        """Generate. The first piece may take until the model is ready.

        Closing the iterator (`aclose`) before its last piece cancels the generation everywhere,
        unless another reader resumed it.

        ServiceError: 404 unknown_model; 400 context_too_long, empty_prompt, bad_parameter,
        template_refused, no_chat_template; 409 response_exists; 429 queue_full;
        503 model_impossible; 507 cache_too_small (says how much is missing).
        """
        ...

    def resume(self, response_id: str, from_index: int = 0) -> AsyncIterator[TextPiece]:
        """The pieces of a generation after its first `from_index` tokens, kept and to come.

        An answer is kept ten minutes after its end. A generation whose readers are all gone
        without having closed (the coordinator died) goes on for a minute and waits to be resumed.

        ServiceError: 404 unknown_response; 400 bad_parameter.
        """
        ...

    def cancel(self, response_id: str) -> bool:
        """End a generation; whether there was one that had not ended."""
        ...

    def models(self) -> list[LanguageModelView]:
        """Every language model, by name and version."""
        ...

    async def plan(self, model: str, *, explain: bool = True) -> PlanView:
        """How a model is, or would be, cut. ServiceError: 404 unknown_model."""
        ...

    async def token_count(self, model: str, messages: Sequence[Mapping[str, object]] | str) -> int:
        """How many tokens a prompt takes. ServiceError as `generate`."""
        ...
