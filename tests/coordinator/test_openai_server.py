"""/v1 over a real server: clients that hang up and come back, the `openai` package, and curl."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import openai
import pytest
import uvicorn
from api_service import MemoryService
from scripted_language import TEXT, WORDS, ScriptedLanguage

from maille_coordinator.api import create_app, openai_stream
from maille_coordinator.service import ServiceError

KEY = "a key that nobody guesses"
Scenario = Callable[[ScriptedLanguage, httpx.AsyncClient], Awaitable[None]]
CHAT: dict[str, object] = {
    "model": "story",
    "messages": [{"role": "user", "content": "Tell me a story"}],
    "maille_response_id": "chatcmpl-1",
}
STREAM = {**CHAT, "stream": True}


@contextlib.asynccontextmanager
async def serving(
    directory: Path, language: ScriptedLanguage, *, key: str | None = None, port: int = 0
) -> AsyncIterator[int]:
    service = MemoryService(directory)
    listener = socket.create_server(("127.0.0.1", port))
    app = create_app(service, key=key, language=language)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    server.config.load()
    work = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        server.force_exit = True
        await work
        listener.close()
        service.catalogue.close()


def play(directory: Path, scenario: Scenario) -> None:
    async def run() -> None:
        language = ScriptedLanguage()
        async with (
            serving(directory, language) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
        ):
            await scenario(language, client)

    asyncio.run(run())


async def text_of(lines: AsyncIterator[str], count: int = 10_000) -> str:
    """The text of a stream's next `count` pieces with text, or of all until its end."""
    text = ""
    async for line in lines:
        if line == "data: [DONE]":
            break
        if line.startswith("data: "):
            choices = json.loads(line.removeprefix("data: "))["choices"]
            more = choices[0]["delta"].get("content", "") if choices else ""
            text += more
            count -= bool(more)
            if not count:
                break
    return text


def test_tokens_come_as_they_are_made(tmp_path: Path) -> None:
    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        language.hold = True
        language.release()
        async with client.stream("POST", "/v1/chat/completions", json=STREAM) as response:
            lines = response.aiter_lines()
            assert await text_of(lines, 1) == WORDS[0]
            language.release(2)
            assert await text_of(lines, 2) == WORDS[1] + WORDS[2]
            language.release(len(WORDS))
            assert await text_of(lines) == "".join(WORDS[3:])

    play(tmp_path, scenario)


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_cancels(tmp_path: Path, stream: bool) -> None:
    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        language.hold = True
        language.release()

        async def ask() -> None:
            wanted = {**CHAT, "stream": stream}
            async with client.stream("POST", "/v1/chat/completions", json=wanted) as response:
                await text_of(response.aiter_lines())

        asking = asyncio.ensure_future(ask())
        await language.until_read_by("chatcmpl-1", 1)
        asking.cancel()
        async with asyncio.timeout(2):
            assert await language.until_ended("chatcmpl-1") == "cancelled"
        assert language.answers["chatcmpl-1"].readers == 0

    play(tmp_path, scenario)


def test_who_hangs_up_before_the_first_token_cancels(tmp_path: Path) -> None:
    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        language.hold = True
        asking = asyncio.ensure_future(client.post("/v1/chat/completions", json=STREAM))
        await language.until_read_by("chatcmpl-1", 1)
        asking.cancel()
        async with asyncio.timeout(2):
            assert await language.until_ended("chatcmpl-1") == "cancelled"

    play(tmp_path, scenario)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("keep", [True, 60])
def test_a_kept_answer_is_fetched_after_hanging_up(
    tmp_path: Path, stream: bool, keep: bool | int
) -> None:
    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        language.hold = True
        wanted = {**CHAT, "stream": stream, "maille_keep": keep}
        asking = asyncio.ensure_future(client.post("/v1/chat/completions", json=wanted))
        language.release(3)
        await language.until_read_by("chatcmpl-1", 1)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        url = "/v1/streams/chatcmpl-1?from=2&usage=true"
        async with client.stream("GET", url) as response:
            lines = response.aiter_lines()
            assert await text_of(lines, 1) == WORDS[2]
            language.release(len(WORDS))
            assert await text_of(lines) == "".join(WORDS[3:])
        assert await language.until_ended("chatcmpl-1") == "stop"
        again = await client.get(url)
        assert again.text.startswith("id: 3\n")
        assert '"role"' not in again.text
        assert '"model":"story"' in again.text
        assert '"total_tokens":16' in again.text
        from_the_start = await client.get("/v1/streams/chatcmpl-1")
        assert await text_of(from_the_start.aiter_lines()) == TEXT
        assert '"role":"assistant"' in from_the_start.text

    play(tmp_path, scenario)


def test_a_kept_answer_is_cancelled_when_its_time_is_over(tmp_path: Path) -> None:
    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        language.hold = True
        wanted = {**STREAM, "maille_keep": 1}
        asking = asyncio.ensure_future(client.post("/v1/chat/completions", json=wanted))
        await language.until_read_by("chatcmpl-1", 1)
        asking.cancel()
        assert await language.until_ended("chatcmpl-1") == "cancelled"

    play(tmp_path, scenario)


def test_the_stream_goes_on_after_a_restart(tmp_path: Path) -> None:
    async def run() -> None:
        language = ScriptedLanguage()
        language.hold = True
        language.release(3)
        async with (
            serving(tmp_path / "1", language) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
            client.stream("POST", "/v1/chat/completions", json=STREAM) as response,
        ):
            begun = await text_of(response.aiter_lines(), 3)
            language.dying = True
        language.dying = False
        async with (
            serving(tmp_path / "2", language, port=port) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
        ):
            language.release(len(WORDS))
            rest = await client.get("/v1/streams/chatcmpl-1?from=3")
            assert begun + await text_of(rest.aiter_lines()) == TEXT

    asyncio.run(run())


def test_a_response_can_be_cancelled_by_another(tmp_path: Path) -> None:
    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        language.hold = True
        language.release()
        async with client.stream("POST", "/v1/chat/completions", json=STREAM) as response:
            lines = response.aiter_lines()
            await text_of(lines, 1)
            for expected in (True, False):
                told = (await client.delete("/v1/streams/chatcmpl-1")).json()
                assert told["cancelled"] is expected
            assert '"code":"cancelled"' in "".join([line async for line in lines])

    play(tmp_path, scenario)


def test_a_waiting_stream_says_that_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_stream, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr("maille_coordinator.api.openai_routes.EARLY_S", 0.02)

    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        language.refusal = ServiceError(503, "model_impossible", "1.2 GB are missing: add a node")
        language.delay_refusal = True
        async with client.stream("POST", "/v1/chat/completions", json=STREAM) as response:
            assert response.status_code == 200
            assert response.headers["maille-response-id"] == "chatcmpl-1"
            lines = response.aiter_lines()
            while await anext(lines) != ": still at it":
                pass
            language.release()
            assert '"code":"model_impossible"' in "".join([line async for line in lines])

    play(tmp_path, scenario)


# --- the openai package ----------------------------------------------------------------------


def with_openai(
    directory: Path,
    scenario: Callable[[ScriptedLanguage, openai.AsyncOpenAI], Awaitable[None]],
    *,
    key: str = KEY,
) -> None:
    async def run() -> None:
        language = ScriptedLanguage()
        async with (
            serving(directory, language, key=KEY) as port,
            openai.AsyncOpenAI(
                base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=1
            ) as client,
        ):
            await scenario(language, client)

    asyncio.run(run())


def test_openai_chat(tmp_path: Path) -> None:
    async def scenario(language: ScriptedLanguage, client: openai.AsyncOpenAI) -> None:
        answer = await client.chat.completions.create(
            model="story",
            messages=[{"role": "user", "content": "Tell me a story"}],
            temperature=0,
            seed=1,
            stop=[" held"],
            logprobs=True,
            top_logprobs=1,
            extra_body={"top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1},
        )
        choice = answer.choices[0]
        assert choice.message.content == "Once upon a time, the café mesh"
        assert choice.finish_reason == "stop"
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert choice.logprobs.content[1].token == " upon"
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.cached_tokens == 1
        assert answer._request_id == answer.id
        request = language.answers[answer.id].request
        assert (request.top_k, request.min_p, request.repetition_penalty) == (40, 0.1, 1.1)

    with_openai(tmp_path, scenario)


def test_openai_stream(tmp_path: Path) -> None:
    async def scenario(language: ScriptedLanguage, client: openai.AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(
            model="story",
            messages=[{"role": "user", "content": "Tell me a story"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        told = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
        assert "".join(told) == TEXT
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == len(WORDS)
        assert stream.response.headers["maille-response-id"] == chunks[0].id

    with_openai(tmp_path, scenario)


def test_openai_text_and_models(tmp_path: Path) -> None:
    async def scenario(language: ScriptedLanguage, client: openai.AsyncOpenAI) -> None:
        answer = await client.completions.create(
            model="story", prompt="Once there", max_tokens=4, logprobs=1
        )
        assert answer.choices[0].text == "Once upon a time"
        assert answer.choices[0].finish_reason == "length"
        stream = await client.completions.create(model="story", prompt="Once", stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == TEXT
        models = await client.models.list()
        assert [model.id for model in models.data] == ["story"]
        assert (await client.models.retrieve("story")).owned_by == "maille"

    with_openai(tmp_path, scenario)


def test_openai_errors(tmp_path: Path) -> None:
    async def scenario(language: ScriptedLanguage, client: openai.AsyncOpenAI) -> None:
        create = client.completions.create
        with pytest.raises(openai.NotFoundError, match="add it") as missing:
            await create(model="nobody", prompt="x")
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.BadRequestError, match="shorten it") as long:
            await create(model="story", prompt="word " * 99)
        assert (long.value.code, long.value.param) == ("context_length_exceeded", "prompt")
        with pytest.raises(openai.BadRequestError, match="one answer"):
            await create(model="story", prompt="x", n=2)
        language.refusal = ServiceError(503, "model_impossible", "1.2 GB are missing: add a node")
        with pytest.raises(openai.InternalServerError, match="add a node"):
            await create(model="story", prompt="x")
        language.refusal = None
        language.fails_after = 1
        with pytest.raises(openai.APIError, match="no node is left"):
            async for _ in await create(model="story", prompt="x", stream=True):
                pass

    with_openai(tmp_path, scenario)


def test_openai_with_a_wrong_key(tmp_path: Path) -> None:
    async def scenario(language: ScriptedLanguage, client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.AuthenticationError, match="the key is wrong") as caught:
            await client.models.list()
        assert caught.value.code == "invalid_api_key"

    with_openai(tmp_path, scenario, key="another")


def test_openai_tries_again_when_the_mesh_is_busy(tmp_path: Path) -> None:
    async def scenario(language: ScriptedLanguage, client: openai.AsyncOpenAI) -> None:
        language.refusal = ServiceError(429, "queue_full", "8 wait already: try again later")
        asking = asyncio.ensure_future(client.completions.create(model="story", prompt="x"))
        await asyncio.sleep(0.3)
        language.refusal = None
        assert (await asking).choices[0].text == TEXT

    with_openai(tmp_path, scenario)


# --- curl ------------------------------------------------------------------------------------


def test_curl(tmp_path: Path) -> None:
    async def run() -> None:
        language = ScriptedLanguage()
        async with serving(tmp_path, language) as port:

            async def curl(path: str, body: dict[str, object] | None = None) -> str:
                data = (
                    []
                    if body is None
                    else ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
                )
                url = f"http://127.0.0.1:{port}{path}"
                process = await asyncio.create_subprocess_exec(
                    "curl", "-sS", "-N", *data, url, stdout=asyncio.subprocess.PIPE
                )
                out, _ = await process.communicate()
                assert process.returncode == 0
                return out.decode()

            answer = json.loads(await curl("/v1/chat/completions", CHAT))
            assert answer["choices"][0]["message"]["content"] == TEXT
            stream = await curl(
                "/v1/completions", {"model": "story", "prompt": "x", "stream": True}
            )
            assert stream.endswith("data: [DONE]\n\n")
            rest = await curl("/v1/streams/chatcmpl-1?from=8")
            assert '"content":" held"' in rest
            assert '"content":" mesh"' not in rest
            assert json.loads(await curl("/v1/models"))["data"][0]["id"] == "story"
            unknown = json.loads(await curl("/v1/chat/completions", {**CHAT, "model": "x"}))
            assert unknown["error"]["code"] == "model_not_found"

    asyncio.run(run())
