"""The last stage's part of a session: known tokens, the next one, and whether it is the end."""

from dataclasses import dataclass, field

import numpy as np

from maille_node.language.sampling import Sampled
from maille_node.language.settings import SamplingSettings
from maille_node.language.stage_events import SampleAt
from maille_protocol import Finish, Grammar, Sampling, Token

__all__ = ["Answer", "settings_of", "token_of", "uint32s"]

_MILLION = 1_000_000


def uint32s(data: bytes) -> list[int]:
    """Numbers from uint32 little-endian."""
    values: list[int] = np.frombuffer(data, "<u4").tolist()
    return values


def settings_of(sampling: Sampling) -> SamplingSettings:
    """What the wire says in millionths.

    Raises:
        SettingsOutOfRange: a setting is out of its range.
    """
    return SamplingSettings(
        temperature=sampling.temperature_ppm / _MILLION,
        top_k=sampling.top_k,
        top_p=sampling.top_p_ppm / _MILLION,
        min_p=sampling.min_p_ppm / _MILLION,
        repetition_penalty=sampling.repetition_ppm / _MILLION,
        repetition_window=sampling.repetition_window,
        presence_penalty=sampling.presence_ppm / _MILLION,
        frequency_penalty=sampling.frequency_ppm / _MILLION,
        logit_bias=tuple((token, bias / _MILLION) for token, bias in sampling.logit_bias),
        seed=sampling.seed,
        top_logprobs=sampling.top_logprobs or None,
    )


def token_of(sampled: Sampled) -> Token:
    """A chosen token as the wire says it."""
    return Token(
        sampled.token,
        0 if sampled.logprob is None else round(sampled.logprob * _MILLION),
        tuple((found.token, round(found.logprob * _MILLION)) for found in sampled.top),
    )


@dataclass(slots=True)
class Answer:
    """What the last stage knows of a session.

    Attributes:
        settings: how tokens are chosen; None until that is told.
        capacity: positions of the session's cache.
        end_tokens: any of them ends the answer.
        prompt_length: positions before the answer.
        stop: the position at which the answer has its most tokens.
        grammar: what the answer follows, None for anything.
        tokens: all that are known, by position, without a gap from position 0 on.
        records: of the tokens chosen here, by position.
        finish: how it ended, NONE while it goes on.
    """

    settings: SamplingSettings | None
    capacity: int
    end_tokens: frozenset[int] = frozenset()
    prompt_length: int = 0
    stop: int = 0
    grammar: Grammar | None = None
    tokens: list[int] = field(default_factory=list)
    records: dict[int, Token] = field(default_factory=dict)
    finish: Finish = Finish.NONE

    def learn(self, position: int, tokens: list[int]) -> None:
        """Take tokens that the coordinator knows; none may be missing before them."""
        if self.tokens[position : position + len(tokens)] == tokens:
            return
        self._forget(position)
        self.tokens += tokens

    def wanted(self, position: int) -> SampleAt | None:
        """What to ask for at a position; None if settings or tokens are missing that it needs."""
        if self.settings is None:
            return None
        if not self.settings.has_penalties and self.grammar is None:
            return SampleAt(self.settings, position, (), 0)
        if len(self.tokens) < position:
            return None
        known = tuple(self.tokens[:position])
        return SampleAt(self.settings, position, known, self.prompt_length, self.grammar)

    def chosen(self, position: int, token: Token) -> Finish:
        """Keep the token chosen for a position; whether it ends the answer."""
        if self.tokens[position : position + 1] != [token.token]:
            self._forget(position)
        if len(self.tokens) == position:
            self.tokens.append(token.token)
        self.records[position] = token
        if token.token in self.end_tokens:
            self.finish = Finish.END
        elif position + 1 >= self.stop or position >= self.capacity:
            self.finish = Finish.LENGTH
        else:
            self.finish = Finish.NONE
        return self.finish

    def from_position(self, position: int) -> tuple[int, tuple[Token, ...]]:
        """The tokens chosen here from a position on without a gap, and where they begin."""
        start = min((at for at in self.records if at >= position), default=position)
        stop = start
        while stop in self.records:
            stop += 1
        return start, tuple(self.records[at] for at in range(start, stop))

    def _forget(self, position: int) -> None:
        del self.tokens[position:]
        for at in [at for at in self.records if at >= position]:
            del self.records[at]
