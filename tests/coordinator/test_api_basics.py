"""Health, mesh, nodes, metrics, documentation, and who may ask."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import httpx
import pytest
from api_service import MemoryService, play
from prometheus_client.parser import text_string_to_metric_families

KEY = "a key that nobody guesses"
BEARER = {"Authorization": f"Bearer {KEY}"}


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    return response.status_code, body["error"]["code"], body["error"]["message"]


def test_health(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        good = await client.get("/healthz")
        assert (good.status_code, good.json()["status"]) == (200, "ok")
        assert (await client.head("/healthz")).status_code == 200
        service.connected = False
        bad = await client.get("/healthz")
        assert (bad.status_code, bad.json()["status"]) == (503, "broker_down")

    play(tmp_path, scenario)


def test_mesh(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        mesh = (await client.get("/api/mesh")).json()
        assert mesh["broker_url"] == "mqtt://127.0.0.1:1883"
        assert mesh["epoch"] == 3
        assert mesh["max_artefact_bytes"] == service.artefacts.max_artefact_bytes

    play(tmp_path, scenario)


def test_nodes(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        nodes = (await client.get("/api/nodes")).json()["nodes"]
        assert [(node["node"], node["state"]) for node in nodes] == [
            ("attic", "lost"),
            ("desk", "ready"),
        ]
        desk = (await client.get("/api/nodes/desk")).json()
        assert desk["info"]["kind"] == "pc"
        assert desk["info"]["formats"] == ["onnx"]
        assert desk["info"]["measured"]["cores"] == 2
        assert (await client.post("/api/nodes/desk/drain")).json()["state"] == "draining"
        assert (await client.post("/api/nodes/desk/resume")).json()["state"] == "ready"
        assert error_of(await client.delete("/api/nodes/desk"))[:2] == (409, "node_alive")
        gone = await client.delete("/api/nodes/attic")
        assert (gone.status_code, gone.content) == (204, b"")
        status, code, text = error_of(await client.get("/api/nodes/attic"))
        assert (status, code) == (404, "unknown_node")
        assert "there are: desk" in text
        for method, path in (("POST", "drain"), ("POST", "resume"), ("DELETE", "")):
            answer = await client.request(method, f"/api/nodes/cellar/{path}".rstrip("/"))
            assert error_of(answer)[:2] == (404, "unknown_node")

    play(tmp_path, scenario)


def test_metrics_can_be_read_by_prometheus(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        response = await client.get("/metrics")
        families = {family.name: family for family in text_string_to_metric_families(response.text)}
        assert families["maille_tasks_ended"].type == "counter"
        assert families["maille_tasks_open"].type == "gauge"
        assert families["maille_task_seconds"].type == "histogram"
        samples = families["maille_task_seconds"].samples
        buckets = [(found.labels["le"], found.value) for found in samples if found.labels]
        assert buckets == [("0.001", 2.0), ("0.01", 5.0), ("+Inf", 5.0)]
        [total] = [found.value for found in samples if found.name.endswith("_sum")]
        assert total == 0.02

    play(tmp_path, scenario)


def test_several_applications_in_one_process(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        assert (await client.get("/metrics")).status_code == 200

    play(tmp_path / "one", scenario)
    play(tmp_path / "two", scenario)


def test_documentation_needs_no_internet(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        home = await client.get("/")
        assert (home.status_code, home.headers["location"]) == (307, "/docs")
        page = await client.get("/docs")
        assert "https://" not in page.text
        assert "default-src 'self'" in page.headers["content-security-policy"]
        for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
            assert f"/docs/files/{name}" in page.text
            asset = await client.get(f"/docs/files/{name}")
            assert asset.status_code == 200
            assert len(asset.content) > 1000
        assert error_of(await client.get("/docs/files/secrets"))[0] == 404

    play(tmp_path, scenario)


def test_openapi_describes_everything(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        document = (await client.get("/openapi.json")).json()
        assert {
            "/healthz",
            "/metrics",
            "/api/mesh",
            "/api/nodes",
            "/api/nodes/{node}",
            "/api/nodes/{node}/drain",
            "/api/nodes/{node}/resume",
            "/api/models",
            "/api/models/{name}",
            "/api/artefacts/{sha256}",
            "/api/tasks",
            "/api/tasks/{task_id}",
            "/api/tasks/{task_id}/cancel",
            "/api/events",
        } == set(document["paths"])
        schemas = document["components"]["schemas"]
        for reference in references(document):
            assert reference.removeprefix("#/components/schemas/") in schemas, reference
        for path in document["paths"].values():
            for operation in path.values():
                assert operation["description"], operation
        ids = [
            operation["operationId"]
            for path in document["paths"].values()
            for operation in path.values()
        ]
        assert "securitySchemes" not in document["components"]
        assert len(ids) == len(set(ids))

    play(tmp_path, scenario)


def references(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for item in value.values() for found in references(item)]
    if isinstance(value, list):
        return [found for item in value for found in references(item)]
    return []


@pytest.mark.parametrize(
    ("headers", "word"),
    [
        ({}, "asks for a key"),
        ({"Authorization": "Bearer wrong"}, "the key is wrong"),
        ({"Authorization": f"Bearer {KEY} "}, ""),
        ({"Authorization": f"Token {KEY}"}, "wrong"),
        ({"Authorization": f"Basic {base64.b64encode(KEY.encode()).decode()}"}, "wrong"),
        ({"Authorization": "Bearer é".encode()}, "wrong"),
    ],
)
def test_key(tmp_path: Path, headers: dict[str, str | bytes], word: str) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        given = cast("dict[str, str]", headers)
        assert (await client.get("/healthz", headers=given)).status_code == 200
        for path in ("/api/mesh", "/metrics", "/api/tasks", "/nowhere"):
            response = await client.get(path, headers=given)
            if not word:
                assert response.status_code != 401
                continue
            status, code, text = error_of(response)
            assert (status, code) == (401, "unauthorized")
            assert word in text
            assert "Authorization: Bearer <key>" in text
            assert KEY not in text
            assert response.headers["www-authenticate"] == "Bearer"
        if word:
            put = await client.put(f"/api/artefacts/{'0' * 64}", content=b"x", headers=given)
            assert put.status_code == 401
            assert service.artefacts.list() == []

    play(tmp_path, scenario, key=KEY)


def test_browser_can_open_the_documentation_with_the_key_as_password(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        refused = await client.get("/docs")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic")
        for password, status in ((KEY, 200), ("wrong", 401)):
            response = await client.get("/docs", auth=httpx.BasicAuth("me", password))
            assert response.status_code == status
        assert (await client.get("/docs", headers={"Authorization": "Basic ?"})).status_code == 401
        document = await client.get("/openapi.json", auth=httpx.BasicAuth("me", KEY))
        assert document.json()["security"] == [{"key": []}]
        # Everything else takes no password: a browser would send it along unasked.
        nodes = await client.get("/api/nodes", auth=httpx.BasicAuth("me", KEY))
        assert nodes.status_code == 401

    play(tmp_path, scenario, key=KEY)


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("localhost:7700", True),
        ("LOCALHOST", True),
        ("127.0.0.1:7700", True),
        ("[::1]:7700", True),
        ("mesh.example", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
    ],
)
def test_host_header(tmp_path: Path, host: str, good: bool) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        response = await client.get("/api/mesh", headers={"Host": host})
        if good:
            assert response.status_code == 200
        else:
            assert error_of(response)[:2] == (421, "unknown_host")

    play(tmp_path, scenario, hosts=["mesh.example"])


def test_with_a_key_every_host_is_taken(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        response = await client.get("/api/mesh", headers={**BEARER, "Host": "mesh.lan:7700"})
        assert response.status_code == 200

    play(tmp_path, scenario, key=KEY)


def test_pages_of_others_change_nothing(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        foreign = {"Origin": "https://evil.example"}
        response = await client.post("/api/nodes/desk/drain", headers=foreign)
        assert error_of(response)[:2] == (403, "other_origin")
        assert (await client.delete("/api/nodes/attic", headers=foreign)).status_code == 403
        assert (await client.get("/api/nodes", headers=foreign)).status_code == 200
        own = {"Origin": "http://127.0.0.1:7700"}
        assert (await client.post("/api/nodes/desk/drain", headers=own)).status_code == 200

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("ask", "status", "code"),
    [
        (lambda client: client.get("/nowhere"), 404, "not_found"),
        (lambda client: client.patch("/api/nodes"), 405, "method_not_allowed"),
        (lambda client: client.get("/api/tasks?limit=many"), 422, "invalid_request"),
        (lambda client: client.get("/api/tasks?state=asleep"), 422, "invalid_request"),
    ],
)
def test_every_error_is_json(
    tmp_path: Path, ask: Callable[..., object], status: int, code: str
) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        response = await ask(client)  # type: ignore[misc] # a coroutine of httpx
        assert error_of(response)[:2] == (status, code)

    play(tmp_path, scenario)


def test_fault_of_the_coordinator_is_json_too(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        del service.node_states
        status, code, text = error_of(await client.get("/api/nodes"))
        assert (status, code) == (500, "internal_error")
        assert "log" in text

    play(tmp_path, scenario)


def test_answers_are_plain_json(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        response = await client.get("/api/nodes")
        assert response.headers["content-type"] == "application/json"
        json.loads(response.content)

    play(tmp_path, scenario)
