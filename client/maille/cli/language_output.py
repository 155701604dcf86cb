"""What several commands print about language models: where the layers are, and how it goes."""

import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape

from maille.cli import output
from maille.errors import GenerationFailed
from maille.language_stream import Piece
from maille.language_views import LanguageModel, StagePlace
from maille.mesh import Mesh

READY = "ready"
_HOPELESS = frozenset({"impossible", "broken"})
_POLL_S = 0.25
_NO_NODE_S = 10.0
_WORDS = {
    "waiting": "waiting for a node",
    "measuring": "measuring the nodes",
    "loading": "cutting, sending and loading the slices",
    "checking": "the first token goes round",
    "recovering": "a node was lost: its layers move",
}


class Pace:
    """Counts an answer's tokens and times."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self._first_s: float | None = None
        self._last_s = self._started_s
        self._first_tokens = 0
        self.tokens = 0

    def take(self, piece: Piece) -> None:
        """One more piece has come."""
        now_s = time.monotonic()
        if self._first_s is None and piece.index > 0:
            self._first_s = now_s
            self._first_tokens = piece.index
        self._last_s = now_s
        self.tokens = max(self.tokens, piece.index)

    @property
    def first_token_s(self) -> float:
        """From the question to the first token; 0 before it."""
        return 0.0 if self._first_s is None else self._first_s - self._started_s

    @property
    def tokens_per_s(self) -> float:
        """After the first token; 0 before the second."""
        if self._first_s is None or self._last_s <= self._first_s:
            return 0.0
        return (self.tokens - self._first_tokens) / (self._last_s - self._first_s)

    def __str__(self) -> str:
        """One line for people."""
        if not self.tokens:
            return f"no token yet, {time.monotonic() - self._started_s:.1f} s"
        return (
            f"{self.tokens} tokens, {self.tokens_per_s:.1f} tokens/s, "
            f"first after {output.duration(self.first_token_s)}"
        )


def places(stages: Sequence[StagePlace]) -> list[str]:
    """Which node holds which layers, a line each."""
    lines = []
    for stage in stages:
        layers = (
            f"layer {stage.first_layer}"
            if stage.first_layer == stage.last_layer
            else f"layers {stage.first_layer}-{stage.last_layer}"
        )
        line = f"{layers:<14}{stage.node}"
        if stage.weight_bytes:
            line += f", {output.count(stage.weight_bytes, 'B')}"
        if stage.shadows:
            line += f", copy on {', '.join(stage.shadows)}"
        lines.append(line if stage.state == READY else f"{line}, {stage.state}")
    return lines


def print_places(console: Console, model: LanguageModel) -> None:
    """The model's name and the places of its layers."""
    nodes = len({stage.node for stage in model.stages})
    held = f"{model.layer_count} layers on {nodes} node{'' if nodes == 1 else 's'}"
    rate = model.measured_tokens_per_s or model.predicted_tokens_per_s
    known = "measured" if model.measured_tokens_per_s else "predicted"
    speed = f", {rate:.1f} tokens/s {known}" if rate else ""
    console.print(f"[bold]{escape(model.name)}[/] version {model.version}: {held}{speed}")
    for line in places(model.stages):
        console.print(f"  {line}", markup=False)


def print_language_model(console: Console, model: LanguageModel) -> None:
    """All about one language model."""
    print_places(console, model)
    console.print(
        f"  {model.architecture} {model.quantisation}, {output.count(model.parameters)} parameters, "
        f"{output.count(model.size_bytes, 'B')}, context of {model.context_length} tokens",
        markup=False,
    )
    console.print(f"  {state_text(model)}", markup=False)
    if model.active_sessions or model.queued_sessions:
        console.print(f"  {model.active_sessions} answers under way, {model.queued_sessions} wait")
    if not model.has_chat_template:
        console.print("  no chat template: use `maille generate`, not `maille chat`")


def state_text(model: LanguageModel) -> str:
    """The state, and why."""
    word = _WORDS.get(model.state, model.state)
    return f"{word}: {model.state_text}" if model.state_text else word


def wait_until_ready(
    mesh: Mesh, name: str, on_state: Callable[[str], None], limit_s: float
) -> LanguageModel:
    """Wait until a model answers; tells each new state.

    Returns when it is ready, or when only a person can help (no node for ten seconds), or when the
    limit is over: look at the state.

    Raises:
        GenerationFailed: it cannot become ready as things are; the text says why.
    """
    started_s = time.monotonic()
    told = ""
    while True:
        model = mesh.language_model(name)
        text = state_text(model)
        if text != told:
            told = text
            on_state(text)
        if model.state in _HOPELESS:
            raise GenerationFailed(
                f"{model.name} version {model.version} is in the catalogue but cannot run: "
                f"{model.state_text or model.state}"
            )
        waited_s = time.monotonic() - started_s
        idle = model.state == "waiting" and waited_s > _NO_NODE_S
        if model.state == READY or idle or waited_s > limit_s:
            return model
        time.sleep(_POLL_S)
