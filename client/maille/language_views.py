"""What the mesh says about its language models: where their layers are, and why."""

from dataclasses import dataclass
from typing import Self

from maille.json_fields import Json, integer, mapping, mappings, number, text, texts


@dataclass(frozen=True, slots=True)
class StagePlace:
    """A node that holds a run of a model's layers."""

    node: str
    first_layer: int
    last_layer: int
    shadows: tuple[str, ...] = ()
    """Nodes that hold the same layers, to take over at once."""
    weight_bytes: int = 0
    state: str = "ready"
    """"loading", "ready" or "lost"."""

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """One element of the HTTP API's `stages`."""
        return cls(
            node=text(data, "node"),
            first_layer=integer(data, "first_layer"),
            last_layer=integer(data, "last_layer"),
            shadows=texts(data, "shadows"),
            weight_bytes=integer(data, "weight_bytes"),
            state=text(data, "state"),
        )


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A language model and the nodes that hold it together."""

    name: str
    version: int
    state: str
    """"waiting" (no node yet), "measuring", "loading", "checking", "ready", "recovering",
    "impossible" or "broken"."""
    state_text: str
    """Why it is not ready, and what to do."""
    stages: tuple[StagePlace, ...]
    architecture: str
    quantisation: str
    parameters: int
    size_bytes: int
    layer_count: int
    context_length: int
    predicted_tokens_per_s: float
    measured_tokens_per_s: float
    """Of the last session, 0 before one."""
    active_sessions: int
    queued_sessions: int
    has_chat_template: bool

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """One element of the HTTP API's list."""
        return cls(
            name=text(data, "name"),
            version=integer(data, "version"),
            state=text(data, "state"),
            state_text=text(data, "state_text"),
            stages=_stages(data),
            architecture=text(data, "architecture"),
            quantisation=text(data, "quantisation"),
            parameters=integer(data, "parameters"),
            size_bytes=integer(data, "size_bytes"),
            layer_count=integer(data, "layer_count"),
            context_length=integer(data, "context_length"),
            predicted_tokens_per_s=number(data, "predicted_tokens_per_s"),
            measured_tokens_per_s=number(data, "measured_tokens_per_s"),
            active_sessions=integer(data, "active_sessions"),
            queued_sessions=integer(data, "queued_sessions"),
            has_chat_template=bool(data.get("has_chat_template", True)),
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """How a language model is, or would be, cut over the nodes."""

    model: str
    version: int
    possible: bool
    current: bool
    """Whether this is what runs; otherwise what would be arranged now."""
    stages: tuple[StagePlace, ...]
    predicted_tokens_per_s: float
    lines: tuple[str, ...]
    """For a person: the choice, and what each node that was left out would have cost."""

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The answer of the HTTP API's `plan`."""
        return cls(
            model=text(data, "model"),
            version=integer(data, "version"),
            possible=bool(data.get("possible", False)),
            current=bool(data.get("current", False)),
            stages=_stages(data),
            predicted_tokens_per_s=number(data, "predicted_tokens_per_s"),
            lines=texts(data, "lines"),
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer took, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Of the prompt, those that an earlier answer had left computed."""

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """OpenAI's `usage`."""
        return cls(
            integer(data, "prompt_tokens"),
            integer(data, "completion_tokens"),
            integer(mapping(data, "prompt_tokens_details"), "cached_tokens"),
        )


def _stages(data: Json) -> tuple[StagePlace, ...]:
    return tuple(StagePlace.from_json(item) for item in mappings(data, "stages"))
