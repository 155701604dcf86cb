"""What a mesh does with language models: `generate`, `chat`, and where the layers are.

Two mix-ins with the same methods, for `AsyncMesh` and `Mesh`.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from difflib import get_close_matches
from typing import TypedDict, TypeVar, Unpack

from maille.errors import UnknownModel
from maille.http_api import HttpApi
from maille.language_stream import Answer, Piece
from maille.language_views import LanguageModel, Plan

__all__ = ["AsyncLanguage", "GenerateOptions", "Language", "Piece"]

Value = TypeVar("Value")
Message = Mapping[str, object]


class GenerateOptions(TypedDict, total=False):
    """Options of `generate` and `chat`; what is left out is the model's or the mesh's default."""

    max_tokens: int | None
    """Of the answer; None: as many as the context takes."""
    temperature: float
    """0: always the likeliest token, the same each time."""
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[str, float]
    """By token number, added to its logit."""
    seed: int | None
    """The same seed gives the same answer, on whatever nodes."""
    stop: str | Sequence[str]
    """Texts that end the answer; they are not part of it."""


class AsyncLanguage:
    """Language models of an `AsyncMesh`."""

    @property
    def http(self) -> HttpApi:
        """The coordinator's HTTP API."""
        raise NotImplementedError

    async def generate(
        self, model: str, prompt: str, **options: Unpack[GenerateOptions]
    ) -> AsyncGenerator[str]:
        """Go on from a text; yields the answer bit by bit.

        A lost connection or a coordinator that starts anew is no error: the answer goes on with
        the same tokens. Stopping before the end (closing the generator) cancels it everywhere.

        Args:
            model: its name; "name:2" for a version.
            prompt: the text.
            options: see `GenerateOptions`.

        Raises:
            UnknownModel: see `language_models`.
            InputError: the prompt is too long, or an option is out of range.
            GenerationFailed: no set of nodes can hold the model; the text says what is missing.
            MeshBusy, MeshUnavailable: see `maille.errors`.
        """
        async with aclosing(self.generate_detailed(model, prompt, **options)) as pieces:
            async for piece in pieces:
                if piece.text:
                    yield piece.text

    async def generate_detailed(
        self, model: str, prompt: str, **options: Unpack[GenerateOptions]
    ) -> AsyncGenerator[Piece]:
        """As `generate`; the last piece tells why it ended and what it took."""
        body = {"max_tokens": None, **options, "model": model, "prompt": prompt}
        answer = Answer(self.http, "/v1/completions", body)
        async with aclosing(answer.pieces()) as pieces:
            async for piece in pieces:
                yield piece

    async def chat(
        self,
        messages: str | Sequence[Message],
        *,
        model: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> AsyncGenerator[str]:
        """Answer the last message of a conversation; yields the answer bit by bit.

        Args:
            messages: each with `role` ("system", "user", "assistant") and `content`; or what the
                user says.
            model: may be left out where the mesh has one language model.
            options: see `GenerateOptions`; errors as of `generate`.
        """
        async with aclosing(self.chat_detailed(messages, model=model, **options)) as pieces:
            async for piece in pieces:
                if piece.text:
                    yield piece.text

    async def chat_detailed(
        self,
        messages: str | Sequence[Message],
        *,
        model: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> AsyncGenerator[Piece]:
        """As `chat`; the last piece tells why it ended and what it took."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        name = model or (await self.language_model()).name
        body = {**options, "model": name, "messages": [dict(message) for message in messages]}
        answer = Answer(self.http, "/v1/chat/completions", body)
        async with aclosing(answer.pieces()) as pieces:
            async for piece in pieces:
                yield piece

    async def language_models(self) -> list[LanguageModel]:
        """Every language model, with its state and the places of its layers."""
        return [LanguageModel.from_json(item) for item in await self.http.language_models()]

    async def language_model(self, name: str | None = None) -> LanguageModel:
        """One language model: the named one ("name:2" for a version), else the only one.

        Raises:
            UnknownModel: there is none of this name; or none, or several, and none was named.
        """
        return choose(await self.language_models(), name)

    async def plan(self, model: str, *, explain: bool = True) -> Plan:
        """How a language model is, or would be, cut over the nodes; UnknownModel."""
        return Plan.from_json(await self.http.language_plan(model, explain=explain))


class Language:
    """Language models of a `Mesh`; methods as of `AsyncLanguage`."""

    @property
    def asynchronous(self) -> AsyncLanguage:
        """The mesh inside."""
        raise NotImplementedError

    def wait_for(self, work: Coroutine[object, object, Value]) -> Value:
        """Run a coroutine in the mesh's loop and wait for it."""
        raise NotImplementedError

    def generate(
        self, model: str, prompt: str, **options: Unpack[GenerateOptions]
    ) -> Generator[str]:
        """Go on from a text; yields the answer bit by bit. As `AsyncMesh.generate`."""
        with closing(self.generate_detailed(model, prompt, **options)) as pieces:
            for piece in pieces:
                if piece.text:
                    yield piece.text

    def generate_detailed(
        self, model: str, prompt: str, **options: Unpack[GenerateOptions]
    ) -> Generator[Piece]:
        """As `generate`; the last piece tells why it ended and what it took."""
        return self._each(self.asynchronous.generate_detailed(model, prompt, **options))

    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        model: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generator[str]:
        """Answer a conversation's last message, bit by bit. As `AsyncMesh.chat`."""
        with closing(self.chat_detailed(messages, model=model, **options)) as pieces:
            for piece in pieces:
                if piece.text:
                    yield piece.text

    def chat_detailed(
        self,
        messages: str | Sequence[Message],
        *,
        model: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generator[Piece]:
        """As `chat`; the last piece tells why it ended and what it took."""
        return self._each(self.asynchronous.chat_detailed(messages, model=model, **options))

    def language_models(self) -> list[LanguageModel]:
        """Every language model, with its state and the places of its layers."""
        return self.wait_for(self.asynchronous.language_models())

    def language_model(self, name: str | None = None) -> LanguageModel:
        """One language model, the only one if none is named; as `AsyncMesh.language_model`."""
        return self.wait_for(self.asynchronous.language_model(name))

    def plan(self, model: str, *, explain: bool = True) -> Plan:
        """How a language model is, or would be, cut over the nodes; UnknownModel."""
        return self.wait_for(self.asynchronous.plan(model, explain=explain))

    def _each(self, pieces: AsyncGenerator[Piece]) -> Generator[Piece]:
        reader = _Reader(pieces)
        try:
            while (piece := self.wait_for(reader.next())) is not None:
                yield piece
        finally:
            self.wait_for(reader.close())


class _Reader:
    """Reads pieces for another thread, which may stop waiting in the middle of one."""

    def __init__(self, pieces: AsyncGenerator[Piece]) -> None:
        self._pieces = pieces
        self._following: asyncio.Task[Piece | None] | None = None

    async def next(self) -> Piece | None:
        """The next piece; None at the end."""
        self._following = asyncio.ensure_future(_anext(self._pieces))
        return await self._following

    async def close(self) -> None:
        """Stop reading, also where a piece is awaited."""
        if self._following is not None and not self._following.done():
            self._following.cancel()
            await asyncio.wait([self._following])
        await self._pieces.aclose()


async def _anext(pieces: AsyncGenerator[Piece]) -> Piece | None:
    return await anext(pieces, None)


def choose(models: Sequence[LanguageModel], name: str | None) -> LanguageModel:
    """The named model, its newest version unless told; without a name the only one there is.

    Raises:
        UnknownModel: there is none, or several.
    """
    names = sorted({model.name for model in models})
    if not names:
        raise UnknownModel(
            "The mesh has no language model. Add one with `maille models add FILE.gguf`."
        )
    if name is None:
        if len(names) > 1:
            raise UnknownModel(
                f"The mesh has several language models. Name one: {', '.join(names)}."
            )
        name = names[0]
    wanted, _, version = name.partition(":")
    found = [
        model for model in models if model.name == wanted and version in {"", str(model.version)}
    ]
    if found:
        return max(found, key=lambda model: model.version)
    near = get_close_matches(wanted, names, 3) or names
    raise UnknownModel(f"No language model is called {name!r}. There is {', '.join(near)}.")
