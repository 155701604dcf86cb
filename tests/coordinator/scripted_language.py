"""Language models whose every answer is known: a real `LanguageApi` with scripted tokens.

It keeps answers, resumes and cancels them as the contract says. With `hold`, tokens come one by one
as a test `release`s them.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from maille_coordinator.language import (
    GenerateRequest,
    LanguageModelView,
    PlanView,
    StagePlace,
    TextPiece,
    TokenPiece,
    Usage,
)
from maille_coordinator.service import ServiceError

WORDS = ("Once", " upon", " a", " time", ",", " the", " café", " mesh", " held", ".")
TEXT = "".join(WORDS)

VIEW = LanguageModelView(
    name="story",
    version=2,
    added_at_unix_ms=1_700_000_000_000,
    architecture="llama",
    quantisation="Q4_1",
    parameters=135_000_000,
    size_bytes=98_000_000,
    layer_count=30,
    context_length=64,
    state="ready",
    stages=(
        StagePlace("attic", 0, 14, ("shed",), 40_000_000),
        StagePlace("desk", 15, 29, (), 58_000_000),
    ),
    predicted_tokens_per_s=120.0,
    measured_tokens_per_s=110.0,
)


@dataclass
class Answer:
    """One generation, kept."""

    request: GenerateRequest
    prompt_tokens: int
    tokens: list[TokenPiece] = field(default_factory=list)
    pieces: list[TextPiece] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    readers: int = 0
    work: asyncio.Task[None] | None = None

    @property
    def finish_reason(self) -> str | None:
        return self.pieces[-1].finish_reason if self.pieces else None

    def tell(self, piece: TextPiece) -> None:
        self.pieces.append(piece)
        self.changed.set()


class ScriptedLanguage:
    """Implements `maille_coordinator.language.LanguageApi`."""

    def __init__(self, views: Sequence[LanguageModelView] = (VIEW,)) -> None:
        self.views = list(views)
        self.answers: dict[str, Answer] = {}
        self.hold = False
        self.refusal: ServiceError | None = None
        self.delay_refusal = False
        """Whether the refusal waits for `release`."""
        self.fails_after: int | None = None
        """After so many tokens the generation fails."""
        self.dying = False
        """Whether readers that are closed are those of a coordinator that dies."""
        self.gate = asyncio.Semaphore(0)
        self.news = asyncio.Event()

    def release(self, count: int = 1) -> None:
        for _ in range(count):
            self.gate.release()

    async def until_ended(self, response_id: str) -> str | None:
        """Wait for a generation's end; its finish reason."""
        while response_id not in self.answers or not self.answers[response_id].finish_reason:
            self.news.clear()
            await self.news.wait()
        return self.answers[response_id].finish_reason

    async def until_read_by(self, response_id: str, readers: int) -> None:
        while response_id not in self.answers or self.answers[response_id].readers != readers:
            self.news.clear()
            await self.news.wait()

    # --- LanguageApi -----------------------------------------------------------------------

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TextPiece]:
        if self.refusal is not None:
            if self.delay_refusal:
                await self.gate.acquire()
            raise self.refusal
        view = self._view(request.model)
        prompt_tokens = _count(request.prompt)
        if not prompt_tokens:
            raise ServiceError(400, "empty_prompt", "the prompt is empty: give some text")
        if prompt_tokens >= view.context_length:
            raise ServiceError(
                400,
                "context_too_long",
                f"the prompt has {prompt_tokens} tokens, the model takes {view.context_length}: "
                "shorten it",
            )
        if request.response_id in self.answers:
            raise ServiceError(409, "response_exists", "this id is taken: choose another")
        answer = self.answers[request.response_id] = Answer(request, prompt_tokens)
        answer.work = asyncio.create_task(self._make(answer))
        async for piece in self._read(answer, 0):
            yield piece

    async def resume(self, response_id: str, from_index: int = 0) -> AsyncIterator[TextPiece]:
        answer = self.answers.get(response_id)
        if answer is None:
            raise ServiceError(404, "unknown_response", f"no response {response_id}: it is too old")
        if from_index > len(answer.tokens):
            raise ServiceError(
                400, "bad_parameter", "from is beyond the answer: give a smaller one"
            )
        async for piece in self._read(answer, from_index):
            yield piece

    def cancel(self, response_id: str) -> bool:
        answer = self.answers.get(response_id)
        if answer is None or answer.finish_reason is not None:
            return False
        assert answer.work is not None
        answer.work.cancel()
        answer.tell(TextPiece(response_id, len(answer.tokens), "", finish_reason="cancelled"))
        self.news.set()
        return True

    def models(self) -> list[LanguageModelView]:
        return list(self.views)

    async def plan(self, model: str, *, explain: bool = True) -> PlanView:
        view = self._view(model)
        told = ["shed: left out: even the best ring with it would cost 3.10 ms/token more"]
        return PlanView(
            view.name,
            view.version,
            True,
            True,
            view.stages,
            view.predicted_tokens_per_s,
            ("30 layers over 2 nodes", *(told if explain else ())),
        )

    async def token_count(self, model: str, messages: Sequence[Mapping[str, object]] | str) -> int:
        self._view(model)
        return _count(messages)

    # --- inside ----------------------------------------------------------------------------

    def _view(self, model: str) -> LanguageModelView:
        name, _, version = model.partition(":")
        for view in self.views:
            if view.name == name and version in {"", str(view.version)}:
                return view
        raise ServiceError(404, "unknown_model", f"no language model {model!r}: add it")

    async def _make(self, answer: Answer) -> None:
        request = answer.request
        told = 0
        limit = request.max_tokens or len(WORDS)
        for count, word in enumerate(WORDS[:limit], 1):
            if self.hold:
                await self.gate.acquire()
            else:
                await asyncio.sleep(0)
            if self.fails_after is not None and count > self.fails_after:
                answer.tell(
                    TextPiece(
                        request.response_id,
                        count - 1,
                        "",
                        finish_reason="error",
                        error="no node is left that can hold layers 15-29: start one",
                        error_code="model_impossible",
                    )
                )
                break
            token = _token(count, word, request.logprobs)
            answer.tokens.append(token)
            text = "".join(item.text for item in answer.tokens)
            stops = [text.find(stop) for stop in request.stop if stop in text]
            over = bool(stops) or count == min(limit, len(WORDS))
            sure = min(stops) if stops else len(text) - (0 if over else _open(text, request.stop))
            reason = None
            if over:
                reason = "stop" if stops or count == len(WORDS) else "length"
            piece = TextPiece(
                request.response_id,
                count,
                text[told:sure],
                (token,),
                reason,
                Usage(answer.prompt_tokens, count, 1) if over else None,
            )
            told = sure
            answer.tell(piece)
            if over:
                break
        self.news.set()

    async def _read(self, answer: Answer, from_index: int) -> AsyncIterator[TextPiece]:
        answer.readers += 1
        self.news.set()
        place = 0
        try:
            while True:
                while place < len(answer.pieces):
                    piece = answer.pieces[place]
                    place += 1
                    if piece.index > from_index or piece.finish_reason is not None:
                        if piece.index <= from_index:
                            piece = replace(piece, text="", tokens=())
                        yield piece
                    if piece.finish_reason is not None:
                        return
                answer.changed.clear()
                await answer.changed.wait()
        finally:
            answer.readers -= 1
            if not answer.readers and not self.dying:
                self.cancel(answer.request.response_id)
            self.news.set()


def _count(prompt: Sequence[Mapping[str, object] | int] | str) -> int:
    """Tokens of a text (its words), of messages (two more each), or of tokens."""
    if isinstance(prompt, str):
        return len(prompt.split())
    return sum(
        1 if isinstance(item, int) else len(str(item["content"]).split()) + 2 for item in prompt
    )


def _token(number: int, word: str, logprobs: int | None) -> TokenPiece:
    if logprobs is None:
        return TokenPiece(number, word, word.encode())
    top = tuple((number + n, word.encode() + b"!" * n, -0.25 - n) for n in range(logprobs))
    return TokenPiece(number, word, word.encode(), math.log(0.5), top)


def _open(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end may turn out to begin a stop text."""
    return max(
        (n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0
    )
