"""How the tokens of one generation are chosen."""

from dataclasses import dataclass
from math import isfinite

from maille_node.language.errors import SettingsOutOfRange

__all__ = ["MOST_TOP_LOGPROBS", "SamplingSettings"]

MOST_TOP_LOGPROBS = 20
_MOST_BIASES = 2048
_COLDEST = 1e-6


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """Settings of a generation.

    Names and meanings are those of the OpenAI API, and llama.cpp's for what that does not have.
    Applied in this order: `logit_bias`, `repetition_penalty`, `presence_penalty` and
    `frequency_penalty`, the constraint, `temperature`, `top_k`, `top_p`, `min_p`.

    Attributes:
        temperature: divides the logits; 0 (or below 1e-6) for the most probable token (greedy).
        top_k: keep so many of the most probable tokens; 0 for all.
        top_p: keep the fewest of the most probable tokens that have this share together.
        min_p: keep tokens with at least this share of the most probable one's probability.
        repetition_penalty: a logit of a token in the window is divided by it if positive, else
            multiplied.
        repetition_window: how many last tokens, of the prompt too, that looks at; -1 for all.
        presence_penalty: taken off the logit of each token generated so far.
        frequency_penalty: taken off for each time it was.
        logit_bias: (token, added to its logit); -100 forbids it and 100 forces it.
        seed: of the randomness; a token depends on seed and position, not on who computes it.
        top_logprobs: how many of the most probable tokens to report, None for no probabilities.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_window: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0
    top_logprobs: int | None = None

    def __post_init__(self) -> None:
        _between("temperature", self.temperature, 0, 100)
        _between("top_k", self.top_k, 0, 2**31)
        _between("top_p", self.top_p, 0, 1)
        _between("min_p", self.min_p, 0, 1)
        _between("repetition_penalty", self.repetition_penalty, 0.01, 100)
        _between("repetition_window", self.repetition_window, -1, 2**31)
        _between("presence_penalty", self.presence_penalty, -2, 2)
        _between("frequency_penalty", self.frequency_penalty, -2, 2)
        _between("seed", self.seed, -(2**63), 2**64 - 1)
        if self.top_logprobs is not None:
            _between("top_logprobs", self.top_logprobs, 0, MOST_TOP_LOGPROBS)
        if len(self.logit_bias) > _MOST_BIASES:
            raise SettingsOutOfRange(
                f"logit_bias has {len(self.logit_bias)} tokens; give at most {_MOST_BIASES}"
            )
        for token, bias in self.logit_bias:
            _between("a token of logit_bias", token, 0, 2**31)
            _between(f"logit_bias of token {token}", bias, -100, 100)

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken, without chance."""
        return self.temperature < _COLDEST or self.top_k == 1

    @property
    def has_penalties(self) -> bool:
        """Whether earlier tokens matter."""
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
        )


def _between(name: str, value: float, least: float, most: float) -> None:
    if not (isfinite(value) and least <= value <= most):
        raise SettingsOutOfRange(f"{name} is {value}; it is a number from {least} to {most}")
