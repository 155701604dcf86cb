"""What the mesh says about its language models: where their layers are, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, cast

Json = Mapping[str, object]


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
        shadows = data.get("shadows")
        return cls(
            node=_text(data, "node"),
            first_layer=int(_number(data, "first_layer")),
            last_layer=int(_number(data, "last_layer")),
            shadows=tuple(str(item) for item in shadows) if isinstance(shadows, list) else (),
            weight_bytes=int(_number(data, "weight_bytes")),
            state=_text(data, "state"),
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
            name=_text(data, "name"),
            version=int(_number(data, "version")),
            state=_text(data, "state"),
            state_text=_text(data, "state_text"),
            stages=_stages(data),
            architecture=_text(data, "architecture"),
            quantisation=_text(data, "quantisation"),
            parameters=int(_number(data, "parameters")),
            size_bytes=int(_number(data, "size_bytes")),
            layer_count=int(_number(data, "layer_count")),
            context_length=int(_number(data, "context_length")),
            predicted_tokens_per_s=_number(data, "predicted_tokens_per_s"),
            measured_tokens_per_s=_number(data, "measured_tokens_per_s"),
            active_sessions=int(_number(data, "active_sessions")),
            queued_sessions=int(_number(data, "queued_sessions")),
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
        lines = data.get("lines")
        return cls(
            model=_text(data, "model"),
            version=int(_number(data, "version")),
            possible=bool(data.get("possible", False)),
            current=bool(data.get("current", False)),
            stages=_stages(data),
            predicted_tokens_per_s=_number(data, "predicted_tokens_per_s"),
            lines=tuple(str(line) for line in lines) if isinstance(lines, list) else (),
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
        details = data.get("prompt_tokens_details")
        return cls(
            int(_number(data, "prompt_tokens")),
            int(_number(data, "completion_tokens")),
            int(_number(cast("Json", details), "cached_tokens"))
            if isinstance(details, Mapping)
            else 0,
        )


def _stages(data: Json) -> tuple[StagePlace, ...]:
    found = data.get("stages")
    items: Sequence[object] = found if isinstance(found, list) else ()
    return tuple(
        StagePlace.from_json(cast("Json", item)) for item in items if isinstance(item, Mapping)
    )


def _text(data: Json, key: str) -> str:
    value = data.get(key)
    return value if isinstance(value, str) else ""


def _number(data: Json, key: str) -> float:
    value = data.get(key)
    return value if isinstance(value, int | float) else 0
