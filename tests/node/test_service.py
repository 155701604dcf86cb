"""A whole node: real broker, real HTTP, real models, driven by a coordinator of a few lines."""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import node_mesh
import node_models
import numpy as np
import onnxruntime
import pytest
from node_mesh import MESH, MOSQUITTO, ArtefactServer, FakeCoordinator, reference

from maille_broker import BrokerRefused, BrokerUnavailable, Endpoint
from maille_node import (
    EXIT_DUPLICATE,
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_SETTINGS,
    EXIT_UNFINISHED,
    EXIT_UNREACHABLE,
    NodeService,
    NodeSettings,
    SettingsError,
    StopReason,
)
from maille_protocol import (
    Cancel,
    Control,
    ControlOrder,
    ErrorCode,
    Log,
    NodeState,
    Offer,
    Offers,
    Reference,
    ResultStatus,
    topics,
)
from maille_protocol.limits import MAX_INLINE_CONTENT_BYTES
from maille_protocol.tensors import Array, decode_tensors, encode_tensors

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]

NODE = "n1"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with node_mesh.mosquitto(tmp_path_factory.mktemp("broker"), node_mesh.free_port()) as endpoint:
        yield endpoint


@pytest.fixture
def server() -> Iterator[ArtefactServer]:
    with ArtefactServer() as running:
        yield running


def settings(endpoint: Endpoint, tmp_path: Path, node: str | None = None) -> NodeSettings:
    return NodeSettings(
        endpoint=endpoint,
        mesh=MESH,
        node=node or f"{NODE}-{secrets.token_hex(4)}",
        slots=8,
        cache_directory=tmp_path / "cache",
        state_directory=tmp_path / "state",
    )


@contextlib.asynccontextmanager
async def running_node(node_settings: NodeSettings) -> AsyncIterator[NodeService]:
    service = NodeService(node_settings)
    task = asyncio.create_task(service.run())
    try:
        yield service
    finally:
        service.request_drain()
        service.request_drain()
        await task


def with_node(
    endpoint: Endpoint,
    server: ArtefactServer,
    tmp_path: Path,
    work: Callable[[FakeCoordinator, NodeService], Awaitable[None]],
) -> None:
    async def main() -> None:
        wanted = settings(endpoint, tmp_path)
        async with (
            node_mesh.coordinator(endpoint, wanted.node or "", server.url) as mesh,
            running_node(wanted) as service,
        ):
            await mesh.ready()
            await work(mesh, service)

    asyncio.run(main())


def images(count: int) -> list[Array]:
    random = np.random.default_rng(3)
    return [random.normal(size=(1, 64)).astype(np.float32) for _ in range(count)]


def test_tasks_go_in_and_the_answers_are_onnxruntimes(
    broker: Endpoint, server: ArtefactServer, tmp_path: Path
) -> None:
    data = node_models.digits_mlp()
    server.add(data)
    alone = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    async def work(mesh: FakeCoordinator, service: NodeService) -> None:
        assert [status.state for _, status in mesh.statuses] == [NodeState.INIT, NodeState.READY]
        for _ in range(4):
            inputs = images(8)
            ids = mesh.offer(reference(data), [encode_tensors({"X": image}) for image in inputs])
            for result, image in zip(await mesh.answers(ids), inputs, strict=True):
                assert result.status is ResultStatus.DONE, result
                assert isinstance(result.content, bytes)
                label, probabilities = alone.run(None, {"X": image})
                got = decode_tensors(result.content)
                np.testing.assert_array_equal(got["label"], label)
                np.testing.assert_allclose(
                    got["probabilities"].astype(float), probabilities, rtol=1e-5
                )
        assert service.bad_messages == 0
        seqs = [envelope.seq for envelope in mesh.envelopes if envelope.boot == service.boot]
        assert seqs == list(range(1, len(seqs) + 1))
        await mesh.until(lambda: mesh.heartbeats[-1].latency_us > 0)
        assert mesh.heartbeats[-1].warm == (reference(data).sha256[:8],)

    with_node(broker, server, tmp_path, work)


def test_large_content_goes_over_http_both_ways(
    broker: Endpoint, server: ArtefactServer, tmp_path: Path
) -> None:
    data = node_models.square()
    server.add(data)
    array = np.random.default_rng(1).normal(size=(256, 256)).astype(np.float32)
    content = encode_tensors({"x": array})
    assert len(content) > MAX_INLINE_CONTENT_BYTES
    server.add(content)
    expected = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(
        None, {"x": array}
    )[0]

    async def work(mesh: FakeCoordinator, _service: NodeService) -> None:
        given = Reference(server.add(content), len(content))
        [result] = await mesh.answers(mesh.offer(reference(data), [given]))
        assert result.status is ResultStatus.DONE, result
        assert isinstance(result.content, Reference)
        output = server.artefacts[result.content.sha256]
        assert len(output) == result.content.size_bytes
        np.testing.assert_allclose(decode_tensors(output)["y"].astype(float), expected, rtol=1e-4)

    with_node(broker, server, tmp_path, work)


def test_what_is_wrong_ends_its_task_and_nothing_else(
    broker: Endpoint, server: ArtefactServer, tmp_path: Path
) -> None:
    good, broken = node_models.digits_mlp(), b"this is not a model"
    server.add(good)
    server.add(broken)
    corrupt = node_models.digits_mlp(9)
    task = encode_tensors({"X": images(1)[0]})

    async def work(mesh: FakeCoordinator, _service: NodeService) -> None:
        server.serve_instead = []
        cases = {
            ErrorCode.MODEL_INVALID: mesh.offer(reference(broken, "broken"), [task])[0],
            ErrorCode.ARTEFACT_UNAVAILABLE: mesh.offer(reference(b"nowhere", "gone"), [task])[0],
            ErrorCode.INPUT_MALFORMED: mesh.offer(reference(good), [b"\xff"])[0],
            ErrorCode.INPUT_NAME: mesh.offer(reference(good), [encode_tensors({})])[0],
            ErrorCode.CONTENT_UNAVAILABLE: mesh.offer(
                reference(good), [Reference(b"?" * 32, 100_000)]
            )[0],
            ErrorCode.STALE_EPOCH: mesh.offer(reference(good), [task], epoch=0)[0],
            ErrorCode.DEADLINE: mesh.offer(reference(good), [task], remaining_ms=0)[0],
        }
        for code, task_id in cases.items():
            [result] = await mesh.answers([task_id])
            assert result.code is code, result
            assert isinstance(result.content, bytes)
            assert len(result.content.decode()) > 10
        server.artefacts[reference(corrupt).sha256] = corrupt[:-1] + b"!"
        [result] = await mesh.answers(mesh.offer(reference(corrupt, "corrupt"), [task]))
        assert result.code is ErrorCode.ARTEFACT_CORRUPT
        [result] = await mesh.answers(mesh.offer(reference(good), [task]))
        assert result.status is ResultStatus.DONE

    with_node(broker, server, tmp_path, work)


def test_hostile_bytes_and_retained_orders_change_nothing(
    broker: Endpoint, server: ArtefactServer, tmp_path: Path
) -> None:
    data = node_models.digits_mlp()
    server.add(data)
    task = encode_tensors({"X": images(1)[0]})

    async def work(mesh: FakeCoordinator, service: NodeService) -> None:
        where = topics.NODE_TASK.on(MESH, mesh.node)
        hostile = [
            b"",
            b"\xff" * 100,
            b"\x9f" * 5000,
            bytes(40_000),
            b"\x86\x01\x10\x00\x00\x00\xf6",
        ]
        for payload in hostile:
            mesh.link.publish(where, payload)
            mesh.link.publish(topics.NODE_CONTROL.on(MESH, mesh.node), payload)
        mesh.link.publish(where.replace("task", "unknown"), b"x")
        # A message that does not belong on its topic.
        mesh.send(topics.NODE_CANCEL, Log(10, "no"))
        [result] = await mesh.answers(mesh.offer(reference(data), [task]))
        assert result.status is ResultStatus.DONE
        assert service.bad_messages == 2 * len(hostile) + 2

    with_node(broker, server, tmp_path, work)


def test_a_cancelled_task_is_not_answered(
    broker: Endpoint, server: ArtefactServer, tmp_path: Path
) -> None:
    data = node_models.busy()
    server.add(data)
    task = encode_tensors({"products": np.array([10**7])})

    async def work(mesh: FakeCoordinator, service: NodeService) -> None:
        [task_id] = mesh.offer(reference(data), [task])
        await mesh.until(lambda: mesh.heartbeats[-1].held == ((task_id, 1),))
        mesh.send(topics.NODE_CANCEL, Cancel(((task_id, 1),)))
        await mesh.until(
            lambda: mesh.heartbeats[-1].held == () and mesh.heartbeats[-1].running == 0
        )
        assert task_id not in mesh.results
        assert service.core is not None
        assert service.core.held_count == 0

    with_node(broker, server, tmp_path, work)


def test_a_node_comes_back_after_the_broker_did(server: ArtefactServer, tmp_path: Path) -> None:
    data = node_models.digits_mlp()
    server.add(data)
    task = encode_tensors({"X": images(1)[0]})
    port = node_mesh.free_port()

    async def main() -> None:
        with contextlib.ExitStack() as first:
            endpoint = first.enter_context(node_mesh.mosquitto(tmp_path, port))
            async with (
                node_mesh.coordinator(endpoint, NODE, server.url) as mesh,
                running_node(settings(endpoint, tmp_path, NODE)),
            ):
                await mesh.ready()
                await mesh.answers(mesh.offer(reference(data), [task]))
                first.close()
                await mesh.until(lambda: not mesh.link.is_up)
                mesh.statuses.clear()
                with node_mesh.mosquitto(tmp_path, port):
                    await mesh.ready()
                    await mesh.until(lambda: mesh.link.is_up)
                    [result] = await mesh.answers(mesh.offer(reference(data), [task]))
                    assert result.status is ResultStatus.DONE

    asyncio.run(main())


def test_an_identity_of_its_own_is_stable(broker: Endpoint, tmp_path: Path) -> None:
    async def once() -> str:
        service = NodeService(replace(settings(broker, tmp_path), node=None))
        service.request_drain()
        stop = await service.run()
        assert stop.reason is StopReason.DRAINED
        return service.node

    first = asyncio.run(once())
    assert asyncio.run(once()) == first


def test_the_key_is_shown_to_the_brokers_machine_only(
    broker: Endpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = node_models.digits_mlp()
    task = encode_tensors({"X": images(1)[0]})
    caplog.set_level(logging.DEBUG)

    async def main(server: ArtefactServer) -> None:
        wanted = replace(settings(broker, tmp_path), key="s3cret-key")
        async with (
            node_mesh.coordinator(broker, wanted.node or "", server.url) as mesh,
            running_node(wanted),
        ):
            await mesh.ready()
            [result] = await mesh.answers(mesh.offer(reference(data), [task]))
            assert result.status is ResultStatus.DONE
            # TEST-NET-1: certainly not where the broker is.
            mesh.http_url = "http://192.0.2.1:7700"
            mesh.announce()
            await mesh.until(lambda: "not shown" in caplog.text)

    with ArtefactServer(key="s3cret-key") as server:
        server.add(data)
        asyncio.run(main(server))
    assert "s3cret-key" not in caplog.text


def test_a_login_shared_by_nodes_is_held_to_the_nodes_topics(
    server: ArtefactServer, tmp_path: Path
) -> None:
    data = node_models.digits_mlp()
    server.add(data)
    task = encode_tensors({"X": images(1)[0]})
    rules = [
        "topic readwrite maille/#",  # who has no user name: the coordinator of this test
        "pattern readwrite maille/1/test/n/%c/#",
        "pattern read maille/1/test/c/+",
    ]

    async def main(endpoint: Endpoint) -> None:
        wanted = settings(endpoint.with_credentials("node", "not checked"), tmp_path)
        async with (
            node_mesh.coordinator(endpoint, wanted.node or "", server.url) as mesh,
            running_node(wanted),
        ):
            await mesh.ready()
            [result] = await mesh.answers(mesh.offer(reference(data), [task]))
            assert result.status is ResultStatus.DONE

    with node_mesh.mosquitto(tmp_path, node_mesh.free_port(), rules=rules) as endpoint:
        asyncio.run(main(endpoint))


# --- errors at the start ----------------------------------------------------------------------


def test_a_refused_login_and_a_silent_port_are_told_apart(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("")
    passwords.chmod(0o600)
    port = node_mesh.free_port()
    with (
        node_mesh.mosquitto(tmp_path, port, passwords=passwords) as endpoint,
        pytest.raises(BrokerRefused),
    ):
        asyncio.run(NodeService(settings(endpoint, tmp_path)).run())
    silent = replace(settings(endpoint, tmp_path), connect_timeout_s=0.2)
    with pytest.raises(BrokerUnavailable):
        asyncio.run(NodeService(silent).run())


def test_a_cache_directory_that_cannot_be_used_is_named(broker: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(SettingsError, match="cache"):
        asyncio.run(NodeService(settings(broker, tmp_path)).run())


# --- whole processes --------------------------------------------------------------------------

PROCESS = """
import logging, sys
from pathlib import Path
from maille_broker import Endpoint
from maille_node import NodeSettings, run_node
logging.basicConfig(level=logging.INFO)
port, directory, node, timeout_s = sys.argv[1:]
sys.exit(run_node(NodeSettings(
    endpoint=Endpoint("127.0.0.1", int(port)), mesh="test", node=node,
    cache_directory=Path(directory) / "cache", state_directory=Path(directory) / "state",
    connect_timeout_s=float(timeout_s), slots=8, workers=1,
)))
"""


@contextlib.contextmanager
def process(
    port: int, tmp_path: Path, node: str, *, timeout_s: float = 5.0
) -> Iterator["subprocess.Popen[str]"]:
    started = subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(port), str(tmp_path), node, str(timeout_s)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


async def exit_of(node: "subprocess.Popen[str]") -> tuple[int, str]:
    _, log = await asyncio.to_thread(node.communicate, None, 15)
    return node.returncode, log


def with_process(
    broker: Endpoint,
    server: ArtefactServer,
    tmp_path: Path,
    work: Callable[[FakeCoordinator, "subprocess.Popen[str]"], Awaitable[None]],
) -> None:
    async def main() -> None:
        node = f"{NODE}-{secrets.token_hex(4)}"
        async with node_mesh.coordinator(broker, node, server.url) as mesh:
            with process(broker.port, tmp_path, node) as running:
                await mesh.ready()
                await work(mesh, running)

    asyncio.run(main())


def test_sigterm_finishes_what_is_held_and_exits_with_0(
    broker: Endpoint, server: ArtefactServer, tmp_path: Path
) -> None:
    data = node_models.busy()
    server.add(data)
    task = encode_tensors({"products": np.array([4000])})

    async def work(mesh: FakeCoordinator, node: "subprocess.Popen[str]") -> None:
        ids = mesh.offer(reference(data), [task] * 5)
        await mesh.until(lambda: bool(mesh.results))
        node.send_signal(signal.SIGTERM)
        await mesh.until(lambda: mesh.statuses[-1][1].state is NodeState.DRAINING)
        assert len(mesh.results) < len(ids)
        await mesh.until(lambda: mesh.statuses[-1][1].state is NodeState.DISCONNECTED)
        assert {result.status for result in await mesh.answers(ids)} == {ResultStatus.DONE}
        code, log = await exit_of(node)
        assert code == EXIT_OK, log

    with_process(broker, server, tmp_path, work)


def test_a_second_sigterm_gives_the_tasks_back_at_once(
    broker: Endpoint, server: ArtefactServer, tmp_path: Path
) -> None:
    data = node_models.busy()
    server.add(data)
    task = encode_tensors({"products": np.array([10**7])})

    async def work(mesh: FakeCoordinator, node: "subprocess.Popen[str]") -> None:
        ids = mesh.offer(reference(data), [task] * 8)
        await mesh.until(lambda: bool(mesh.heartbeats[-1].running))
        node.send_signal(signal.SIGTERM)
        await mesh.until(lambda: mesh.statuses[-1][1].state is NodeState.DRAINING)
        node.send_signal(signal.SIGTERM)
        assert {result.code for result in await mesh.answers(ids)} == {ErrorCode.DRAINING}
        await mesh.until(lambda: mesh.statuses[-1][1].state is NodeState.DISCONNECTED)
        code, log = await exit_of(node)
        assert code == EXIT_UNFINISHED, log
        assert "given back" in log

    with_process(broker, server, tmp_path, work)


def test_sigkill_leaves_the_will_with_the_boot(
    broker: Endpoint, server: ArtefactServer, tmp_path: Path
) -> None:
    async def work(mesh: FakeCoordinator, node: "subprocess.Popen[str]") -> None:
        boot = mesh.statuses[-1][0]
        node.kill()
        await mesh.until(lambda: mesh.statuses[-1][1].state is NodeState.LOST)
        assert mesh.statuses[-1][0] == boot

    with_process(broker, server, tmp_path, work)


def test_a_duplicate_stops_with_its_own_exit_code(
    broker: Endpoint, server: ArtefactServer, tmp_path: Path
) -> None:
    async def work(mesh: FakeCoordinator, node: "subprocess.Popen[str]") -> None:
        boot = mesh.statuses[-1][0]
        with process(broker.port, tmp_path, mesh.node) as other:
            # Both stay connected until the coordinator has told them apart.
            await mesh.until(
                lambda: {b for b, s in mesh.statuses if s.state is NodeState.READY} > {boot}
            )
            second = mesh.statuses[-1][0]
            mesh.send(topics.NODE_CONTROL, ControlOrder(Control.STOP_DUPLICATE, second, "two"))
            code, log = await exit_of(other)
            assert code == EXIT_DUPLICATE, log
            assert "another id" in log
        beats = len(mesh.heartbeats)
        await mesh.until(lambda: len(mesh.heartbeats) > beats)
        assert node.poll() is None

    with_process(broker, server, tmp_path, work)


def test_exit_codes_of_a_start_that_cannot_work(tmp_path: Path) -> None:
    async def main() -> None:
        port = node_mesh.free_port()
        passwords = tmp_path / "passwords"
        passwords.write_text("")
        passwords.chmod(0o600)
        with node_mesh.mosquitto(tmp_path, port, passwords=passwords):
            with process(port, tmp_path, NODE) as refused:
                code, log = await exit_of(refused)
                assert code == EXIT_REFUSED
                assert "refused the login" in log
            (tmp_path / "file").mkdir()
            (tmp_path / "file" / "cache").write_text("")
            with process(port, tmp_path / "file", NODE) as misled:
                code, log = await exit_of(misled)
                assert code == EXIT_SETTINGS
                assert "cache directory" in log
        with process(port, tmp_path, NODE, timeout_s=0.3) as lonely:
            code, log = await exit_of(lonely)
            assert code == EXIT_UNREACHABLE
            assert "Traceback" not in log

    asyncio.run(main())


def test_offers_repeated_by_a_new_coordinator_run_once(
    broker: Endpoint, server: ArtefactServer, tmp_path: Path
) -> None:
    data = node_models.digits_mlp()
    server.add(data)
    task = encode_tensors({"X": images(1)[0]})

    async def work(mesh: FakeCoordinator, service: NodeService) -> None:
        [task_id] = mesh.offer(reference(data), [task])
        [first] = await mesh.answers([task_id])
        mesh.epoch = 2
        mesh.announce()
        await mesh.until(lambda: len(mesh.results[task_id]) == 2)
        mesh.send(topics.NODE_TASK, Offers(reference(data), (Offer(task_id, 2, 60_000, 0, task),)))
        await mesh.until(lambda: len(mesh.results[task_id]) == 3)
        again = mesh.results[task_id][-1]
        assert (again.epoch, again.attempt, again.content) == (2, 2, first.content)
        assert service.runtime is not None
        counters = service.runtime.counters
        assert counters.inline + counters.threaded == 1

    with_node(broker, server, tmp_path, work)
