"""From logits to a token: the last stage's part of a generation.

A token is a function of the logits, the settings, the tokens before it and its position: the same
on any machine, bit for bit, and for a token that is sampled a second time after a node was lost.
Ties go to the lower token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log

import numpy as np
from numpy.typing import NDArray

from maille_node.language.errors import LogitsNotFinite, NothingAllowed, SettingsOutOfRange
from maille_node.language.randomness import random_64
from maille_node.language.settings import SamplingSettings
from maille_node.language.weights import ONE, Floats, Whole, weights_of

__all__ = ["Sampled", "TokenProbability", "sample"]

Logits = NDArray[np.float32]

_BLOCK = 256


@dataclass(frozen=True, slots=True)
class TokenProbability:
    """A token and the natural logarithm of its probability, to 6 digits after the point."""

    token: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Sampled:
    """A chosen token.

    Attributes:
        token: its number.
        logprob: of the model itself, before any setting; None if not asked for.
        top: the most probable tokens, best first; empty if not asked for.
    """

    token: int
    logprob: float | None = None
    top: tuple[TokenProbability, ...] = ()


def sample(
    logits: Logits,
    settings: SamplingSettings,
    position: int,
    tokens: Sequence[int] = (),
    prompt_length: int = 0,
    allowed: NDArray[np.bool_] | None = None,
) -> Sampled:
    """Choose a token.

    Args:
        logits: one for each token of the vocabulary, float32, (vocabulary,). Left as they are.
        settings: of the generation.
        position: of the token in the text, the prompt's tokens included. The randomness is that
            of (settings.seed, position).
        tokens: prompt and generated tokens so far; only penalties look at them.
        prompt_length: how many of `tokens` are the prompt.
        allowed: tokens that a constraint lets through, (vocabulary,).

    Raises:
        LogitsNotFinite: not a vector of float32, or a NaN or an infinity among them.
        NothingAllowed: no token is left.
        SettingsOutOfRange: a bias is on a token that the vocabulary does not have.
    """
    if logits.ndim != 1 or not logits.size or logits.dtype != np.float32:
        raise LogitsNotFinite(
            f"logits are one float32 for each token, not {logits.dtype} of shape {logits.shape}"
        )
    if not np.isfinite(logits).all():
        count = int(logits.size - np.isfinite(logits).sum())
        raise LogitsNotFinite(
            f"{count} of {logits.size} logits are not finite numbers: the stage that computed them "
            "cannot be trusted; run the token again on another node"
        )
    token = _choose(logits, settings, position, tokens, prompt_length, allowed)
    if settings.top_logprobs is None:
        return Sampled(token)
    return _with_probabilities(logits, token, settings.top_logprobs)


def _choose(
    logits: Logits,
    settings: SamplingSettings,
    position: int,
    tokens: Sequence[int],
    prompt_length: int,
    allowed: NDArray[np.bool_] | None,
) -> int:
    values: Logits | Floats = logits
    if settings.has_penalties or settings.logit_bias or allowed is not None:
        values = logits.astype(np.float64)
        _bias(values, settings)
        _penalise(values, settings, tokens, prompt_length)
    if allowed is not None:
        if allowed.shape != logits.shape:
            raise SettingsOutOfRange(
                f"the constraint is for {allowed.size} tokens, the model has {logits.size}"
            )
        values[~allowed] = -inf
    best = int(values.argmax())
    if values[best] == -inf:
        raise NothingAllowed(
            "the constraint leaves no token to continue with; change the schema or the bias"
        )
    if settings.greedy:
        return best
    return _draw(values, float(values[best]), settings, random_64(settings.seed, position))


def _bias(adjusted: Floats, settings: SamplingSettings) -> None:
    for token, bias in settings.logit_bias:
        if token >= adjusted.size:
            raise SettingsOutOfRange(
                f"logit_bias names token {token}; the model has {adjusted.size} tokens"
            )
        adjusted[token] += bias


def _penalise(
    adjusted: Floats, settings: SamplingSettings, tokens: Sequence[int], prompt_length: int
) -> None:
    if not settings.has_penalties or not tokens:
        return
    former = np.asarray(tokens, dtype=np.int64)
    if not 0 <= former.min() <= former.max() < adjusted.size:
        raise SettingsOutOfRange(
            f"the text has a token that is not one of the model's {adjusted.size}; was it cut into "
            "tokens for another model?"
        )
    if settings.repetition_penalty != 1:
        window = settings.repetition_window
        seen = np.unique(former if window < 0 else former[max(0, former.size - window) :])
        chosen = adjusted[seen]
        adjusted[seen] = np.where(
            chosen > 0, chosen / settings.repetition_penalty, chosen * settings.repetition_penalty
        )
    if settings.presence_penalty or settings.frequency_penalty:
        generated, counts = np.unique(former[prompt_length:], return_counts=True)
        adjusted[generated] -= settings.presence_penalty + settings.frequency_penalty * counts


def _draw(values: Logits | Floats, greatest: float, settings: SamplingSettings, chance: int) -> int:
    """A token by its probability, among those that the settings keep."""
    places: Whole | None = None
    if 0 < settings.top_k < values.size:
        places = _most(values, settings.top_k)
        values = values[places]
    weights = weights_of(values, greatest, settings.temperature)
    if settings.top_p < 1:
        kept = _nucleus(weights, settings.top_p)
        places = kept if places is None else places[kept]
        weights = weights[kept]
    if settings.min_p > 0:
        numerator, denominator = settings.min_p.as_integer_ratio()
        kept = np.flatnonzero(weights >= -(-numerator * ONE // denominator))
        places = kept if places is None else places[kept]
        weights = weights[kept]
    drawn = _at(weights, chance)
    return drawn if places is None else int(places[drawn])


def _at(weights: Whole, chance: int) -> int:
    """The place whose part of the summed weights `chance` / 2**64 falls into."""
    blocks = np.add.reduceat(weights, np.arange(0, weights.size, _BLOCK)).cumsum()
    target = int(blocks[-1]) * chance >> 64
    block = int(blocks.searchsorted(target, "right"))
    target -= int(blocks[block - 1]) if block else 0
    start = block * _BLOCK
    within = weights[start : start + _BLOCK].cumsum()
    return start + int(within.searchsorted(target, "right"))


def _most(values: Floats | Logits, count: int) -> Whole:
    """Places of the greatest values in rising order; of equal ones the first."""
    least = np.partition(values, values.size - count)[values.size - count]
    above = np.flatnonzero(values > least)
    equal = np.flatnonzero(values == least)[: count - above.size]
    return np.sort(np.concatenate((above, equal)))


def _nucleus(weights: Whole, share: float) -> Whole:
    """Places of the fewest greatest weights that sum up to a share, in rising order; at least one.

    Of equal weights the first count as greater.
    """
    total = int(weights.sum())
    numerator, denominator = share.as_integer_ratio()
    target = -(-numerator * total // denominator)
    # All weights below this together are less than what may be left out: no need to sort them.
    least = (total - target) // weights.size
    ordered = np.sort(weights[weights > least])[::-1]
    if not ordered.size:
        ordered = np.sort(weights)[::-1]
    enough = int(ordered.cumsum().searchsorted(max(target, 1), "left"))
    lowest = ordered[enough]
    above = np.flatnonzero(weights > lowest)
    equal = np.flatnonzero(weights == lowest)[: enough + 1 - above.size]
    return np.sort(np.concatenate((above, equal)))


def _with_probabilities(logits: Logits, token: int, count: int) -> Sampled:
    greatest = float(logits.max())
    total = int(weights_of(logits, greatest).sum())
    base = greatest + log(total / ONE)

    def probability(place: int) -> TokenProbability:
        return TokenProbability(place, round(float(logits[place]) - base, 6))

    places = _most(logits, min(count, logits.size)) if count else np.empty(0, dtype=np.int64)
    best = sorted((int(place) for place in places), key=lambda place: (-logits[place], place))
    return Sampled(token, probability(token).logprob, tuple(probability(place) for place in best))
