"""What `maille bench llm` makes of what it hears; the real thing is in tests/end_to_end."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from language_standin import LanguageStandIn, language_stand_in
from scripted_language import WORDS

from maille import AsyncMesh, MailleError
from maille.bench.language import Decoding, LanguagePlan, LanguageReport, LanguageRound
from maille.bench.memory import StageMemory
from maille.bench.streams import (
    Read,
    common_rate,
    long_answer,
    random_tokens,
    read,
    steady_rate,
)
from maille.bench.wire import Hops
from maille.cli.bench_language import show_language
from maille_broker import Message
from maille_protocol import Activation, ActivationKind, Finish, Tokens, pack

# Asked for at 10 s; a token every quarter of a second, then one late.
STEADY = Read(10.0, ((10.5, 1), (10.75, 2), (11.0, 3), (12.0, 4)))
LATER = Read(10.0, ((10.75, 2), (11.0, 4), (11.5, 8)))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageStandIn]:
    with language_stand_in(tmp_path_factory.mktemp("mesh")) as mesh:
        yield mesh


def test_gaps_are_those_that_touch_the_time() -> None:
    assert STEADY.gaps_ms() == [250, 250, 1000]
    assert STEADY.gaps_ms(10.8, 10.9) == [250]
    assert STEADY.gaps_ms(10.9, 11.5) == [250, 1000]
    assert not STEADY.gaps_ms(13.0, 14.0)


def test_rates() -> None:
    assert steady_rate(STEADY) == 3 / 1.5
    # From 10.75 s, when both had begun, to 11.5 s, when one had its last: 1 token and 6.
    assert common_rate([STEADY, LATER]) == 7 / 0.75
    assert common_rate([STEADY, Read(20.0, ((20.0, 1), (21.0, 2)))]) == 0


def test_no_prompt_begins_like_another() -> None:
    assert random_tokens(1, 16) == random_tokens(1, 16)
    assert len({random_tokens(seed, 16)[0] for seed in range(50)}) > 45


@pytest.mark.broker
def test_reading_counts_tokens_and_not_the_end(running: LanguageStandIn) -> None:
    async def work() -> Read:
        async with AsyncMesh(running.http_url) as mesh:
            return await read(mesh, "story", [1, 2, 3], 3)

    found = asyncio.run(work())
    assert [count for _, count in found.arrivals] == [1, 2, 3]
    assert found.asked_s < found.first_s <= found.last_s
    assert found.tokens == 3


@pytest.mark.broker
def test_answers_that_end_early_are_drawn_anew_and_then_given_up(
    running: LanguageStandIn,
) -> None:
    async def work() -> list[Read]:
        async with AsyncMesh(running.http_url) as mesh:
            two = await long_answer(mesh, "story", 1, 4, sessions=2)
            with pytest.raises(MailleError, match="--decode"):
                await long_answer(mesh, "story", 1, 10 * len(WORDS))
            return two

    running.language.answers.clear()
    assert [one.tokens for one in asyncio.run(work())] == [4, 4]
    prompts = [found.request.prompt for found in running.language.answers.values()]
    assert len(set(map(str, prompts))) == len(prompts) == 26


def test_bytes_of_a_hop_are_what_stands_around_the_values() -> None:
    def message(kind: ActivationKind, count: int, data: bytes) -> Message:
        activation = Activation(7, 1, 3, 1, 40, count, kind, 1, 0, 0, 1, data)
        return Message("topic", pack(activation, boot=1 << 62, seq=9, epoch=0), retain=False)

    hops = Hops()
    token = message(ActivationKind.TOKEN, 1, bytes(4))
    hops.heard(
        [
            message(ActivationKind.HIDDEN, 1, bytes(4 * 576)),
            message(ActivationKind.HIDDEN, 5, bytes(5 * 4 * 576)),
            token,
            Message("topic", b"noise", retain=False),
            Message(
                "topic",
                pack(Tokens(7, 3, 1, (), Finish.NONE), boot=1, seq=2, epoch=0),
                retain=False,
            ),
        ]
    )
    assert hops.hidden_size == 576
    assert hops.hidden.total() == 1
    assert 0 < hops.most_overhead_bytes <= 64
    assert hops.token == {len(token.payload): 1}


def report() -> LanguageReport:
    usual = Decoding(8.0, 9.0, 12.0, 40.0, 58.0)
    each = LanguageRound(120.0, 700.0, 100.0, 900.0, 180.0, usual, usual)
    return LanguageReport(
        LanguagePlan(Path("model.gguf"), repeats=1),
        *(120.0, 700.0, 100.0, 900.0, 180.0, 1.8, 50.0, 50.0),
        hidden_size=576,
        hop_overhead_bytes=40,
        memory=(StageMemory("n1", 0, 9, 60_000_000, 8_000_000, 170_000_000),),
        rounds=(each,),
    )


def test_the_report_is_json_and_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(json.dumps(report().to_dict()))
    assert found["plan"]["model"] == "model.gguf"
    assert found["memory"][0]["beside_bytes"] == 102_000_000
    assert report().rounds[0].nodes.held_up_ms == 50
    show_language(report())
    text = capsys.readouterr().out
    for figure in ("120.0", "180.0 (1.80 x)", "0-9", "102", "2304", "40 more"):
        assert figure in text
