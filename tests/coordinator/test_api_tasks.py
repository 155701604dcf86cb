"""Running models over HTTP: JSON and CBOR, good and bad inputs, lists, cancelling."""

import asyncio
import json
from pathlib import Path

import httpx
import numpy as np
import pytest
from api_service import MEBIBYTE, MemoryService, encoded, play
from hypothesis import given, strategies
from onnx import TensorProto, helper
from onnx_files import model_bytes, relu, value
from test_api_basics import error_of

from maille_coordinator.api.tensors import InputProblem, arrays_of, json_of
from maille_protocol import ErrorCode, OutcomeStatus
from maille_protocol.signature import TensorSpec, dtype_name
from maille_protocol.tensors import decode_tensors

ROWS = [[-1.0, 2.0, -3.0, 4.0]]
CLIPPED = [[0.0, 2.0, 0.0, 4.0]]


def test_one_task(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        await service.install(relu())
        response = await client.post(
            "/api/tasks",
            json={
                "model": "clip",
                "inputs": {"X": ROWS},
                "priority": 9,
                "deadline_ms": 5000,
                "target": "desk",
                "at_most_once": True,
            },
        )
        assert response.status_code == 200, response.text
        task = response.json()
        assert task["state"] == "done"
        assert task["outputs"] == {"Y": CLIPPED}
        assert task["error"] is None
        assert (task["node"], task["attempts"], task["run_us"]) == ("desk", 2, 250)
        options = service.options
        assert options is not None
        assert (options.priority, options.deadline_ms, options.target, options.flags) == (
            9,
            5000,
            "desk",
            1,
        )
        detail = (await client.get(f"/api/tasks/{task['task_id']}")).json()
        assert detail["outputs"] == {"Y": CLIPPED}
        assert detail["history"][0]["code"] == "node_lost"

    play(tmp_path, scenario)


def test_several_tasks(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        await service.install(relu())
        body = {"model": "clip", "inputs": [{"X": ROWS}, {"X": [[5, 5, 5, 5], [-5, -5, -5, -5]]}]}
        tasks = (await client.post("/api/tasks", json=body)).json()["tasks"]
        assert [task["outputs"]["Y"] for task in tasks] == [
            CLIPPED,
            [[5.0] * 4, [0.0] * 4],
        ]
        assert len({task["task_id"] for task in tasks}) == 2

    play(tmp_path, scenario)


def test_cbor_in_and_out(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        await service.install(relu())
        tensors = encoded(X=np.array(ROWS, np.float32))
        headers = {"Content-Type": "application/cbor"}
        as_json = await client.post(
            "/api/tasks", params={"model": "clip", "priority": 7}, content=tensors, headers=headers
        )
        assert as_json.json()["outputs"] == {"Y": CLIPPED}
        assert service.options is not None
        assert service.options.priority == 7
        headers["Accept"] = "application/cbor"
        as_cbor = await client.post(
            "/api/tasks", params={"model": "clip"}, content=tensors, headers=headers
        )
        assert as_cbor.headers["content-type"] == "application/cbor"
        np.testing.assert_array_equal(decode_tensors(as_cbor.content)["Y"], CLIPPED)
        again = await client.get(
            f"/api/tasks/{as_cbor.headers['maille-task']}", headers={"Accept": "application/cbor"}
        )
        assert again.content == as_cbor.content

    play(tmp_path, scenario)


def test_large_inputs_and_outputs_travel_as_artefacts(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        await service.install(relu())
        rows = [[float(number), -1.0, 0.5, 1.5] for number in range(20_000)]
        response = await client.post("/api/tasks", json={"model": "clip", "inputs": {"X": rows}})
        outputs = response.json()["outputs"]["Y"]
        assert len(outputs) == 20_000
        assert outputs[-1] == [19_999.0, 0.0, 0.5, 1.5]
        transient = [info for info in service.artefacts.list() if info.expires_at_unix_s]
        assert len(transient) == 2
        # Once they are gone, the task says so instead of failing.
        for info in transient:
            service.artefacts.remove(info.sha256)
        task = (await client.get(f"/api/tasks/{response.json()['task_id']}")).json()
        assert (task["state"], task["outputs"]) == ("done", None)
        assert "run the task again" in task["error"]["message"]

    play(tmp_path, scenario, max_task_body_bytes=2 * MEBIBYTE)


def test_all_types(tmp_path: Path) -> None:
    kinds = {
        "text": (TensorProto.STRING, ["a", "é"]),
        "flag": (TensorProto.BOOL, [True, False]),
        "byte": (TensorProto.UINT8, [0, 255]),
        "long": (TensorProto.INT64, [-(2**63), 2**63 - 1]),
        "half": (TensorProto.FLOAT16, [0.5, None]),
        "real": (TensorProto.DOUBLE, [0.1, 3]),
    }
    model = model_bytes(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in kinds],
        [value(name, element, [2]) for name, (element, _) in kinds.items()],
        [value(f"{name}_out", element, [2]) for name, (element, _) in kinds.items()],
    )

    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        await service.install(model)
        inputs = {name: items for name, (_, items) in kinds.items()}
        response = await client.post("/api/tasks", json={"model": "clip", "inputs": inputs})
        assert response.status_code == 200, response.text
        outputs = response.json()["outputs"]
        assert outputs == {f"{name}_out": items for name, items in inputs.items()}

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("inputs", "code", "text"),
    [
        ({"x": ROWS}, "input_name", "no input is called 'x'; input 'X' is missing"),
        ({}, "input_name", "X: float32[N, 4]"),
        ({"X": ROWS, "Z": 1}, "input_name", "'Z'"),
        ({"X": [[1, 2, 3]]}, "input_shape", "shape [1, 3], the model takes [N, 4]"),
        ({"X": [1, 2, 3, 4]}, "input_shape", "[N, 4]"),
        ({"X": 1.0}, "input_shape", "[N, 4]"),
        ({"X": [[1, 2, 3, 4], [1, 2]]}, "input_shape", "different lengths"),
        ({"X": [[1, 2, 3, [4]]]}, "input_shape", "different lengths"),
        ({"X": [[[[[[[[[1]]]]]]]]]}, "input_shape", "deeper than 8"),
        ({"X": [["1", "2", "3", "4"]]}, "input_type", "elements are numbers; '1' is not"),
        ({"X": [[True, 2, 3, 4]]}, "input_type", "'True' is not"),
        ({"X": {"a": 1}}, "input_type", "numbers"),
    ],
)
def test_inputs_that_do_not_fit(
    tmp_path: Path, inputs: dict[str, object], code: str, text: str
) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        await service.install(relu())
        response = await client.post("/api/tasks", json={"model": "clip", "inputs": inputs})
        status, found, message = error_of(response)
        assert (status, found) == (422, code)
        assert text in message
        batch = [{"X": ROWS}, inputs]
        response = await client.post("/api/tasks", json={"model": "clip", "inputs": batch})
        assert error_of(response)[2].startswith("task 1: ")
        assert service.ends == {}

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("element", "items", "text"),
    [
        (TensorProto.UINT8, [256], "outside of uint8 (0 to 255)"),
        (TensorProto.UINT8, [-1], "outside of uint8"),
        (TensorProto.INT64, [2**63], "outside of int64"),
        (TensorProto.INT32, [1.5], "whole numbers; '1.5' is not"),
        (TensorProto.INT32, [None], "'None' is not"),
        (TensorProto.BOOL, [1], "true or false; '1' is not"),
        (TensorProto.STRING, [1], "text; '1' is not"),
    ],
)
def test_values_that_the_type_cannot_hold(
    tmp_path: Path, element: int, items: list[object], text: str
) -> None:
    model = model_bytes(
        [helper.make_node("Identity", ["A"], ["B"])],
        [value("A", element, [1])],
        [value("B", element, [1])],
    )

    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        await service.install(model)
        response = await client.post("/api/tasks", json={"model": "clip", "inputs": {"A": items}})
        status, code, message = error_of(response)
        assert (status, code) == (422, "input_type")
        assert text in message

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("element", "number"),
    [(TensorProto.FLOAT, 1e39), (TensorProto.FLOAT16, 1e5), (TensorProto.DOUBLE, 10**400)],
)
def test_numbers_too_large_for_a_float(tmp_path: Path, element: int, number: float) -> None:
    model = model_bytes(
        [helper.make_node("Identity", ["A"], ["B"])],
        [value("A", element, [1])],
        [value("B", element, [1])],
    )

    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        await service.install(model)
        response = await client.post(
            "/api/tasks", json={"model": "clip", "inputs": {"A": [number]}}
        )
        assert error_of(response)[:2] == (422, "input_type")
        assert "too large" in response.text

    play(tmp_path, scenario)


_ANY_JSON = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.floats()
    | strategies.text(max_size=5),
    lambda inner: (
        strategies.lists(inner, max_size=4)
        | strategies.dictionaries(strategies.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=12,
)
_DTYPES = ("float16", "float32", "float64", "int8", "uint8", "int64", "uint64", "bool", "str")


@given(_ANY_JSON, strategies.sampled_from(_DTYPES))
def test_any_json_is_made_an_array_of_the_type_or_refused(items: object, dtype: str) -> None:
    spec = TensorSpec("A", dtype, ("N", 2))
    refusal: InputProblem | None = None
    try:
        array = arrays_of([spec], {"A": items})["A"]
    except InputProblem as problem:
        refusal = problem
    if refusal is None:
        assert dtype_name(array) == dtype
        json.dumps(json_of(array), allow_nan=False)
    else:
        assert refusal.code.name.startswith("INPUT_")
        assert "'A'" in str(refusal)


def test_whole_floats_are_integers_and_empty_batches_have_a_shape(tmp_path: Path) -> None:
    model = model_bytes(
        [helper.make_node("Identity", ["A"], ["B"])],
        [value("A", TensorProto.INT32, ["N", 3])],
        [value("B", TensorProto.INT32, ["N", 3])],
    )

    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        await service.install(model)
        for items, wanted in (([[1.0, 2, 3]], [[1, 2, 3]]), ([], [])):
            response = await client.post(
                "/api/tasks", json={"model": "clip", "inputs": {"A": items}}
            )
            assert response.json()["outputs"] == {"B": wanted}, response.text

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("tensors", "code", "text"),
    [
        (b"", "input_malformed", "no tensors"),
        (b"\xff\xff", "input_malformed", "not valid CBOR"),
        (b"\x9f" * 5000, "input_malformed", "not valid CBOR"),
        (b"\xa1\x01\x02", "input_malformed", "no tensors"),
        (encoded(X=np.zeros((1, 4), np.float64)), "input_type", "X' is float64"),
        (encoded(X=np.zeros((1, 5), np.float32)), "input_shape", "[1, 5]"),
        (encoded(Q=np.zeros((1, 4), np.float32)), "input_name", "'Q'"),
        (encoded(X=np.zeros((1, 4), np.float32))[:-1], "input_malformed", "not valid CBOR"),
    ],
)
def test_cbor_that_does_not_fit(tmp_path: Path, tensors: bytes, code: str, text: str) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        await service.install(relu())
        response = await client.post(
            "/api/tasks?model=clip", content=tensors, headers={"Content-Type": "application/cbor"}
        )
        status, found, message = error_of(response)
        assert (status, found) == (422, code)
        assert text in message

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "Invalid JSON"),
        (b'{"model": "clip"', "Invalid JSON"),
        (b"[1]", "the request does not fit"),
        (b'{"inputs": {}}', "model: Field required"),
        (b'{"model": "clip", "inputs": 3}', "inputs"),
        (b'{"model": "clip", "inputs": []}', "0 tasks"),
        (b'{"model": "clip", "inputs": {}, "priority": 10}', "priority"),
        (b'{"model": "clip", "inputs": {}, "wait_s": 1e9}', "wait_s"),
        (b'{"model": "clip", "inputs": {}, "colour": "red"}', "colour"),
        (b'{"model": "clip", "inputs": {}, "target": "#/+"}', "target"),
        (b'{"model": "clip", "inputs": {"X": ' + b"[" * 5000 + b"]" * 5000 + b"}}", "recursion"),
        (json.dumps({"model": "clip", "inputs": [{}] * 4097}).encode(), "1 to 4096"),
        (b'{"model": "clip", "inputs": {"X": "\xff"}}', "Invalid JSON"),
    ],
)
def test_malformed_requests(tmp_path: Path, body: bytes, text: str) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        await service.install(relu())
        response = await client.post(
            "/api/tasks", content=body, headers={"Content-Type": "application/json"}
        )
        status, code, message = error_of(response)
        assert (status, code) == (422, "invalid_request")
        assert text in message
        assert len(message) < 1000

    play(tmp_path, scenario)


def test_other_bodies(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        response = await client.post("/api/tasks", data={"model": "clip"})
        status, code, message = error_of(response)
        assert (status, code) == (415, "unsupported_media_type")
        assert "Content-Type" in message

    play(tmp_path, scenario)


def test_unknown_model(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        await service.install(relu())
        response = await client.post("/api/tasks", json={"model": "clop", "inputs": {}})
        assert error_of(response)[:2] == (404, "unknown_model")
        assert "did you mean 'clip'" in response.text
        response = await client.post(
            "/api/tasks", json={"model": "clip", "version": 5, "inputs": {}}
        )
        assert "it has: 1" in error_of(response)[2]

    play(tmp_path, scenario)


@pytest.mark.parametrize("announced", [True, False])
def test_body_that_is_too_large(tmp_path: Path, announced: bool) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        data = b" " * (3 * MEBIBYTE)

        async def unannounced() -> object:
            yield data

        response = await client.post(
            "/api/tasks",
            content=data if announced else unannounced(),  # type: ignore[arg-type]
            headers={"Content-Type": "application/json"},
        )
        status, code, message = error_of(response)
        assert (status, code) == (413, "input_too_large")
        assert "1048576" in message
        assert "max_input_bytes" in message

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("status", "code", "state"),
    [
        (OutcomeStatus.DEAD, ErrorCode.TOO_MANY_ATTEMPTS, "dead"),
        (OutcomeStatus.EXPIRED, ErrorCode.DEADLINE, "expired"),
        (OutcomeStatus.FAILED, ErrorCode.MODEL_ERROR, "failed"),
        (OutcomeStatus.REJECTED, ErrorCode.QUEUE_FULL, "failed"),
    ],
)
def test_tasks_that_fail(
    tmp_path: Path, status: OutcomeStatus, code: ErrorCode, state: str
) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        await service.install(relu())
        service.fail_with = (status, code, "the reason")
        body = {"model": "clip", "inputs": {"X": ROWS}}
        response = await client.post("/api/tasks", json=body)
        task = response.json()
        assert (response.status_code, task["state"], task["outputs"]) == (200, state, None)
        assert task["error"] == {"code": code.name.lower(), "message": "the reason"}
        response = await client.post(
            "/api/tasks", json=body, headers={"Accept": "application/cbor"}
        )
        found, word, message = error_of(response)
        assert (found, word) == (502, code.name.lower())
        assert f"{state}: the reason" in message

    play(tmp_path, scenario)


def test_open_tasks_can_be_awaited_listed_and_cancelled(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        await service.install(relu())
        service.hold = True
        body = {"model": "clip", "inputs": {"X": ROWS}, "wait_s": 0.01}
        response = await client.post("/api/tasks", json=body)
        assert (response.status_code, response.json()["state"]) == (202, "queued")
        first = response.json()["task_id"]
        many = await client.post("/api/tasks", json={**body, "inputs": [{"X": ROWS}]})
        assert many.status_code == 202
        second = many.json()["tasks"][0]["task_id"]

        listed = (await client.get("/api/tasks?state=open")).json()["tasks"]
        assert [task["task_id"] for task in listed] == [second, first]
        cancelled = (await client.post(f"/api/tasks/{second}/cancel")).json()
        assert (cancelled["cancelled"], cancelled["state"]) == (True, "cancelled")
        again = (await client.post(f"/api/tasks/{second}/cancel")).json()
        assert (again["cancelled"], again["state"]) == (False, "cancelled")

        waiting = asyncio.ensure_future(client.get(f"/api/tasks/{first}?wait_s=10"))
        await asyncio.sleep(0)
        await service.release()
        assert (await waiting).json()["outputs"] == {"Y": CLIPPED}
        for query, ids in (
            ("state=done", [first]),
            ("state=cancelled", [second]),
            ("model=clip&limit=1", [first]),
            ("model=other", []),
            ("client=api", [first, second]),
            ("client=me", []),
        ):
            listed = (await client.get(f"/api/tasks?{query}")).json()["tasks"]
            assert sorted(task["task_id"] for task in listed) == sorted(ids) or query.endswith("1")
            assert len(listed) == len(ids)

    play(tmp_path, scenario)


@pytest.mark.parametrize("task_id", ["0" * 32, "abc", "z" * 32])
def test_unknown_task(tmp_path: Path, task_id: str) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        for method, path in (("GET", ""), ("POST", "/cancel")):
            response = await client.request(method, f"/api/tasks/{task_id}{path}")
            assert error_of(response)[:2] == (404, "unknown_task")

    play(tmp_path, scenario)


def test_numbers_that_json_does_not_know(tmp_path: Path) -> None:
    model = model_bytes([helper.make_node("Sqrt", ["X"], ["Y"])], [value("X")], [value("Y")])

    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        await service.install(model)
        response = await client.post(
            "/api/tasks", json={"model": "clip", "inputs": {"X": [[-1, 4, None, 9]]}}
        )
        assert response.json()["outputs"] == {"Y": [[None, 2.0, None, 3.0]]}

    play(tmp_path, scenario)
