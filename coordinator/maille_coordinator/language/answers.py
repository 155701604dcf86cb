"""Answers as readers see them: tokens become text, are kept, and are read from any place."""

import asyncio
import json
from collections.abc import AsyncIterator

from maille_coordinator.language.records import SessionStart
from maille_coordinator.language.service import TextPiece, TokenPiece, Usage
from maille_coordinator.language.stopping import StopMatcher
from maille_coordinator.slices import TextStream, Tokenizer
from maille_protocol import Token

_MILLION = 1_000_000


class Answer:
    """One answer, from its first token to its end."""

    def __init__(
        self,
        response_id: str,
        tokenizer: Tokenizer,
        prompt_tokens: int,
        *,
        stops: tuple[str, ...] = (),
        logprobs: int | None = None,
        end_tokens: frozenset[int] = frozenset(),
        continues: bool = False,
        most_tokens: int = 0,
    ) -> None:
        self.response_id = response_id
        self.most_tokens = most_tokens
        """It has no more than these; 0: not known."""
        self.readers = 0
        self.pieces: list[TextPiece] = []
        """One for each token, and the last one."""
        self.ended = False
        self.ended_s = 0.0
        self.refusal: tuple[str, str] | None = None
        """Code and text, if it was not taken on."""
        self._tokenizer = tokenizer
        self._stream = TextStream(tokenizer, continues=continues)
        self._matcher = StopMatcher(stops)
        self._prompt_tokens = prompt_tokens
        self._count = 0
        self.cached_tokens = 0
        """Of the prompt, those whose caches an earlier session had left."""
        self._logprobs = logprobs
        self._end_tokens = end_tokens
        self._news = asyncio.Event()

    @property
    def count(self) -> int:
        """Tokens so far."""
        return self._count

    def add(self, token: Token) -> bool:
        """Take a token; whether a stop text is complete, so that no more are wanted."""
        if self.ended or self._matcher.stopped:
            return False
        self._count += 1
        is_end = token.token in self._end_tokens
        text = "" if is_end else self._matcher.add(self._stream.add(token.token))
        self._append(TextPiece(self.response_id, self._count, text, (self._piece(token),)))
        return self._matcher.stopped

    def end(self, finish: str, code: str, text: str, now_s: float) -> None:
        """No more tokens come."""
        if self.ended:
            return
        rest = "" if self._matcher.stopped else self._matcher.end(self._stream.end())
        self.ended = True
        self.ended_s = now_s
        self._append(
            TextPiece(
                self.response_id,
                self._count,
                rest,
                finish_reason=finish,
                usage=Usage(self._prompt_tokens, self._count, self._cached()),
                error=text if finish == "error" else "",
                error_code=code,
            )
        )

    def _cached(self) -> int:
        return min(self.cached_tokens, self._prompt_tokens)

    async def follow(self, from_index: int) -> AsyncIterator[TextPiece]:
        """The pieces after the first `from_index` tokens, those to come too."""
        at = from_index
        while True:
            while at < len(self.pieces):
                piece = self.pieces[at]
                at += 1
                yield piece
                if piece.finish_reason is not None:
                    return
            if self.ended:
                # Asked for from beyond its end: that it ended is all there is to tell.
                yield self.pieces[-1]
                return
            news = self._news
            await news.wait()

    def _append(self, piece: TextPiece) -> None:
        self.pieces.append(piece)
        # Everybody who waits has the old event; those who come wait for the next one.
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _piece(self, token: Token) -> TokenPiece:
        data = self._tokenizer.token_bytes(token.token, special=True)
        wanted = self._logprobs
        return TokenPiece(
            token.token,
            data.decode("utf-8", "replace"),
            data,
            None if wanted is None else token.logprob_ppm / _MILLION,
            ()
            if not wanted
            else tuple(
                (other, self._tokenizer.token_bytes(other, special=True), value / _MILLION)
                for other, value in token.top[:wanted]
            ),
        )


def answer_of(tokenizer: Tokenizer, start: SessionStart) -> Answer:
    """The answer to a generation, without tokens yet; ValueError for stop texts that cannot be."""
    extra = json.loads(start.extra)
    return Answer(
        start.session,
        tokenizer,
        len(start.prompt),
        stops=tuple(extra["stop"]),
        logprobs=extra["logprobs"],
        end_tokens=frozenset(start.end_tokens),
        most_tokens=start.max_tokens,
    )
