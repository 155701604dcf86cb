"""/v1 without a network: answers, parameters, errors, and what reaches the language service."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from api_service import MemoryService
from scripted_language import TEXT, VIEW, WORDS, ScriptedLanguage

from maille_coordinator.api import create_app
from maille_coordinator.service import ServiceError

Scenario = Callable[[ScriptedLanguage, httpx.AsyncClient], Awaitable[None]]
Json = dict[str, object]
HELLO = [{"role": "user", "content": "Tell me a story"}]
CHAT: Json = {"model": "story", "messages": HELLO}


def play(directory: Path, scenario: Scenario, *, key: str | None = None) -> None:
    async def run() -> None:
        service = MemoryService(directory)
        language = ScriptedLanguage()
        app = create_app(service, key=key, language=language)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1:7700"
        ) as client:
            await scenario(language, client)
        service.catalogue.close()

    asyncio.run(run())


def error_of(response: httpx.Response) -> tuple[int, str, str | None]:
    body = response.json()
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert len(error["message"]) > 20
    return response.status_code, error["code"], error["param"]


def events_of(text: str) -> list[Json]:
    """The JSON of a finished stream."""
    found = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    assert found.pop() == "[DONE]"
    return [json.loads(item) for item in found]


def test_a_chat_gets_its_answer(tmp_path: Path) -> None:
    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        response = await client.post("/v1/chat/completions", json=CHAT)
        body = response.json()
        assert body["object"] == "chat.completion"
        assert body["id"].startswith("chatcmpl-")
        assert response.headers["maille-response-id"] == body["id"]
        assert response.headers["x-request-id"] == body["id"]
        (choice,) = body["choices"]
        assert choice["message"] == {"role": "assistant", "content": TEXT, "refusal": None}
        assert choice["finish_reason"] == "stop"
        assert body["usage"] == {
            "prompt_tokens": 6,
            "completion_tokens": len(WORDS),
            "total_tokens": 6 + len(WORDS),
            "prompt_tokens_details": {"cached_tokens": 1},
        }

    play(tmp_path, scenario)


def test_a_chat_streams(tmp_path: Path) -> None:
    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        wanted = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
        response = await client.post("/v1/chat/completions", json=wanted)
        assert response.headers["content-type"].startswith("text/event-stream")
        first, *middle, last, usage = events_of(response.text)
        assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}  # type: ignore[index]
        told = [chunk["choices"][0]["delta"]["content"] for chunk in middle]  # type: ignore[index]
        assert told == list(WORDS)
        assert [chunk["maille_index"] for chunk in middle] == list(range(1, len(WORDS) + 1))
        assert last["choices"][0]["finish_reason"] == "stop"  # type: ignore[index]
        assert usage["choices"] == []
        assert usage["usage"]["completion_tokens"] == len(WORDS)  # type: ignore[index]
        assert {chunk["id"] for chunk in (first, *middle, last, usage)} == {
            response.headers["maille-response-id"]
        }
        assert [line for line in response.text.splitlines() if line == "id: 3"]

    play(tmp_path, scenario)


def test_without_being_asked_a_stream_tells_no_usage(tmp_path: Path) -> None:
    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        response = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
        assert not [chunk for chunk in events_of(response.text) if "usage" in chunk]

    play(tmp_path, scenario)


@pytest.mark.parametrize("prompt", ["Once there was", [1, 2, 3], ["Once there was"], [[1, 2, 3]]])
def test_a_text_is_completed(tmp_path: Path, prompt: object) -> None:
    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        wanted = {"model": "story:2", "prompt": prompt, "max_tokens": 4}
        body = (await client.post("/v1/completions", json=wanted)).json()
        assert body["object"] == "text_completion"
        assert body["id"].startswith("cmpl-")
        assert body["choices"][0]["text"] == "Once upon a time"
        assert body["choices"][0]["finish_reason"] == "length"
        assert body["usage"]["prompt_tokens"] == 3

    play(tmp_path, scenario)


def test_every_setting_reaches_the_service(tmp_path: Path) -> None:
    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        settings: Json = {
            "temperature": 0,
            "top_p": 0.5,
            "top_k": -1,
            "min_p": 0.1,
            "repetition_penalty": 1.1,
            "repeat_last_n": -1,
            "presence_penalty": -1,
            "frequency_penalty": 2,
            "logit_bias": {"5": -100},
            "seed": -7,
            "stop": [" the", "never"],
            "max_tokens": 100,
            "max_completion_tokens": 50,
            "logprobs": True,
            "top_logprobs": 2,
            "ignore_eos": True,
            "maille_response_id": "chatcmpl-mine",
            "user": "me",
            "n": 1,
            "tools": [],
            "response_format": {"type": "text"},
        }
        response = await client.post("/v1/chat/completions", json={**CHAT, **settings})
        assert response.status_code == 200, response.text
        request = language.answers["chatcmpl-mine"].request
        assert request.prompt == ({"role": "user", "content": "Tell me a story"},)
        assert (request.temperature, request.top_p, request.top_k) == (0, 0.5, 0)
        assert (request.min_p, request.repetition_penalty, request.repetition_window) == (
            0.1,
            1.1,
            -1,
        )
        assert (request.presence_penalty, request.frequency_penalty) == (-1, 2)
        assert request.logit_bias == ((5, -100.0),)
        assert (request.seed, request.max_tokens, request.logprobs) == (-7, 50, 2)
        assert request.stop == (" the", "never")
        assert request.ignore_end
        body = response.json()
        assert body["choices"][0]["message"]["content"] == "Once upon a time,"
        first = body["choices"][0]["logprobs"]["content"][0]
        assert first["token"] == "Once"
        assert first["bytes"] == list(b"Once")
        assert first["logprob"] == pytest.approx(-0.693, abs=1e-3)
        assert [top["token"] for top in first["top_logprobs"]] == ["Once", "Once!"]

    play(tmp_path, scenario)


def test_left_out_settings_are_the_defaults(tmp_path: Path) -> None:
    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        wanted = {**CHAT, "temperature": None, "stop": None, "seed": None, "max_tokens": None}
        identity = (await client.post("/v1/chat/completions", json=wanted)).json()["id"]
        request = language.answers[identity].request
        assert (request.temperature, request.top_p, request.max_tokens) == (1.0, 1.0, None)
        assert (request.seed, request.logprobs, request.stop) == (None, None, ())
        text: Json = {"model": "story", "prompt": "Once"}
        identity = (await client.post("/v1/completions", json=text)).json()["id"]
        assert language.answers[identity].request.max_tokens == 16
        text["max_tokens"] = None
        identity = (await client.post("/v1/completions", json=text)).json()["id"]
        assert language.answers[identity].request.max_tokens is None

    play(tmp_path, scenario)


def test_legacy_log_probabilities(tmp_path: Path) -> None:
    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        wanted = {"model": "story", "prompt": "x", "logprobs": 1, "max_tokens": 3, "stream": True}
        response = await client.post("/v1/completions", json=wanted)
        told = [chunk["choices"][0]["logprobs"] for chunk in events_of(response.text)[:-1]]  # type: ignore[index]
        assert [item["tokens"] for item in told] == [["Once"], [" upon"], [" a"]]
        assert [item["text_offset"] for item in told] == [[0], [4], [9]]
        assert told[1]["top_logprobs"] == [{" upon": -0.25}]

    play(tmp_path, scenario)


def test_messages_in_parts_and_of_developers(tmp_path: Path) -> None:
    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        messages = [
            {"role": "developer", "content": "Be brief"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "Tell "}, {"type": "text", "text": "me"}],
            },
        ]
        body = (
            await client.post("/v1/chat/completions", json={**CHAT, "messages": messages})
        ).json()
        assert language.answers[body["id"]].request.prompt == (
            {"role": "system", "content": "Be brief"},
            {"role": "user", "content": "Tell me"},
        )

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"n": 2}, "unsupported_parameter", "n"),
        ({"n": True}, "unsupported_parameter", "n"),
        ({"tools": [{"type": "function"}]}, "unsupported_parameter", "tools"),
        ({"response_format": {"type": "json_schema"}}, "invalid_value", "response_format"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {"title": "x" * 16384}},
                }
            },
            "invalid_value",
            "response_format",
        ),
        ({"response_format": {"type": "xml"}}, "invalid_value", "response_format"),
        ({"temprature": 1}, "unknown_parameter", "temprature"),
        ({"temperature": 2.5}, "invalid_value", "temperature"),
        ({"temperature": "hot"}, "invalid_value", "temperature"),
        ({"top_p": 1.5}, "invalid_value", "top_p"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "invalid_value", "stop"),
        ({"stop": ""}, "invalid_value", "stop"),
        ({"logit_bias": {"x": 1}}, "invalid_value", "logit_bias"),
        ({"logit_bias": {"1": 101}}, "invalid_value", "logit_bias"),
        ({"seed": 2**63}, "invalid_value", "seed"),
        ({"top_logprobs": 2}, "invalid_value", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "invalid_value", "top_logprobs"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "invalid_value", "messages"),
        ({"messages": None}, "missing_required_parameter", "messages"),
        ({"model": None}, "missing_required_parameter", "model"),
        ({"maille_response_id": "cmpl-1"}, "invalid_value", "maille_response_id"),
        ({"maille_response_id": "chatcmpl-a/b"}, "invalid_value", "maille_response_id"),
        ({"messages": [{"role": "user", "content": "word " * 70}]}, "context_length_exceeded", "messages"),
        ({"\ud800": 1}, "unknown_parameter", "?"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(
    tmp_path: Path, change: Json, code: str, param: str
) -> None:
    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        response = await client.post(
            "/v1/chat/completions",
            content=json.dumps({**CHAT, **change}),
            headers={"Content-Type": "application/json"},
        )
        assert error_of(response) == (400, code, param)
        assert response.json()["error"]["type"] == "invalid_request_error"
        assert not language.answers

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"[" * 100_000, b'{"model": "story", "prompt": NaN}', b"\xff"]
)
def test_what_is_no_request_is_a_bad_request(tmp_path: Path, body: bytes) -> None:
    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        headers = {"Content-Type": "application/json"}
        response = await client.post("/v1/completions", content=body, headers=headers)
        assert error_of(response)[0] == 400

    play(tmp_path, scenario)


def test_other_errors_have_openais_form_too(tmp_path: Path) -> None:
    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        post = client.post
        response = await post("/v1/chat/completions", json={**CHAT, "model": "nobody"})
        assert error_of(response) == (404, "model_not_found", "model")
        assert error_of(await client.get("/v1/nothing"))[:2] == (404, "not_found")
        assert error_of(await client.get("/v1/completions"))[:2] == (405, "method_not_allowed")
        response = await post("/v1/completions", content=b"model=x")
        assert error_of(response)[:2] == (415, "unsupported_media_type")
        response = await post(
            "/v1/completions",
            content=b" " * (9 * 1024 * 1024),
            headers={"Content-Type": "application/json"},
        )
        assert error_of(response)[:2] == (413, "input_too_large")
        two = {"model": "story", "prompt": ["a", "b"]}
        assert error_of(await post("/v1/completions", json=two))[1:] == (
            "unsupported_parameter",
            "prompt",
        )
        assert error_of(await client.get("/v1/streams/chatcmpl-1?from=-1"))[0] == 400
        assert error_of(await client.get("/v1/streams/chatcmpl-1"))[:2] == (404, "unknown_response")
        assert error_of(await client.get("/v1/streams/odd"))[:2] == (404, "unknown_response")

    play(tmp_path, scenario)


def test_a_key_is_asked_for_in_openais_form(tmp_path: Path) -> None:
    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        response = await client.post("/v1/chat/completions", json=CHAT)
        assert error_of(response)[:2] == (401, "invalid_api_key")
        assert response.json()["error"]["type"] == "authentication_error"
        headers = {"Authorization": "Bearer a key that nobody guesses"}
        response = await client.post("/v1/chat/completions", json=CHAT, headers=headers)
        assert response.status_code == 200

    play(tmp_path, scenario, key="a key that nobody guesses")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "word", "code", "told", "retry"),
    [
        (429, "queue_full", "rate_limit_exceeded", 429, "1"),
        (503, "model_impossible", "model_impossible", 503, "5"),
        (507, "cache_too_small", "cache_too_small", 400, None),
        (409, "response_exists", "response_exists", 409, None),
        (422, "odd", "odd", 400, None),
    ],
)
def test_refusals_have_a_fitting_status(
    tmp_path: Path,
    stream: bool,
    status: int,
    word: str,
    code: str,
    told: int,
    retry: str | None,
) -> None:
    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        language.refusal = ServiceError(status, word, "not now: wait, or start more nodes")
        response = await client.post("/v1/chat/completions", json={**CHAT, "stream": stream})
        assert error_of(response)[:2] == (told, code)
        assert response.headers.get("retry-after") == retry
        if word == "model_impossible":
            assert response.headers["x-should-retry"] == "false"

    play(tmp_path, scenario)


def test_a_failure_within_an_answer(tmp_path: Path) -> None:
    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        language.fails_after = 2
        response = await client.post("/v1/chat/completions", json=CHAT)
        assert error_of(response)[:2] == (500, "model_impossible")
        response = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
        *_, last = [line for line in response.text.splitlines() if line]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "model_impossible"

    play(tmp_path, scenario)


def test_models(tmp_path: Path) -> None:
    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        language.views.append(replace(VIEW, version=1))
        data = (await client.get("/v1/models")).json()["data"]
        assert [item["id"] for item in data] == ["story", "story:1"]
        assert data[0]["created"] == 1_700_000_000
        for name in ("story", "story:1", "story:2"):
            shown = (await client.get(f"/v1/models/{name}")).json()
            assert (shown["id"], shown["object"], shown["max_model_len"]) == (name, "model", 64)
        assert error_of(await client.get("/v1/models/nobody"))[:2] == (404, "model_not_found")

    play(tmp_path, scenario)


def test_places_of_layers_and_plans(tmp_path: Path) -> None:
    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        (model,) = (await client.get("/api/language/models")).json()["models"]
        assert model == (await client.get("/api/language/models/story")).json()
        assert [stage["node"] for stage in model["stages"]] == ["attic", "desk"]
        assert model["stages"][0]["shadows"] == ["shed"]
        plan = (await client.get("/api/language/models/story/plan")).json()
        assert "shed: left out" in plan["lines"][-1]
        brief = (await client.get("/api/language/models/story/plan?explain=false")).json()
        assert len(brief["lines"]) == 1
        for path in ("nobody", "story?version=9", "nobody/plan"):
            response = await client.get(f"/api/language/models/{path}")
            assert response.status_code == 404
            assert response.json()["error"]["code"] == "unknown_model"

    play(tmp_path, scenario)


def test_the_documentation_describes_it(tmp_path: Path) -> None:
    async def scenario(language: ScriptedLanguage, client: httpx.AsyncClient) -> None:
        document = (await client.get("/openapi.json")).json()
        assert "maille_keep" in document["components"]["schemas"]["ChatRequest"]["properties"]
        told = document["paths"]["/v1/streams/{response_id}"]["get"]
        assert "restart of the coordinator" in told["description"]
        for path, methods in document["paths"].items():
            if path.startswith("/v1/"):
                assert all("422" not in method["responses"] for method in methods.values())

    play(tmp_path, scenario)
