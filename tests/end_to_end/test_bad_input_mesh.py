"""Devices, coordinators and logins that do not belong: told what to do, and nobody else is hurt."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from command import maille, refused
from odd_models import write_sum_model
from real_mesh import RealMesh, eventually, free_port, real_mesh
from stranger import Stranger

import maille as maille_api
from maille import keys
from maille_broker import parse_url
from maille_protocol import (
    Control,
    ControlOrder,
    CoordinatorState,
    ErrorCode,
    Heartbeat,
    Measured,
    Message,
    ModelFormat,
    ModelReference,
    NodeInfo,
    NodeKind,
    NodeState,
    NodeStatus,
    Offer,
    Offers,
    Result,
    Results,
    ResultStatus,
    pack,
    topics,
    unpack,
)

pytestmark = [pytest.mark.end_to_end, pytest.mark.broker, pytest.mark.timeout(60)]

MESH = "home"
KEY = "a-key-of-this-test-0123456789"
PASSWORD = "opensesame-0123456789"
ANSWERS = 300


def right_answers(mesh: RealMesh, count: int = ANSWERS) -> None:
    """Run that many tasks; every answer is right and none is missing."""
    questions = (np.array([number], np.float32) for number in range(count))
    with mesh.client() as client:
        answers = [float(found["answer"][0]) for found in client.map("slow", questions)]
    assert answers == [2.0 * number for number in range(count)]
    assert mesh.metric("tasks_open") == 0


def forget(mesh: RealMesh, node: str) -> None:
    """Remove a node that is gone, as a person does."""
    eventually(lambda: mesh.state(node) in {"lost", "disconnected"}, f"{node} is gone")
    request = urllib.request.Request(f"{mesh.http_url}/api/nodes/{node}", method="DELETE")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status in {200, 204}


# --- nodes ---------------------------------------------------------------------------------------


def test_a_node_that_never_announced_itself(shared_mesh: RealMesh) -> None:
    """It is asked to, and its results are refused, whatever tasks they claim to answer."""
    before = {
        name: shared_mesh.metric(name)
        for name in ("messages_unannounced_total", "tasks_done_total", "results_unknown_task_total")
    }
    with shared_mesh.client() as client:
        done = client.submit("slow", [5.0])
        assert done.result(20)["answer"] == [10.0]
    epoch = int(shared_mesh.metric("epoch"))
    forged = Results(
        tuple(
            Result(task_id, 1, epoch, ResultStatus.DONE, ErrorCode.NONE, b"\x80", 1, 1)
            for task_id in (bytes.fromhex(done.id), os.urandom(16))
        )
    )
    control = topics.NODE_CONTROL.on(MESH, "ghost")
    with Stranger(parse_url(shared_mesh.broker_url), "ghost", [control]) as ghost:
        topic = topics.NODE_RESULTS.on(MESH, "ghost")
        ghost.publish(topic, pack(forged, boot=9, seq=1, epoch=epoch))
        asked = ghost.wait_for(lambda heard: heard.topic == control, "a rebirth is asked for")
    order = unpack(asked.payload).message
    assert isinstance(order, ControlOrder)
    assert (order.command, order.boot) == (Control.REBIRTH, 9)
    assert (
        shared_mesh.metric("messages_unannounced_total") == before["messages_unannounced_total"] + 1
    )
    assert shared_mesh.metric("results_unknown_task_total") > before["results_unknown_task_total"]
    assert shared_mesh.metric("tasks_done_total") == before["tasks_done_total"] + 1
    with shared_mesh.client() as client:
        assert client.result(done.id)["answer"] == [10.0]


def test_nodes_that_start_as_they_should_are_not_asked_again(shared_mesh: RealMesh) -> None:
    assert "not announced" not in shared_mesh.log("n1")
    before = shared_mesh.metric("messages_unannounced_total")
    shared_mesh.start_node("n3")
    shared_mesh.wait_for_state("n3", "ready")
    shared_mesh.signal("n3", signal.SIGTERM)
    assert shared_mesh.metric("messages_unannounced_total") == before
    forget(shared_mesh, "n3")


def test_a_node_that_takes_tasks_and_never_answers(shared_mesh: RealMesh) -> None:
    """What it was given is given to others when it has been silent for too long."""
    info = NodeInfo(
        NodeKind.PC, "hole", "none", 64, (ModelFormat.ONNX,), 48 * 1024, Measured(cores=64)
    )
    beat = Heartbeat(1, 0, 0, 0, None, (), ())
    task = topics.NODE_TASK.on(MESH, "hole")
    with Stranger(parse_url(shared_mesh.broker_url), "hole", [task]) as hole:
        birth: tuple[tuple[topics.Topic, Message], ...] = (
            (topics.NODE_STATE, NodeStatus(NodeState.INIT)),
            (topics.NODE_INFO, info),
            (topics.NODE_HEARTBEAT, beat),
            (topics.NODE_STATE, NodeStatus(NodeState.READY)),
        )
        for seq, (topic, message) in enumerate(birth, start=1):
            hole.publish(topic.on(MESH, "hole"), pack(message, boot=7, seq=seq, epoch=0))
        shared_mesh.wait_for_state("hole", "ready")
        right_answers(shared_mesh, 100)
        assert hole.heard, "it was given nothing, so this test has shown nothing"


def test_two_nodes_with_one_id(shared_mesh: RealMesh, tmp_path: Path) -> None:
    """The newcomer is told to choose another id and ends; the first one works on."""
    first = shared_mesh.processes["n1"].pid
    done_before = shared_mesh.metric("tasks_done_total")
    newcomer = maille(
        shared_mesh,
        *("node", "--url", shared_mesh.http_url, "--id", "n1"),
        *("--cache-directory", str(tmp_path / "c"), "--state-directory", str(tmp_path / "s")),
    )
    assert newcomer.returncode == 5, newcomer.stderr
    assert "another node with this id is in the mesh" in newcomer.stderr
    assert "--id" in newcomer.stderr
    assert "Traceback" not in newcomer.stderr
    shared_mesh.wait_for_state("n1", "ready")
    assert shared_mesh.processes["n1"].pid == first
    assert shared_mesh.processes["n1"].poll() is None
    right_answers(shared_mesh)
    with shared_mesh.client() as client:
        assert client.run_detailed("slow", [1.0], target="n1").node == "n1"
    assert shared_mesh.metric("tasks_done_total") == done_before + ANSWERS + 1
    assert shared_mesh.metric("nodes_duplicate_total") >= 1


def test_a_newcomer_with_a_used_id_comes_while_tasks_run(
    shared_mesh: RealMesh, tmp_path: Path
) -> None:
    shared_mesh.launch(
        "twin",
        *("node", "--url", shared_mesh.http_url, "--id", "n2"),
        *("--cache-directory", str(tmp_path / "c"), "--state-directory", str(tmp_path / "s")),
        wait_for_line=False,
    )
    try:
        while shared_mesh.processes["twin"].poll() is None:
            right_answers(shared_mesh, 100)
        assert shared_mesh.processes["twin"].returncode == 5
    finally:
        twin = shared_mesh.processes.pop("twin")
        if twin.poll() is None:
            twin.kill()
            twin.wait(10)
    right_answers(shared_mesh, 100)
    shared_mesh.wait_for_state("n2", "ready")


# --- coordinators --------------------------------------------------------------------------------


def test_offers_of_an_older_epoch_are_refused(shared_mesh: RealMesh) -> None:
    epoch = int(shared_mesh.metric("epoch"))
    model = ModelReference("slow", 1, b"\1" * 32, 10, ModelFormat.ONNX)
    offers = Offers(model, (Offer(b"o" * 16, 1, 10_000, 0, b"\x80"),))
    results = topics.NODE_RESULTS.on(MESH, "n1")
    with Stranger(parse_url(shared_mesh.broker_url), "old-coordinator", [results]) as old:
        topic = topics.NODE_TASK.on(MESH, "n1")
        old.publish(topic, pack(offers, boot=3, seq=1, epoch=epoch - 1))
        answer = old.wait_for(lambda heard: b"o" * 16 in heard.payload, "the node's answer")
        # Nor is it obeyed in anything else.
        order = ControlOrder(Control.DRAIN, 0, "an old order")
        old.publish(topics.NODE_CONTROL.on(MESH, "n1"), pack(order, boot=3, seq=2, epoch=epoch - 1))
        state = CoordinatorState(True, "http://127.0.0.1:9")
        topic = topics.COORDINATOR.on(MESH, "old-coordinator")
        old.publish(topic, pack(state, boot=3, seq=3, epoch=epoch - 1), retain=True)
        right_answers(shared_mesh, 50)
        old.publish(topic, b"", retain=True)
    message = unpack(answer.payload).message
    assert isinstance(message, Results)
    (result,) = message.results
    assert (result.status, result.code) == (ResultStatus.REFUSED, ErrorCode.STALE_EPOCH)
    assert isinstance(result.content, bytes)
    assert f"epoch {epoch - 1} is over, this node obeys {epoch}" in result.content.decode()
    assert shared_mesh.state("n1") == "ready"


@pytest.fixture
def own_mesh(tmp_path: Path) -> Iterator[RealMesh]:
    """A mesh with one node for tests that leave it changed."""
    with real_mesh(tmp_path, "mosquitto", ["n1"]) as running:
        with running.client() as client:
            client.models.add(write_sum_model(tmp_path / "sum.onnx"))
        yield running


@pytest.mark.parametrize("name", ["coordinator", "second"])
def test_a_second_coordinator_in_one_mesh(own_mesh: RealMesh, tmp_path: Path, name: str) -> None:
    """The one with the newer epoch goes on, the other ends and says why; the node follows."""
    first_http = own_mesh.http_url
    own_mesh.http_port = free_port()
    own_mesh.launch(
        "second",
        *("coordinator", "--broker", own_mesh.broker_url, "--name", name, "--no-advertise"),
        *("--http-port", str(own_mesh.http_port), "--state-directory", str(tmp_path / "second")),
        "--json",
    )
    assert own_mesh.processes["coordinator"].wait(15) == 1
    first = own_mesh.processes.pop("coordinator")
    if first.stdout is not None:
        first.stdout.close()
    log = own_mesh.log("coordinator")
    assert f"coordinator {name!r} leads mesh 'home'" in log
    assert "Stop the other one, or give this mesh another name with --mesh" in log
    assert "Traceback" not in log
    with contextlib.suppress(urllib.error.URLError):
        urllib.request.urlopen(f"{first_http}/healthz", timeout=5)
        raise AssertionError("the first coordinator still answers")
    own_mesh.wait_for_state("n1", "ready")
    # A client that only knows the broker is led to the one that goes on, in spite of the other's
    # will.
    with maille_api.Mesh(own_mesh.broker_url, timeout_s=10) as client:
        assert [node.name for node in client.nodes()] == ["n1"]
    assert own_mesh.processes["second"].poll() is None


def test_a_second_coordinator_with_the_same_directory(shared_mesh: RealMesh) -> None:
    said = refused(
        shared_mesh,
        *("coordinator", "--broker", shared_mesh.broker_url, "--http-port", "0", "--no-advertise"),
        code=1,
    )
    assert "another" in said
    assert "stop" in said.lower()
    right_answers(shared_mesh, 10)


# --- ports ---------------------------------------------------------------------------------------


@pytest.fixture
def used_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("kind", ["amqtt", "mosquitto", "nats"])
def test_a_port_in_use_for_the_broker(shared_mesh: RealMesh, used_port: int, kind: str) -> None:
    said = refused(shared_mesh, "broker", "--kind", kind, "--port", str(used_port), code=2)
    assert f"Port {used_port} on 127.0.0.1 is in use by another program" in said
    assert "choose another port" in said


def test_a_port_in_use_for_http(shared_mesh: RealMesh, used_port: int, tmp_path: Path) -> None:
    said = refused(
        shared_mesh,
        *("coordinator", "--broker", shared_mesh.broker_url, "--no-advertise"),
        *("--http-port", str(used_port), "--state-directory", str(tmp_path)),
        code=2,
    )
    assert f"127.0.0.1:{used_port}" in said
    assert "choose another --http-port" in said
    right_answers(shared_mesh, 10)


def test_a_port_in_use_for_up(shared_mesh: RealMesh, used_port: int, tmp_path: Path) -> None:
    said = refused(
        shared_mesh,
        *("up", "--broker", "mosquitto", "--port", "0", "--http-port", str(used_port)),
        *("--no-advertise", "--state-directory", str(tmp_path)),
        code=2,
    )
    assert str(used_port) in said
    assert "--http-port" in said


# --- logins and keys -----------------------------------------------------------------------------


def command_lines(pids: set[int]) -> str:
    """What `ps` shows of these processes and their descendants."""
    lines: list[str] = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            for found in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    lines.append(" ".join(found.cmdline()))
    return "\n".join(lines)


@pytest.fixture(scope="module")
def lan_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealMesh]:
    """`maille up --lan` with a key, as one process with its children."""
    directory = tmp_path_factory.mktemp("lan")
    mesh = RealMesh(directory, "mosquitto", extra_environment={"MAILLE_KEY": KEY})
    try:
        mesh.launch(
            "up",
            *("up", "--lan", "--broker", "mosquitto", "--port", str(mesh.broker_port)),
            *("--http-port", str(mesh.http_port), "--no-advertise", "--json"),
        )
        with maille_api.Mesh(mesh.http_url, key=KEY) as client:
            eventually(lambda: any(n.state == "ready" for n in client.nodes()), "the node is ready")
            client.models.add(write_sum_model(directory / "sum.onnx"))
        yield mesh
    finally:
        mesh.stop()


SECRETS = (KEY, *(keys.password(KEY, MESH, role) for role in keys.ROLES))


def test_http_without_a_key(lan_mesh: RealMesh) -> None:
    wrong = "not-the-key-of-this-mesh"
    for header in ({}, {"Authorization": f"Bearer {wrong}"}, {"Authorization": "Basic Og=="}):
        for path in ("/api/mesh", "/api/nodes", "/api/models", "/metrics", "/api/nothing"):
            request = urllib.request.Request(f"{lan_mesh.http_url}{path}", headers=header)
            with pytest.raises(urllib.error.HTTPError) as found:
                urllib.request.urlopen(request, timeout=10)
            with found.value as answer:
                assert answer.code == 401
                message = json.load(answer)["error"]["message"]
                assert "Authorization: Bearer <key>" in message
                assert "MAILLE_KEY" in message
    nothing = {"MAILLE_KEY": ""}
    said = refused(lan_mesh, "nodes", "--url", lan_mesh.http_url, code=3, environment=nothing)
    assert "asks for a key" in said
    assert "Set MAILLE_KEY" in said
    said = refused(
        lan_mesh, "nodes", "--url", lan_mesh.http_url, code=3, environment={"MAILLE_KEY": wrong}
    )
    assert "refuses this key" in said
    assert wrong not in said
    said = refused(lan_mesh, "node", "--url", lan_mesh.http_url, code=3, environment=nothing)
    assert "asks for a key" in said
    said = refused(
        lan_mesh, "nodes", "--url", lan_mesh.http_url, code=2, environment={"MAILLE_KEY": "short"}
    )
    assert "at least 16" in said


def test_keys_are_nowhere_to_be_seen(lan_mesh: RealMesh, tmp_path: Path) -> None:
    up = lan_mesh.processes["up"]
    node = lan_mesh.directory / "extra"
    lan_mesh.start_node("extra")
    with maille_api.Mesh(lan_mesh.http_url, key=KEY) as client:
        eventually(lambda: sum(n.state == "ready" for n in client.nodes()) == 2, "two nodes")
        assert client.run("sum", np.ones(3, np.float32))["total"] == [3.0]
        shown = [repr(client), repr(client.asynchronous), str(vars(client.asynchronous.http))]
    shown.append(command_lines({up.pid, lan_mesh.processes["extra"].pid}))
    assert "coordinator" in shown[-1]
    done = maille(lan_mesh, "-vv", "nodes", "--url", lan_mesh.http_url)
    assert done.returncode == 0
    shown += [done.stdout, done.stderr, lan_mesh.log("up"), lan_mesh.log("extra")]
    for secret in SECRETS:
        for text in shown:
            assert secret not in text
    lan_mesh.signal("extra", signal.SIGTERM)
    assert node.exists()
    # Whatever holds the key on the disk can be read by this user alone.
    for path in lan_mesh.directory.rglob("*"):
        if path.is_file() and any(s.encode() in path.read_bytes() for s in SECRETS):
            assert path.stat().st_mode & 0o077 == 0, path


def test_a_client_cannot_speak_for_others(lan_mesh: RealMesh) -> None:
    """With a key the broker keeps everyone to their own topics: forged messages get nowhere."""
    with maille_api.Mesh(lan_mesh.http_url, key=KEY) as client:
        (node,) = [found.name for found in client.nodes() if found.state == "ready"]
        login = parse_url(lan_mesh.broker_url).with_credentials(
            "client", keys.password(KEY, MESH, "client")
        )
        lead = CoordinatorState(True, "http://127.0.0.1:9")
        gone = NodeStatus(NodeState.LOST, "forged")
        with Stranger(login, "mallory", [f"maille/1/{MESH}/#"]) as mallory:
            for topic, name, message in (
                (topics.COORDINATOR, "mallory", lead),
                (topics.COORDINATOR, "coordinator", lead),
                (topics.NODE_STATE, node, gone),
                (topics.NODE_CONTROL, node, ControlOrder(Control.DRAIN, 0, "forged")),
            ):
                payload = pack(message, boot=1, seq=1, epoch=2**63)
                mallory.publish(topic.on(MESH, name), payload, retain=topic.retain)
            for _ in range(20):
                assert client.run("sum", np.ones(3, np.float32))["total"] == [3.0]
            # Nor does it hear what is said to others.
            assert {heard.topic.split("/")[3] for heard in mallory.heard} <= {"c"}
        assert [n.name for n in client.nodes() if n.state == "ready"] == [node]
    assert lan_mesh.processes["up"].poll() is None


def test_two_nodes_with_one_id_and_one_login(lan_mesh: RealMesh, tmp_path: Path) -> None:
    """Where nodes share a login the broker itself parts them; the first one must come out on top."""
    lan_mesh.start_node("same")
    with maille_api.Mesh(lan_mesh.http_url, key=KEY) as client:

        def ready() -> bool:
            return any(n.name == "same" and n.state == "ready" for n in client.nodes())

        eventually(ready, "the first one is ready")
        newcomer = maille(
            lan_mesh,
            *("node", "--url", lan_mesh.http_url, "--id", "same"),
            *("--cache-directory", str(tmp_path / "c"), "--state-directory", str(tmp_path / "s")),
        )
        assert newcomer.returncode == 5, newcomer.stderr
        assert "--id" in newcomer.stderr
        eventually(ready, "the first one is ready again")
        assert client.run_detailed("sum", np.ones(3, np.float32), target="same").node == "same"
    assert lan_mesh.processes["same"].poll() is None
    lan_mesh.signal("same", signal.SIGTERM)


@pytest.mark.parametrize("login", ["", "coordinator:wrong-password-0123@"])
def test_a_broker_that_refuses_the_login(lan_mesh: RealMesh, tmp_path: Path, login: str) -> None:
    url = f"mqtt://{login}127.0.0.1:{lan_mesh.broker_port}"
    without_key = {"MAILLE_KEY": "", "MAILLE_BROKER": url, "MAILLE_URL": url}
    arguments = {
        "coordinator": ("--http-port", "0", "--state-directory", str(tmp_path), "--no-advertise"),
        "node": ("--state-directory", str(tmp_path), "--cache-directory", str(tmp_path / "c")),
        "nodes": (),
    }
    for command, options in arguments.items():
        started_s = time.monotonic()
        said = refused(lan_mesh, command, *options, code=3, environment=without_key)
        assert time.monotonic() - started_s < 10
        assert "refused" in said
        assert "password" in said or "login" in said
        for secret in ("wrong-password-0123", *SECRETS):
            assert secret not in said


def test_a_password_in_the_environment_is_not_in_ps(lan_mesh: RealMesh, tmp_path: Path) -> None:
    """A coordinator that still tries to log in can be looked at by everyone on its machine."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        environment = {
            **lan_mesh.environment(),
            "MAILLE_KEY": "",
            "MAILLE_BROKER": f"mqtt://coordinator:{PASSWORD}@127.0.0.1:{port}",
        }
        lan_mesh.extra_environment.update(MAILLE_BROKER=environment["MAILLE_BROKER"], MAILLE_KEY="")
        try:
            lan_mesh.launch(
                "waiting",
                *("coordinator", "--http-port", "0", "--state-directory", str(tmp_path)),
                "--no-advertise",
                wait_for_line=False,
            )
            silent.settimeout(20)
            connection, _ = silent.accept()
            with connection:
                shown = command_lines({lan_mesh.processes["waiting"].pid})
                assert "coordinator" in shown
                assert PASSWORD not in shown
        finally:
            lan_mesh.extra_environment.pop("MAILLE_BROKER")
            lan_mesh.extra_environment["MAILLE_KEY"] = KEY
            waiting = lan_mesh.processes.pop("waiting")
            waiting.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                waiting.wait(10)
            waiting.kill()
            waiting.wait(10)
    assert PASSWORD not in lan_mesh.log("waiting")
