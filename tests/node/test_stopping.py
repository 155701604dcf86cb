"""Ends of generations, whatever pieces their text comes in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maille_node.language import SettingsOutOfRange, StopMatcher, StopReason

STOPS = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)


def run(pieces: list[str], stops: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    shown = ""
    for piece in pieces:
        step = matcher.add(0, piece)
        shown += step.text
        if step.reason is not None:
            return shown + matcher.finish("ignored"), step.matched
    return shown + matcher.finish(), None


@given(st.lists(st.text("abc\n", max_size=6), max_size=12), STOPS)
def test_the_answer_does_not_depend_on_the_pieces(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    assert run(pieces, stops) == run(list(text), stops)
    first = next(
        (
            (text[:end], stop)
            for end in range(len(text) + 1)
            for stop in sorted(stops, key=len, reverse=True)
            if text[:end].endswith(stop)
        ),
        None,
    )
    expected = (text, None) if first is None else (first[0].removesuffix(first[1]), first[1])
    assert run(pieces, stops) == expected


@given(st.lists(st.text("abc\n", max_size=4), max_size=12), STOPS)
def test_no_more_is_held_back_than_may_begin_a_stop_string(
    pieces: list[str], stops: list[str]
) -> None:
    matcher = StopMatcher(stops)
    taken = shown = ""
    for piece in pieces:
        taken += piece
        step = matcher.add(0, piece)
        shown += step.text
        if step.reason is not None:
            return
        assert taken.startswith(shown)
        held = taken[len(shown) :]
        assert not held or any(stop.startswith(held) for stop in stops)


def test_an_end_token_lets_out_what_was_held() -> None:
    matcher = StopMatcher(["END"], end_tokens=[2])
    assert matcher.add(5, "the EN").text == "the "
    step = matcher.add(2, "")
    assert (step.text, step.reason, step.matched) == ("EN", StopReason.STOP, None)
    assert matcher.finished
    with pytest.raises(RuntimeError, match="has ended"):
        matcher.add(5, "x")


def test_the_last_token_wished_for_is_part_of_the_answer() -> None:
    matcher = StopMatcher(["END"], max_tokens=2)
    assert matcher.add(5, "a E").reason is None
    step = matcher.add(5, "N")
    assert (step.text, step.reason) == ("EN", StopReason.LENGTH)
    assert matcher.finish("\ufffd") == "\ufffd"


def test_a_stop_string_in_the_last_token_counts_before_the_length() -> None:
    step = StopMatcher(["END"], max_tokens=1).add(5, "a END b")
    assert (step.text, step.reason, step.matched) == ("a ", StopReason.STOP, "END")


def test_a_stop_string_may_be_completed_by_what_the_decoder_held() -> None:
    matcher = StopMatcher(["E\ufffd"])
    assert matcher.add(5, "aE").text == "a"
    assert matcher.finish("\ufffd") == ""


@pytest.mark.parametrize("stops", [[""], ["x" * 513], ["a"] * 17])
def test_stop_strings_out_of_range_are_refused(stops: list[str]) -> None:
    with pytest.raises(SettingsOutOfRange, match="stop string"):
        StopMatcher(stops)
    with pytest.raises(SettingsOutOfRange, match="max_tokens"):
        StopMatcher(max_tokens=0)
