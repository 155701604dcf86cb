"""Reading answers with the times at which their tokens came, as a client sees them."""

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from maille.async_mesh import AsyncMesh
from maille.errors import MailleError
from maille.language_stream import Answer

__all__ = ["PREAMBLE", "Read", "common_rate", "long_answer", "random_tokens", "read", "steady_rate"]

PREAMBLE = 16
"""Tokens of the prompts before what is measured as decoding."""

# Below these lie the control tokens of every vocabulary, and no vocabulary is smaller.
_TOKENS = range(1000, 30_000)
_TRIES = 24


@dataclass(frozen=True, slots=True)
class Read:
    """One answer.

    Attributes:
        asked_s: when it was asked for, of `time.perf_counter`.
        arrivals: for each piece when it came, and how many tokens there were with it.
    """

    asked_s: float
    arrivals: tuple[tuple[float, int], ...]

    @property
    def tokens(self) -> int:
        """How many came."""
        return self.arrivals[-1][1] if self.arrivals else 0

    @property
    def first_s(self) -> float:
        """When the first came."""
        return self.arrivals[0][0]

    @property
    def last_s(self) -> float:
        """When the last came."""
        return self.arrivals[-1][0]

    def gaps_ms(self, start_s: float = 0.0, stop_s: float = float("inf")) -> list[float]:
        """Milliseconds between two pieces, of the gaps that touch the time from start to stop."""
        times = [at_s for at_s, _ in self.arrivals]
        return [
            1000 * (after_s - before_s)
            for before_s, after_s in itertools.pairwise(times)
            if after_s > start_s and before_s < stop_s
        ]


def random_tokens(seed: int, count: int) -> list[int]:
    """A prompt that no other prompt begins like, so that nothing of it is in a cache."""
    return random.Random(seed).choices(_TOKENS, k=count)


async def read(mesh: AsyncMesh, model: str, prompt: Sequence[int], max_tokens: int) -> Read:
    """Have an answer of the likeliest tokens made, and note when its tokens come.

    Raises:
        MailleError: of the mesh.
    """
    body = {"model": model, "prompt": list(prompt), "max_tokens": max_tokens, "temperature": 0}
    arrivals: list[tuple[float, int]] = []
    answer = Answer(mesh.http, "/v1/completions", body)
    asked_s = time.perf_counter()
    async with aclosing(answer.pieces()) as pieces:
        async for piece in pieces:
            now_s = time.perf_counter()
            # The last piece, which carries the end only, brings no token.
            if not arrivals or piece.index > arrivals[-1][1]:
                arrivals.append((now_s, piece.index))
    return Read(asked_s, tuple(arrivals))


async def long_answer(
    mesh: AsyncMesh, model: str, seed: int, max_tokens: int, *, sessions: int = 1
) -> list[Read]:
    """Several answers at once that all go on for `max_tokens` tokens; drawn anew if one ends.

    Raises:
        MailleError: the model ends every answer early.
    """
    for attempt in range(_TRIES):
        prompts = [
            random_tokens((seed * _TRIES + attempt) * sessions + number, PREAMBLE)
            for number in range(sessions)
        ]
        found = await asyncio.gather(*(read(mesh, model, prompt, max_tokens) for prompt in prompts))
        # A few of the last tokens may be the halves of characters that never came together.
        if all(answer.tokens >= 0.9 * max_tokens for answer in found):
            return found
    raise MailleError(
        f"{model} ended every one of {_TRIES} answers before {max_tokens} tokens; ask for fewer "
        "with --decode"
    )


def steady_rate(answer: Read) -> float:
    """Tokens a second from the first token to the last."""
    (first_s, before), (last_s, after) = answer.arrivals[0], answer.arrivals[-1]
    return (after - before) / (last_s - first_s)


def common_rate(answers: Sequence[Read]) -> float:
    """Tokens a second of all answers together while every one of them was going on."""
    start_s = max(answer.first_s for answer in answers)
    stop_s = min(answer.last_s for answer in answers)
    if stop_s <= start_s:
        return 0.0
    return sum(_tokens_at(answer, stop_s) - _tokens_at(answer, start_s) for answer in answers) / (
        stop_s - start_s
    )


def _tokens_at(answer: Read, at_s: float) -> int:
    return max((count for when_s, count in answer.arrivals if when_s <= at_s), default=0)
