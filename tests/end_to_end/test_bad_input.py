"""Wrong inputs and broken model files: a clear error, and a mesh that goes on unharmed."""

import hashlib
import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from command import maille, refused
from odd_models import write_model_with_an_unknown_operator, write_sum_model
from real_mesh import RealMesh
from stranger import Stranger

import maille as maille_api
from maille_broker import parse_url
from maille_protocol import (
    ErrorCode,
    Message,
    Outcome,
    Outcomes,
    OutcomeStatus,
    Reference,
    Submission,
    Submit,
    pack,
    topics,
    unpack,
)
from maille_protocol.tensors import encode_tensors

pytestmark = [pytest.mark.end_to_end, pytest.mark.broker, pytest.mark.timeout(60)]

HUNDRED_MEGABYTES = 100_000_000


@pytest.fixture(autouse=True)
def unharmed(shared_mesh: RealMesh) -> Iterator[None]:
    """Afterwards the same processes run, both nodes are ready, and a task is answered."""
    before = {name: process.pid for name, process in shared_mesh.processes.items()}
    yield
    assert {name: process.pid for name, process in shared_mesh.processes.items()} == before
    assert all(process.poll() is None for process in shared_mesh.processes.values())
    for node in ("n1", "n2"):
        shared_mesh.wait_for_state(node, "ready")
    with shared_mesh.client() as client:
        assert client.run("slow", [4.0])["answer"] == [8.0]
    assert shared_mesh.metric("tasks_open") == 0


# --- inputs that do not fit ----------------------------------------------------------------------


@dataclass(frozen=True)
class BadInput:
    """Inputs for the model `slow`, which takes `number`: float32[1]."""

    argument: str
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]
    code: ErrorCode
    says: tuple[str, ...]


BAD_INPUTS = {
    "shape": BadInput(
        "number=[1, 2]",
        {"number": np.zeros(2, np.float32)},
        ErrorCode.INPUT_SHAPE,
        ("'number'", "[2]", "[1]"),
    ),
    "rank": BadInput(
        "number=[[1]]",
        {"number": np.zeros((1, 1), np.float32)},
        ErrorCode.INPUT_SHAPE,
        ("'number'", "[1, 1]", "[1]"),
    ),
    "dtype": BadInput(
        'number=["one"]',
        {"number": np.zeros(1, np.float64)},
        ErrorCode.INPUT_TYPE,
        ("'number'", "float32"),
    ),
    "name": BadInput(
        "nubmer=[1]",
        {"nubmer": np.zeros(1, np.float32)},
        ErrorCode.INPUT_NAME,
        ("'nubmer'", "number"),
    ),
}


@pytest.mark.parametrize("case", BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_inputs_that_do_not_fit(shared_mesh: RealMesh, case: BadInput) -> None:
    accepted = shared_mesh.metric("tasks_accepted_total")
    said = refused(
        shared_mesh, "run", "slow", "-i", case.argument, "--url", shared_mesh.http_url, code=1
    )
    for word in case.says:
        assert word in said
    with shared_mesh.client() as client:
        with pytest.raises(maille_api.InputError) as found:
            client.run("slow", case.arrays)
        assert found.value.code is case.code
        for word in case.says:
            assert word in str(found.value)
        # One bad input among good ones ends the map with the same error and leaves nothing open.
        good = {"number": np.ones(1, np.float32)}
        with pytest.raises(maille_api.InputError):
            list(client.map("slow", [good, good, case.arrays, good]))
    assert shared_mesh.metric("tasks_accepted_total") <= accepted + 2


@pytest.mark.parametrize("case", BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_inputs_that_do_not_fit_sent_past_the_client(shared_mesh: RealMesh, case: BadInput) -> None:
    """The coordinator does not trust clients to check."""
    outcome = submitted(shared_mesh, "slow", encode_tensors(case.arrays))
    assert outcome.status is OutcomeStatus.REJECTED
    assert outcome.code is case.code
    assert isinstance(outcome.content, bytes)
    for word in case.says:
        assert word in outcome.content.decode()


def test_inputs_that_do_not_fit_over_http(shared_mesh: RealMesh) -> None:
    status, error = post(shared_mesh, {"model": "slow", "inputs": {"number": [1, 2]}})
    assert (status, error["code"]) == (422, "input_shape")
    assert "'number'" in error["message"]
    status, error = post(shared_mesh, {"model": "slow", "inputs": {"number": {"a": 1}}})
    assert status == 422
    status, error = post(shared_mesh, {"model": "slow"})
    assert (status, error["code"]) == (422, "invalid_request")
    assert "inputs" in error["message"]


def test_inputs_that_are_no_tensors(shared_mesh: RealMesh) -> None:
    for content in (b"", b"\x80", b"\xff" * 40, encode_tensors({})[:-1], b"\x9b" + b"\xff" * 8):
        outcome = submitted(shared_mesh, "slow", content)
        assert outcome.status is OutcomeStatus.REJECTED
        assert outcome.code in {ErrorCode.INPUT_MALFORMED, ErrorCode.INPUT_NAME}


def test_unknown_model(shared_mesh: RealMesh) -> None:
    said = refused(shared_mesh, "run", "slwo", "-i", "[1]", "--url", shared_mesh.http_url, code=1)
    assert "'slwo'" in said
    assert "did you mean slow?" in said
    said = refused(shared_mesh, "run", "zzzzz", "-i", "1", "--url", shared_mesh.http_url, code=1)
    assert "The mesh has: slow, sum." in said
    with shared_mesh.client() as client:
        with pytest.raises(maille_api.UnknownModel, match="did you mean slow"):
            client.run("slwo", [1.0])
        with pytest.raises(maille_api.UnknownModel, match="no version 7"):
            client.run("slow", [1.0], version=7)
    status, error = post(shared_mesh, {"model": "slwo", "inputs": {"number": [1]}})
    assert (status, error["code"]) == (404, "unknown_model")
    assert "did you mean 'slow'?" in error["message"]
    outcome = submitted(shared_mesh, "slwo", b"\x80")
    assert outcome.code is ErrorCode.UNKNOWN_MODEL
    assert outcome.content == b"no model is called 'slwo': did you mean slow?"


# --- files that are no models --------------------------------------------------------------------


def _not_onnx(path: Path) -> Path:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 16)
    return path


def _truncated(path: Path) -> Path:
    whole = write_sum_model(path, weights=10_000).read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    return path


BAD_FILES = {
    "not-onnx": (_not_onnx, ("ONNX",)),
    "empty": (lambda path: (path.touch(), path)[1], ("empty",)),
    "operator": (write_model_with_an_unknown_operator, ("Levitate",)),
    "truncated": (_truncated, ("ends too early", "copy or export it again")),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_files_that_are_no_models(shared_mesh: RealMesh, tmp_path: Path, kind: str) -> None:
    write, says = BAD_FILES[kind]
    path = write(tmp_path / f"{kind}.onnx")
    before = shared_mesh.get("/api/models")
    said = refused(shared_mesh, "models", "add", str(path), "--url", shared_mesh.http_url, code=1)
    with shared_mesh.client() as client, pytest.raises(maille_api.ModelRejected) as found:
        client.models.add(path)
    for text in (said, str(found.value)):
        for word in says:
            assert word in text
    assert shared_mesh.get("/api/models") == before


def test_a_file_that_is_not_there(shared_mesh: RealMesh, tmp_path: Path) -> None:
    path = tmp_path / "nowhere.onnx"
    said = refused(shared_mesh, "models", "add", str(path), "--url", shared_mesh.http_url, code=1)
    assert "nowhere.onnx" in said


# --- inputs that are too large -------------------------------------------------------------------


def test_a_100_megabyte_input_is_refused_before_it_is_sent(
    shared_mesh: RealMesh, tmp_path: Path
) -> None:
    received = shared_mesh.metric("mqtt_received_bytes_total")
    values = np.zeros(HUNDRED_MEGABYTES // 4, np.float32)
    with shared_mesh.client() as client, pytest.raises(maille_api.InputError) as found:
        client.run("sum", values)
    assert found.value.code is ErrorCode.INPUT_TOO_LARGE
    assert "100,000,000 bytes" in str(found.value)
    assert "67,108,864" in str(found.value)
    assert "Cut them into several tasks" in str(found.value)
    np.save(tmp_path / "large.npy", values)
    argument = str(tmp_path / "large.npy")
    said = refused(shared_mesh, "run", "sum", "-i", argument, "--url", shared_mesh.http_url, code=1)
    assert "100,000,000 bytes" in said
    assert "Cut them into several tasks" in said
    assert shared_mesh.metric("mqtt_received_bytes_total") - received < 100_000


def test_a_100_megabyte_input_over_http(shared_mesh: RealMesh) -> None:
    body = b" " * HUNDRED_MEGABYTES
    status, error = post(shared_mesh, body)
    assert (status, error["code"]) == (413, "input_too_large")
    assert "67108864" in error["message"]
    assert "max_input_bytes" in error["message"]


def test_a_reference_that_lies_about_its_size(shared_mesh: RealMesh) -> None:
    content = encode_tensors({"values": np.ones(20_000, np.float32)})
    sha256 = hashlib.sha256(content).digest()
    request = urllib.request.Request(
        f"{shared_mesh.http_url}/api/artefacts/{sha256.hex()}", content, method="PUT"
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 201
    for size_bytes in (0, 10, len(content) - 1, len(content) + 1, 60_000_000):
        outcome = submitted(shared_mesh, "sum", Reference(sha256, size_bytes))
        assert outcome.status is OutcomeStatus.REJECTED
        assert outcome.code is ErrorCode.INPUT_MALFORMED
        assert isinstance(outcome.content, bytes)
        assert f"{size_bytes} bytes" in outcome.content.decode()
        assert str(len(content)) in outcome.content.decode()
    outcome = submitted(shared_mesh, "sum", Reference(sha256, 1 << 36))
    assert outcome.code is ErrorCode.INPUT_TOO_LARGE
    outcome = submitted(shared_mesh, "sum", Reference(secrets.token_bytes(32), 1000))
    assert outcome.status is OutcomeStatus.REJECTED
    assert isinstance(outcome.content, bytes)
    assert "upload" in outcome.content.decode()
    outcome = submitted(shared_mesh, "sum", Reference(sha256, len(content)))
    assert outcome.status is OutcomeStatus.DONE


def test_a_large_reference_that_is_no_tensor(shared_mesh: RealMesh) -> None:
    """The node, which alone reads it, refuses it; nobody tries it again elsewhere."""
    content = secrets.token_bytes(50_000)
    sha256 = hashlib.sha256(content).digest()
    request = urllib.request.Request(
        f"{shared_mesh.http_url}/api/artefacts/{sha256.hex()}", content, method="PUT"
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 201
    outcome = submitted(shared_mesh, "sum", Reference(sha256, len(content)))
    assert outcome.status is OutcomeStatus.FAILED
    assert outcome.code is ErrorCode.INPUT_MALFORMED
    assert outcome.attempts == 1


def test_a_version_of_the_command_line_that_is_json(shared_mesh: RealMesh) -> None:
    """Programs read the same errors as JSON."""
    done = maille(shared_mesh, "run", "slwo", "-i", "[1]", "--url", shared_mesh.http_url, "--json")
    assert done.returncode == 1
    assert json.loads(done.stderr)["error"]["kind"] == "UnknownModel"


# --- ways past the client ------------------------------------------------------------------------


def submitted(mesh: RealMesh, model: str, content: bytes | Reference) -> Outcome:
    """The outcome of one task whose inputs nobody checked before they were sent."""
    name, task_id = f"c-{secrets.token_hex(4)}", secrets.token_bytes(16)
    outcome_topic = topics.CLIENT_OUTCOME.on("home", name)
    submit = Submit(1, model, 0, 5, 20_000, 0, 0, None, (Submission(task_id, content),))
    with Stranger(parse_url(mesh.broker_url), name, [outcome_topic]) as client:
        topic = topics.CLIENT_SUBMIT.on("home", name)
        client.publish(topic, pack(submit, boot=1, seq=1, epoch=0))
        found = client.wait_for(lambda heard: heard.topic == outcome_topic, "the outcome")
    message: Message = unpack(found.payload).message
    assert isinstance(message, Outcomes)
    assert message.outcomes[0].task_id == task_id
    return message.outcomes[0]


def post(mesh: RealMesh, body: object) -> tuple[int, dict[str, str]]:
    """HTTP status and error of a request for a task that must fail."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{mesh.http_url}/api/tasks", data, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            raise AssertionError(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            told: dict[str, dict[str, str]] = json.load(error)
            return error.code, told["error"]
