"""Parts of the language models' shell: stop texts, answers, slices in the store, the journal."""

import asyncio
import sqlite3
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import given
from hypothesis import strategies as some
from tiny_gguf import TinyModel, write_tiny

from maille_coordinator.language.answers import Answer
from maille_coordinator.language.records import (
    RingKept,
    SessionEnd,
    SessionStart,
    SessionTokens,
    StagesHeld,
)
from maille_coordinator.language.service import TextPiece
from maille_coordinator.language.slice_files import SliceFiles
from maille_coordinator.language.stopping import StopMatcher
from maille_coordinator.models import ArtefactStore, InspectionError, inspect_model
from maille_coordinator.slices import Tokenizer, read_model
from maille_coordinator.slices.gguf_reader import QuickReader
from maille_coordinator.store import JournalConflict, Store
from maille_coordinator.store.schema import SESSION_TABLES, TABLES
from maille_protocol import ModelFormat, Sampling, Token

RING = (("b", 0, 1), ("a", 2, 3))
START = SessionStart(
    "gen-1",
    "tiny",
    1,
    (1, 2, 3),
    Sampling(temperature_ppm=700_000, seed=2**63 + 5, logit_bias=((7, -5_000_000),)),
    20,
    (0, 9),
    1_000,
    '{"stop": ["x"], "logprobs": 2}',
)


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_tiny(path, TinyModel())
    return path


@given(
    text=some.text("abc", max_size=20),
    stops=some.lists(some.text("abc", min_size=1, max_size=4), max_size=3),
    cuts=some.lists(some.integers(0, 20)),
)
def test_a_stop_text_is_found_however_the_answer_is_cut(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    ends = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    expected = text[: min(ends)[1]] if ends else text
    matcher = StopMatcher(stops)
    borders = [0, *sorted(cut for cut in cuts if cut <= len(text)), len(text)]
    pieces = [text[a:b] for a, b in pairwise(borders)]
    given_out = "".join(map(matcher.add, pieces)) + ("" if matcher.stopped else matcher.end())
    assert given_out == expected
    assert matcher.stopped == bool(ends)


@pytest.mark.parametrize("stops", [("",), ("x" * 513,), ("a",) * 17])
def test_stop_texts_have_limits(stops: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="stop text"):
        StopMatcher(stops)


def test_an_answer_is_read_from_any_token_on(model_file: Path) -> None:
    async def scenario() -> None:
        tokenizer = Tokenizer(read_model(model_file).vocabulary)
        answer = Answer("r", tokenizer, 3, stops=("END",), logprobs=1)
        tokens = tokenizer.encode("caf\u00e9 and more END never", add_bos=False)
        readers = [asyncio.create_task(read(answer, index)) for index in (0, 2)]
        await asyncio.sleep(0)
        stopped = False
        for token in tokens:
            if stopped:
                break
            stopped = answer.add(Token(token, -500_000, ((token, -500_000), (5, -900_000))))
        assert stopped
        answer.end("stop", "", "", 0.0)
        whole, rest = [await reader for reader in readers]
        assert "".join(piece.text for piece in whole) == "caf\u00e9 and more "
        assert [piece.index for piece in rest] == [piece.index for piece in whole[2:]]
        assert rest == whole[2:] == await read(answer, 2)
        last = whole[-1]
        assert last.finish_reason == "stop"
        assert last.usage is not None
        assert last.usage.prompt_tokens == 3
        assert last.usage.answer_tokens == len(whole) - 1
        assert whole[0].tokens[0].logprob == -0.5
        assert len(whole[0].tokens[0].top) == 1

    async def read(answer: Answer, index: int) -> list[TextPiece]:
        return [piece async for piece in answer.follow(index)]

    asyncio.run(scenario())


def test_a_slice_is_cut_once_and_kept(model_file: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        store = ArtefactStore(tmp_path / "artefacts", 1 << 30, 1 << 30)
        model = read_model(model_file)
        files = SliceFiles(store, tmp_path / "slices.json")
        first = await files.cut(model, b"m" * 32, 0, 1, with_ends=True)
        info = store.info(first.sha256.hex())
        assert info is not None
        assert info.expires_at_unix_s is None
        assert info.size_bytes == first.size_bytes
        written_ns = store.path(info.sha256).stat().st_mtime_ns
        again = SliceFiles(
            ArtefactStore(tmp_path / "artefacts", 1 << 30, 1 << 30), tmp_path / "slices.json"
        )
        assert await again.cut(model, b"m" * 32, 0, 1, with_ends=True) == first
        assert store.path(info.sha256).stat().st_mtime_ns == written_ns
        assert await again.cut(model, b"m" * 32, 1, 1, with_ends=False) != first
        files.forget(b"m" * 32)
        released = store.info(info.sha256)
        assert released is not None
        assert released.expires_at_unix_s is not None
        assert not list(store.scratch.iterdir())

    asyncio.run(scenario())


def test_the_quick_reader_gives_what_the_library_gives(model_file: Path, tmp_path: Path) -> None:
    plain, quick = GGUFReader(model_file), QuickReader(model_file)
    assert any(len(field.data) > 100 for field in plain.fields.values())
    for name, field in plain.fields.items():
        assert quick.fields[name].contents() == field.contents(), name
        assert quick.fields[name].types == field.types
    for ours, theirs in zip(quick.tensors, plain.tensors, strict=True):
        assert (ours.name, ours.tensor_type) == (theirs.name, theirs.tensor_type)
        assert np.array_equal(ours.data, theirs.data)
    # A list that claims more than the file holds is refused before anything is made of it.
    data = bytearray(model_file.read_bytes())
    at = data.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 8
    data[at : at + 8] = (1 << 60).to_bytes(8, "little")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(data)
    with pytest.raises(ValueError, match="a list ends at byte"):
        QuickReader(broken)


def test_the_journal_brings_generations_back(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    tokens = (Token(5, -1, ((5, -1), (6, -2))), Token(6))
    end = SessionEnd("gen-2", "error", "cache_too_small", "why", 2_000)
    with Store(path) as store:
        store.commit_sessions([START, SessionTokens("gen-1", 0, tokens)])
        store.commit_sessions([SessionTokens("gen-1", 2, (Token(7),))])
        other = SessionStart("gen-2", "tiny", 1, (4,), Sampling(), 3, (), 1_500)
        store.commit_sessions([other, end])
        store.commit_sessions([StagesHeld(9, (("a", 0), ("b", 1))), StagesHeld(8, (("a", 0),))])
        store.commit_sessions([StagesHeld(8, ())])
        store.commit_sessions([RingKept("tiny", 1, (("a", 0, 3),)), RingKept("gone", 1, RING)])
        store.commit_sessions([RingKept("tiny", 1, RING), RingKept("gone", 1, ())])
        with pytest.raises(JournalConflict):
            store.commit_sessions([START])
    with Store(path) as store:
        sessions, stages = store.stored_sessions()
        assert [(found.start, found.tokens, found.end) for found in sessions] == [
            (START, (*tokens, Token(7)), None),
            (other, (), end),
        ]
        assert stages == [("a", 9, 0), ("b", 9, 1)]
        assert store.stored_rings() == [RingKept("tiny", 1, RING)]
        assert store.prune_sessions(1_999) == 0
        assert store.prune_sessions(2_001) == 1
        assert [found.start.session for found in store.stored_sessions()[0]] == ["gen-1"]


def test_a_journal_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(f"{TABLES} PRAGMA user_version = 1;")
    connection.execute("UPDATE meta SET value = 41 WHERE key = 'epoch'")
    connection.close()
    with Store(path) as store:
        assert store.next_epoch() == 42
        store.commit_sessions([START])
        assert len(store.stored_sessions()[0]) == 1
        assert store.stored_rings() == []
    assert "session_tokens" in SESSION_TABLES


def test_a_gguf_is_inspected(model_file: Path) -> None:
    found = asyncio.run(inspect_model(model_file))
    assert found.format is ModelFormat.GGUF
    assert found.metadata["architecture"] == "llama"
    assert found.metadata["layers"] == "2"
    assert found.metadata["quantisation"] == "F32"


def test_a_gguf_of_another_kind_or_cut_short_is_refused(model_file: Path, tmp_path: Path) -> None:
    data = model_file.read_bytes()
    cut_short = tmp_path / ("c" * 64)
    cut_short.write_bytes(data[: len(data) // 2])
    with pytest.raises(InspectionError, match="the file") as failure:
        asyncio.run(inspect_model(cut_short))
    assert failure.value.code == "truncated"
    other = tmp_path / "other"
    other.write_bytes(data.replace(b"llama", b"mamba"))
    with pytest.raises(InspectionError, match="mamba") as failure:
        asyncio.run(inspect_model(other))
    assert failure.value.code == "unsupported"


def test_an_answer_is_waited_for_from_where_its_reader_is(model_file: Path) -> None:
    """After a restart the coordinator is behind: tokens that the reader has come again first."""

    async def follow(answer: Answer, index: int) -> list[tuple[int, str | None]]:
        return [(piece.index, piece.finish_reason) async for piece in answer.follow(index)]

    async def scenario() -> None:
        tokenizer = Tokenizer(read_model(model_file).vocabulary)
        answer = Answer("r", tokenizer, 3, most_tokens=9)
        tokens = tokenizer.encode("one two three", add_bos=False)[:4]
        reader = asyncio.create_task(follow(answer, 2))
        beyond = asyncio.create_task(follow(answer, 8))
        for token in tokens:
            await asyncio.sleep(0)
            answer.add(Token(token))
        answer.end("length", "", "", 0.0)
        assert await reader == [(3, None), (4, None), (4, "length")]
        assert await beyond == [(4, "length")]

    asyncio.run(scenario())
