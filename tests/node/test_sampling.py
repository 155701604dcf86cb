"""Sampling against plain reference arithmetic, and values that must never change."""

import hashlib
from decimal import Decimal
from fractions import Fraction
from math import exp, inf, log, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from maille_node.language import (
    LogitsNotFinite,
    NothingAllowed,
    SamplingSettings,
    SettingsOutOfRange,
    random_64,
    sample,
    spread_seed,
)
from maille_node.language.randomness import philox
from maille_node.language.weights import ONE, weights_of

Logits = NDArray[np.float32]
GREEDY = SamplingSettings(temperature=0)
PINNED = [
    (SamplingSettings(seed=1), [877, 868, 474, 33, 616, 265, 143, 403]),
    (SamplingSettings(0.3, top_p=0.9, seed=2), [457, 265, 997, 548, 33, 87, 332, 87]),
    (SamplingSettings(1.5, 40, min_p=0.02, seed=3), [204, 457, 783, 226, 448, 226, 389, 244]),
]
FULL = 0xFFFFFFFF


def logits_of(*values: float) -> Logits:
    return np.array(values, dtype=np.float32)


def steps(count: int, seed: int) -> Logits:
    """Logits from whole-number arithmetic: the same everywhere."""
    values = [(random_64(seed, place) >> 40) / 2**20 - 8 for place in range(count)]
    return np.array(values, dtype=np.float32)


def reference(logits: Logits, wish: SamplingSettings, position: int) -> int:
    """Fractions and sorting, one rule after the other."""
    values = [float(value) for value in logits]
    order = sorted(range(len(values)), key=lambda place: (-values[place], place))
    if wish.top_k:
        order = order[: wish.top_k]
    best = logits.max()
    # The planned weights: that they are the right ones is tested below.
    weights = {
        place: int(weight)
        for place, weight in enumerate(weights_of(logits, float(best), wish.temperature))
    }
    order = sorted(order, key=lambda place: (-weights[place], place))
    total = sum(weights[place] for place in order)
    if wish.top_p < 1:
        kept, reached = [], 0
        for place in order:
            kept.append(place)
            reached += weights[place]
            if reached >= Fraction(wish.top_p) * total:
                break
        order = kept
    order = [place for place in order if weights[place] >= Fraction(wish.min_p) * ONE]
    total = sum(weights[place] for place in order)
    chance = Fraction(random_64(wish.seed, position), 2**64)
    reached = 0
    for place in sorted(order):
        reached += weights[place]
        if reached > chance * total:
            return place
    raise AssertionError("the shares do not sum up to 1")


# Random123's own known answers for philox4x32-10.
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((FULL,) * 4, (FULL,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_the_generator_gives_the_published_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    assert philox(counter, key) == expected


def test_random_bits_depend_on_seed_and_position_alone() -> None:
    assert random_64(0, 0) == 0xE169C58D6627E8D5
    assert len({random_64(seed, place) for seed in range(50) for place in range(50)}) == 2500
    assert random_64(-1, 3) == random_64(2**64 - 1, 3)
    assert spread_seed(7, 0) == 7
    assert len({spread_seed(7, choice) for choice in range(100)}) == 100


def test_values_that_must_never_change() -> None:
    logits = steps(1000, 11)
    digest = hashlib.sha256(weights_of(logits, float(logits.max()), 0.7).tobytes()).hexdigest()
    assert digest == "b6c4384c9749b8bde22663eb9868925e0a9c2fb05863c8cc015218874c7870f4"
    for wish, tokens in PINNED:
        assert [sample(logits, wish, position).token for position in range(8)] == tokens


@given(
    st.lists(st.floats(-60, 0, width=32), min_size=1, max_size=40),
    st.floats(0.05, 20, allow_nan=False),
)
def test_weights_are_exponentials(values: list[float], temperature: float) -> None:
    logits = np.array([*values, 0.0], dtype=np.float32)
    weights = weights_of(logits, 0.0, temperature)
    assert weights[-1] == ONE
    for value, weight in zip(logits, weights, strict=True):
        exact = (Decimal(float(value)) / Decimal(temperature)).exp() * ONE
        assert abs(int(weight) - exact) <= 1 + exact * Decimal("1e-9")


@settings(max_examples=300, deadline=None)
@given(
    values=st.lists(st.integers(-24, 24).map(lambda n: n / 4), min_size=1, max_size=30),
    temperature=st.sampled_from((0.1, 0.7, 1.0, 5.0)),
    top_k=st.integers(0, 31),
    top_p=st.sampled_from((0.0, 0.1, 0.5, 0.9, 0.999, 1.0)),
    min_p=st.sampled_from((0.0, 0.05, 0.5, 1.0)),
    seed=st.integers(0, 2**64 - 1),
    position=st.integers(0, 10_000),
)
def test_sampling_is_the_reference(
    values: list[float],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    seed: int,
    position: int,
) -> None:
    wish = SamplingSettings(temperature, top_k, top_p, min_p, seed=seed)
    logits = logits_of(*values)
    expected = int(logits.argmax()) if top_k == 1 else reference(logits, wish, position)
    assert sample(logits, wish, position).token == expected


@pytest.mark.parametrize("size", [1, 255, 256, 257, 8191, 8192, 8193, 20_000])
@pytest.mark.parametrize(
    "wish",
    [
        SamplingSettings(seed=3),
        SamplingSettings(temperature=50, seed=3),
        SamplingSettings(top_p=0.97, seed=3),
        SamplingSettings(top_k=300, min_p=0.001, seed=3),
    ],
)
def test_vocabularies_of_any_size(size: int, wish: SamplingSettings) -> None:
    logits = steps(size, 5)
    for position in range(5):
        assert sample(logits, wish, position).token == reference(logits, wish, position)


def test_tokens_come_as_often_as_they_are_probable() -> None:
    shares = [0.5, 0.25, 0.15, 0.07, 0.03]
    logits = logits_of(*(log(share) for share in shares))
    draws = 8000
    counts = [0] * 5
    for position in range(draws):
        counts[sample(logits, SamplingSettings(seed=9), position).token] += 1
    chi_squared = sum(
        (count - share * draws) ** 2 / (share * draws)
        for count, share in zip(counts, shares, strict=True)
    )
    assert chi_squared < 18.5  # 4 degrees of freedom, 1 in 1000


def test_equal_logits_go_to_the_lower_token() -> None:
    logits = logits_of(1, 3, 3, 2, 3)
    assert sample(logits, GREEDY, 0).token == 1
    assert sample(logits, SamplingSettings(top_k=1), 0).token == 1
    kept = {sample(logits, SamplingSettings(top_k=2), place).token for place in range(60)}
    assert kept == {1, 2}
    kept = {sample(logits, SamplingSettings(top_p=0.5), place).token for place in range(60)}
    assert kept == {1, 2}


def test_repetition_penalty_divides_what_is_positive_and_multiplies_what_is_not() -> None:
    logits = logits_of(4, 3, -2, -2.5)
    twice = SamplingSettings(temperature=0, repetition_penalty=2)
    assert sample(logits, twice, 0, [0]).token == 1
    assert sample(logits, twice, 0, [0, 0, 1]).token == 0
    bias = SamplingSettings(
        temperature=0, repetition_penalty=2, logit_bias=((0, -50), (1, -50)), repetition_window=2
    )
    assert sample(logits, bias, 0).token == 2
    assert sample(logits, bias, 0, [2, 9 % 4]).token == 3
    # Out of the window of two.
    assert sample(logits, bias, 0, [2, 0, 1]).token == 2


def test_presence_and_frequency_count_generated_tokens_only() -> None:
    logits = logits_of(4, 3, 2.5)
    presence = SamplingSettings(temperature=0, presence_penalty=1.25)
    assert sample(logits, presence, 0, [0, 0], prompt_length=2).token == 0
    assert sample(logits, presence, 0, [0], prompt_length=0).token == 1
    frequency = SamplingSettings(temperature=0, frequency_penalty=0.4)
    assert sample(logits, frequency, 0, [0, 0]).token == 0
    assert sample(logits, frequency, 0, [0, 0, 0]).token == 1
    assert sample(logits, frequency, 0, [0, 0, 0], prompt_length=1).token == 0


def test_bias_forces_and_forbids() -> None:
    logits = logits_of(4, 3, 2)
    assert sample(logits, SamplingSettings(temperature=0, logit_bias=((2, 100),)), 0).token == 2
    forbidden = SamplingSettings(logit_bias=((0, -100), (1, -100)))
    assert {sample(logits, forbidden, place).token for place in range(50)} == {2}
    with pytest.raises(SettingsOutOfRange, match="token 3; the model has 3"):
        sample(logits, SamplingSettings(logit_bias=((3, 1),)), 0)


def test_a_constraint_is_never_left() -> None:
    logits = logits_of(9, 1, 0, 5)
    allowed = np.array([False, True, True, False])
    assert sample(logits, GREEDY, 0, allowed=allowed).token == 1
    for wish in (SamplingSettings(), SamplingSettings(top_k=3), SamplingSettings(top_p=0.99)):
        assert {sample(logits, wish, p, allowed=allowed).token for p in range(60)} <= {1, 2}
    with pytest.raises(NothingAllowed, match="no token to continue"):
        sample(logits, GREEDY, 0, allowed=np.zeros(4, dtype=bool))
    with pytest.raises(SettingsOutOfRange, match="is for 3 tokens"):
        sample(logits, GREEDY, 0, allowed=np.ones(3, dtype=bool))


def test_a_token_of_another_model_is_refused_where_it_would_be_looked_up() -> None:
    wish = SamplingSettings(repetition_penalty=1.1)
    for token in (4, -1):
        with pytest.raises(SettingsOutOfRange, match="another model"):
            sample(logits_of(1, 2, 3, 4), wish, 0, [token])


@pytest.mark.parametrize("wrong", [nan, inf, -inf])
@pytest.mark.parametrize("wish", [GREEDY, SamplingSettings()])
def test_logits_that_are_no_numbers_are_an_error(wrong: float, wish: SamplingSettings) -> None:
    with pytest.raises(LogitsNotFinite, match="1 of 3 logits are not finite"):
        sample(logits_of(0, wrong, 1), wish, 0)


def test_logits_of_a_wrong_form_are_an_error() -> None:
    for wrong in (np.zeros((1, 4), np.float32), np.zeros(4), np.zeros(0, np.float32)):
        with pytest.raises(LogitsNotFinite, match="one float32 for each token"):
            sample(wrong, GREEDY, 0)  # type: ignore[arg-type]


def test_extreme_logits_and_temperatures_stay_in_range() -> None:
    logits = logits_of(3.4e38, -3.4e38, 3.4e38, 0)
    for temperature in (1e-6, 1.0, 100.0):
        wish = SamplingSettings(temperature=temperature)
        assert {sample(logits, wish, place).token for place in range(40)} == {0, 2}


def test_logits_are_left_as_they_are() -> None:
    logits = steps(500, 1)
    before = logits.copy()
    wish = SamplingSettings(
        0.8, 50, 0.9, 0.01, repetition_penalty=1.3, logit_bias=((3, 2.0),), top_logprobs=3
    )
    sample(logits, wish, 4, [1, 2, 3])
    assert np.array_equal(logits, before)


def test_log_probabilities_are_the_models_own() -> None:
    values = [2.0, 0.5, -1.0, 2.0]
    total = sum(exp(value) for value in values)
    wish = SamplingSettings(temperature=0, logit_bias=((2, 50.0),), top_logprobs=3)
    chosen = sample(logits_of(*values), wish, 0)
    assert chosen.token == 2
    assert chosen.logprob == pytest.approx(-1.0 - log(total), abs=2e-6)
    assert [item.token for item in chosen.top] == [0, 3, 1]
    assert chosen.top[2].logprob == pytest.approx(0.5 - log(total), abs=2e-6)
    assert sample(logits_of(*values), SamplingSettings(top_logprobs=0), 0).top == ()
    assert sample(logits_of(*values), GREEDY, 0).logprob is None
    short = sample(logits_of(1, 2), SamplingSettings(top_logprobs=20), 0)
    assert len(short.top) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": nan},
        {"top_k": -1},
        {"top_p": 1.01},
        {"min_p": -0.1},
        {"repetition_penalty": 0},
        {"repetition_window": -2},
        {"presence_penalty": 2.5},
        {"frequency_penalty": -3},
        {"logit_bias": ((1, 101.0),)},
        {"logit_bias": ((-1, 1.0),)},
        {"logit_bias": tuple((token, 1.0) for token in range(3000))},
        {"seed": 2**64},
        {"top_logprobs": 21},
    ],
)
def test_settings_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsOutOfRange, match=next(iter(wrong))):
        SamplingSettings(**wrong)  # type: ignore[arg-type]
