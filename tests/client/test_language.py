"""`generate` and `chat` against the coordinator's real routes, with connections that break."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing, closing
from dataclasses import replace
from typing import Literal

import pytest
from language_standin import LanguageStandIn, language_stand_in
from scripted_language import TEXT, VIEW, WORDS

import maille
from maille import AsyncMesh, Mesh, language_stream
from maille_coordinator.service import ServiceError

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageStandIn]:
    with language_stand_in(tmp_path_factory.mktemp("mesh")) as mesh:
        yield mesh


@pytest.fixture
def stand_in(running: LanguageStandIn) -> Iterator[LanguageStandIn]:
    running.language.answers.clear()
    yield running
    language = running.language
    language.hold = language.dying = False
    language.refusal = None
    language.fails_after = None
    language.views = [VIEW]
    language.break_after.clear()
    language.behind = language.requests = 0
    language.gate = asyncio.Semaphore(0)


@pytest.fixture
def mesh(stand_in: LanguageStandIn) -> Iterator[Mesh]:
    with Mesh(stand_in.http_url) as mesh:
        yield mesh


def test_generate(mesh: Mesh, stand_in: LanguageStandIn) -> None:
    assert list(mesh.generate("story", "Once", temperature=0)) == list(WORDS)
    *_, last = mesh.generate_detailed("story:2", "Once", max_tokens=3, seed=5, stop=["held"])
    assert (last.index, last.finish_reason, last.resumed) == (3, "length", 0)
    assert last.usage == maille.Usage(1, 3, 1)
    request = stand_in.language.answers[last.response_id].request
    assert (request.seed, request.stop, request.max_tokens) == (5, ("held",), 3)


def test_chat_takes_messages_or_a_text(mesh: Mesh, stand_in: LanguageStandIn) -> None:
    messages = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hello"}]
    assert "".join(mesh.chat(messages, model="story")) == TEXT
    *_, last = mesh.chat_detailed("Hello", top_k=3)
    assert stand_in.language.answers[last.response_id].request.prompt == (messages[1],)


def test_without_a_limit_the_answer_has_none(mesh: Mesh, stand_in: LanguageStandIn) -> None:
    *_, last = mesh.generate_detailed("story", "Once")
    assert stand_in.language.answers[last.response_id].request.max_tokens is None


def test_text_comes_as_it_is_made(mesh: Mesh, stand_in: LanguageStandIn) -> None:
    stand_in.language.hold = True
    with closing(mesh.generate("story", "Once")) as pieces:
        for word in WORDS:
            stand_in.release()
            assert next(pieces) == word


def test_asynchronous(stand_in: LanguageStandIn) -> None:
    async def run() -> None:
        async with AsyncMesh(stand_in.http_url) as mesh:
            assert "".join([text async for text in mesh.chat("Hello")]) == TEXT
            answers = [mesh.generate("story", "Once") for _ in range(3)]
            texts = await asyncio.gather(*(_joined(answer) for answer in answers))
            assert texts == [TEXT] * 3
            assert (await mesh.language_model()).name == "story"
            assert (await mesh.plan("story")).current

    async def _joined(answer: object) -> str:
        assert hasattr(answer, "__aiter__")
        return "".join([text async for text in answer])

    asyncio.run(run())


@pytest.mark.parametrize("break_after", [{1}, {4}, {1, 2, 5, 9}])
def test_a_lost_connection_is_not_noticed(
    mesh: Mesh, stand_in: LanguageStandIn, break_after: set[int]
) -> None:
    stand_in.language.dying = True
    stand_in.language.break_after = set(break_after)
    *pieces, last = mesh.generate_detailed("story", "Once")
    assert [piece.text for piece in pieces] == list(WORDS)
    assert [piece.index for piece in pieces] == list(range(1, len(WORDS) + 1))
    assert last.finish_reason == "stop"
    assert last.resumed >= 1
    assert stand_in.language.requests == 1
    assert not stand_in.language.break_after


@pytest.mark.parametrize(
    "faults", [["unheard"], ["unanswered"], ["unheard", "unheard", "unanswered", "unheard"]]
)
def test_a_request_is_answered_once_whatever_is_lost(
    stand_in: LanguageStandIn, faults: list[Literal["unheard", "unanswered"]]
) -> None:
    proxy = stand_in.open_proxy()
    try:
        with Mesh(stand_in.proxy_url) as mesh:
            proxy.faults = list(faults)
            *pieces, last = mesh.generate_detailed("story", "Once")
    finally:
        stand_in.close_proxy()
    assert "".join(piece.text for piece in pieces) == TEXT
    assert last.resumed == 1
    assert not proxy.faults
    assert len(stand_in.language.answers) == 1
    assert stand_in.language.requests == 1


def test_a_coordinator_that_is_some_tokens_behind_is_waited_for(
    mesh: Mesh, stand_in: LanguageStandIn
) -> None:
    stand_in.language.dying = True
    stand_in.language.break_after = {4}
    stand_in.language.behind = 2
    assert "".join(mesh.generate("story", "Once")) == TEXT
    assert not stand_in.language.behind


def test_patience_ends(
    mesh: Mesh, stand_in: LanguageStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_stream, "PATIENCE_S", 0.2)
    stand_in.language.dying = True
    stand_in.language.break_after = {4}
    stand_in.language.behind = 1000
    pieces = mesh.generate("story", "Once")
    assert [next(pieces) for _ in range(4)] == list(WORDS[:4])
    with pytest.raises(maille.InputError, match="fewer tokens"):
        next(pieces)


def test_an_answer_that_is_forgotten_is_told(mesh: Mesh, stand_in: LanguageStandIn) -> None:
    stand_in.language.hold = stand_in.language.dying = True
    stand_in.release(2)
    pieces = mesh.generate_detailed("story", "Once")
    first = next(pieces)
    stand_in.language.break_after = {2}
    stand_in.in_loop(lambda: _forget(stand_in, first.response_id))
    with pytest.raises(maille.UnknownResponse):
        list(pieces)


def _forget(stand_in: LanguageStandIn, response_id: str) -> None:
    language = stand_in.language
    answer = language.answers[response_id]
    language.release(5)
    assert answer.work is not None
    answer.work.add_done_callback(lambda _: language.answers.pop(response_id, None))
    answer.work.cancel()
    # Wakes the reader, which breaks after the second token.
    language.break_after = {1, 2}
    answer.changed.set()
    answer.tell(replace(answer.pieces[-1], index=3, text="?"))


def test_closing_cancels_everywhere(mesh: Mesh, stand_in: LanguageStandIn) -> None:
    stand_in.language.hold = True
    stand_in.release()
    with closing(mesh.generate_detailed("story", "Once")) as pieces:
        first = next(pieces)
    assert stand_in.end_of(first.response_id) == "cancelled"


def test_closing_asynchronously_cancels_everywhere(stand_in: LanguageStandIn) -> None:
    stand_in.language.hold = True
    stand_in.release()

    async def run() -> str:
        async with (
            AsyncMesh(stand_in.http_url) as mesh,
            aclosing(mesh.generate_detailed("story", "Once")) as pieces,
        ):
            return (await anext(pieces)).response_id

    assert stand_in.end_of(asyncio.run(run())) == "cancelled"


def test_refusals_are_named_by_what_one_can_do(mesh: Mesh, stand_in: LanguageStandIn) -> None:
    with pytest.raises(maille.UnknownModel, match="add it"):
        list(mesh.generate("nobody", "Once"))
    with pytest.raises(maille.InputError, match="shorten it") as caught:
        list(mesh.generate("story", "word " * 99))
    assert caught.value.code.name == "INPUT_TOO_LARGE"
    with pytest.raises(maille.InputError, match=r"[Tt]emperature"):
        list(mesh.generate("story", "Once", temperature=3))
    stand_in.language.refusal = ServiceError(503, "model_impossible", "1.2 GB are missing: add one")
    with pytest.raises(maille.GenerationFailed, match=r"1\.2 GB are missing"):
        list(mesh.generate("story", "Once"))
    stand_in.language.refusal = ServiceError(429, "queue_full", "8 wait already: try again later")
    with pytest.raises(maille.MeshBusy, match="8 wait"):
        list(mesh.generate("story", "Once"))


def test_a_failure_within_an_answer(mesh: Mesh, stand_in: LanguageStandIn) -> None:
    stand_in.language.fails_after = 2
    pieces = mesh.generate("story", "Once")
    assert [next(pieces), next(pieces)] == list(WORDS[:2])
    with pytest.raises(maille.GenerationFailed, match="No node is left"):
        next(pieces)


def test_models_and_plans(mesh: Mesh, stand_in: LanguageStandIn) -> None:
    (model,) = mesh.language_models()
    assert (model.name, model.state, model.layer_count) == ("story", "ready", 30)
    assert model.stages[0] == maille.StagePlace("attic", 0, 14, ("shed",), 40_000_000)
    plan = mesh.plan("story")
    assert plan.possible
    assert plan.stages == model.stages
    assert "shed: left out" in plan.lines[-1]
    assert len(mesh.plan("story", explain=False).lines) == 1
    with pytest.raises(maille.UnknownModel):
        mesh.plan("nobody")


def test_choosing_a_model(mesh: Mesh, stand_in: LanguageStandIn) -> None:
    stand_in.language.views = [VIEW, replace(VIEW, version=1)]
    assert mesh.language_model().version == 2
    assert mesh.language_model("story:1").version == 1
    with pytest.raises(maille.UnknownModel, match="There is story"):
        mesh.language_model("stroy")
    stand_in.language.views.append(replace(VIEW, name="tale"))
    with pytest.raises(maille.UnknownModel, match="story, tale"):
        mesh.language_model()
    stand_in.language.views = []
    with pytest.raises(maille.UnknownModel, match="maille models add"):
        mesh.language_model()
