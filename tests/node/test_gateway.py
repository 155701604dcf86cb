"""The gateway with a real broker, a real pseudo terminal and boards whose link is in Python."""

import asyncio
import contextlib
import fcntl
import functools
import json
import logging
import os
import pty
import tty
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ParamSpec

import numpy as np
import pytest
from node_mesh import (
    MESH,
    ArtefactServer,
    FakeCoordinator,
    coordinator,
    free_port,
    mosquitto,
    reference,
)

from maille_broker import Endpoint, loop_factory
from maille_node.gateway import GatewayService, GatewaySettings
from maille_node.gateway import port as port_module
from maille_node.gateway.metrics import metrics_text, serve_metrics
from maille_protocol import (
    BoardState,
    Cancel,
    Chunk,
    Control,
    ControlOrder,
    ErrorCode,
    Log,
    ModelFormat,
    ModelOrder,
    ModelReference,
    ModelReport,
    NodeInfo,
    NodeState,
    Offer,
    Offers,
    Readings,
    ResultStatus,
    SenseOrder,
    TaskFlag,
    topics,
)
from maille_protocol.codes import ModelCommand, ModelState, SenseCommand, SenseMode
from maille_protocol.serial.messages import BoardLog
from maille_protocol.tensors import decode_tensors, encode_tensors
from maille_simulator.boards.serial_board import Plan, SerialBoard

VECTORS = Path(__file__).parents[2] / "protocol" / "vectors" / "tiny.json"
MODEL = bytes.fromhex(
    next(v for v in json.loads(VECTORS.read_text())["good"] if v["name"] == "dense_by_hand")["hex"]
)
NODE = "uno-05060708"
INPUTS = encode_tensors({"x0": np.array([0x14, 0x05], np.uint8)})


Parameters = ParamSpec("Parameters")


def in_loop(
    test: Callable[Parameters, Coroutine[None, None, None]],
) -> Callable[Parameters, None]:
    """Run a coroutine as a test, on the event loop that users get."""

    @functools.wraps(test)
    def run(*arguments: Parameters.args, **named: Parameters.kwargs) -> None:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(test(*arguments, **named))

    return run


def tiny(data: bytes = MODEL) -> ModelReference:
    return replace(reference(data), format=ModelFormat.TINY)


@dataclass
class World:
    """Broker, coordinator, gateway."""

    settings: GatewaySettings
    mesh: FakeCoordinator
    service: GatewayService
    server: ArtefactServer
    running: asyncio.Task[None]

    def messages(self, kind: type[object]) -> list[object]:
        return [
            envelope.message
            for envelope in self.mesh.envelopes
            if isinstance(envelope.message, kind)
        ]

    def count(self, kind: type[object]) -> int:
        return len(self.messages(kind))

    async def until_more(self, kind: type[object], than: int) -> None:
        await self.mesh.until(lambda: self.count(kind) > than)

    def state(self, path: str) -> str:
        return next((s.state for s in self.service.status() if s.path == path), "")

    async def result(self, model: ModelReference, content: bytes = INPUTS) -> tuple[object, ...]:
        found = (await self.mesh.answers(self.mesh.offer(model, [content])))[0]
        return found.status, found.code, found.content


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less patience than with real boards, whose bootloaders take two seconds."""
    for name, value in (
        ("FIRST_HELLO_S", 0.6),
        ("BOARD_LOST_S", 1.2),
        ("RESET_AFTER_S", 0.4),
        ("RESET_EVERY_S", 0.5),
    ):
        monkeypatch.setattr(port_module, name, value)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Endpoint]:
    with mosquitto(tmp_path, free_port()) as endpoint:
        yield endpoint


@contextlib.asynccontextmanager
async def gateway(
    broker: Endpoint, directory: Path, *ports: str, node: str = NODE
) -> AsyncIterator[World]:
    settings = GatewaySettings(
        endpoint=broker,
        mesh=MESH,
        gateway="gw",
        ports=ports,
        cache_directory=directory / "cache",
        state_directory=directory / "state",
    )
    with ArtefactServer() as server:
        server.add(MODEL)
        async with coordinator(broker, node, server.url, hears_all=False) as mesh:
            service = GatewayService(settings)
            running = asyncio.create_task(service.run())
            try:
                yield World(settings, mesh, service, server, running)
            finally:
                service.stop()
                await running


@contextlib.contextmanager
def plugged(*plans: Plan) -> Iterator[list[SerialBoard]]:
    boards = [SerialBoard(plan) for plan in plans]
    try:
        for board in boards:
            board.start()
        yield boards
    finally:
        for board in boards:
            board.close()


@in_loop
async def test_a_board_joins_runs_tasks_and_leaves(broker: Endpoint, tmp_path: Path) -> None:
    with plugged(Plan(built_in=(MODEL,))) as [board]:
        async with gateway(broker, tmp_path, board.path) as world:
            await world.mesh.ready()
            info = world.messages(NodeInfo)[-1]
            assert isinstance(info, NodeInfo)
            assert (info.gateway, info.name, info.slots) == ("gw", "uno", 1)
            assert info.measured.multiply_accumulates_per_s == 16_000_000 * 100 // 1150
            state = world.messages(BoardState)[-1]
            assert isinstance(state, BoardState)
            assert [(model.sha256, model.removable) for model in state.models] == [
                (tiny().sha256, False)
            ]
            assert [sensor.name for sensor in state.sensors] == ["a0"]
            status, code, content = await world.result(tiny())
            assert (status, code) == (ResultStatus.DONE, ErrorCode.NONE)
            assert isinstance(content, bytes)
            assert [array.tolist() for array in decode_tensors(content).values()] == [[0x25]]
            assert world.state(board.path) == "online"
            assert world.service.status()[0].baud == 1_000_000
            world.service.stop()
            await world.mesh.until(
                lambda: world.mesh.statuses[-1][1].state is NodeState.DISCONNECTED
            )


@in_loop
async def test_bad_tasks_are_answered(broker: Endpoint, tmp_path: Path) -> None:
    with plugged(Plan(built_in=(MODEL,))) as [board]:
        async with gateway(broker, tmp_path, board.path) as world:
            await world.mesh.ready()
            wrong_shape = encode_tensors({"x0": np.zeros(3, np.uint8)})
            floats = encode_tensors({"x0": np.zeros(2, np.float32)})
            for content, expected in (
                (b"\xff", ErrorCode.INPUT_MALFORMED),
                (wrong_shape, ErrorCode.INPUT_SHAPE),
                (floats, ErrorCode.INPUT_TYPE),
            ):
                assert (await world.result(tiny(), content))[1] is expected
            other = ModelReference("other", 1, bytes(32), 100, ModelFormat.TINY)
            assert (await world.result(other))[:2] == (
                ResultStatus.REFUSED,
                ErrorCode.MODEL_NOT_HELD,
            )
            onnx = reference(MODEL)
            assert (await world.result(onnx))[1] is ErrorCode.UNSUPPORTED_FORMAT


@in_loop
async def test_a_task_survives_a_broken_session_and_a_reset_is_a_new_boot(
    broker: Endpoint, tmp_path: Path
) -> None:
    with plugged(Plan(built_in=(MODEL,), answers=False)) as [board]:
        async with gateway(broker, tmp_path, board.path) as world:
            await world.mesh.ready()
            [task] = world.mesh.offer(tiny(), [INPUTS])
            await world.mesh.until(lambda: len(board.offers) == 1)
            board.hushed = True
            await asyncio.sleep(0.7)
            board.plan.answers = True
            board.hushed = False
            [result] = await world.mesh.answers([task])
            assert result.status is ResultStatus.DONE
            assert len(board.offers) == 2
            assert len({boot for boot, _ in world.mesh.statuses}) == 1
            board.reset()
            await world.mesh.until(lambda: len({boot for boot, _ in world.mesh.statuses}) == 2)
            await world.mesh.ready()
            assert (await world.result(tiny()))[0] is ResultStatus.DONE
            # The broker itself tells of the old start's end.
            lost = [status for _, status in world.mesh.statuses if status.state is NodeState.LOST]
            assert len(lost) == 1


@in_loop
async def test_an_at_most_once_task_that_a_board_refuses_may_go_elsewhere(
    broker: Endpoint, tmp_path: Path
) -> None:
    with plugged(Plan(built_in=(MODEL,), refusals=1)) as [board]:
        async with gateway(broker, tmp_path, board.path) as world:
            await world.mesh.ready()
            tasks = world.mesh.offer(tiny(), [INPUTS], flags=TaskFlag.AT_MOST_ONCE)
            [result] = await world.mesh.answers(tasks)
            # REFUSED says to the coordinator that it did not run.
            assert (result.status, result.code) == (ResultStatus.REFUSED, ErrorCode.BUSY)
            tasks = world.mesh.offer(tiny(), [INPUTS], flags=TaskFlag.AT_MOST_ONCE)
            [result] = await world.mesh.answers(tasks)
            assert result.status is ResultStatus.DONE


@in_loop
async def test_an_at_most_once_task_is_not_repeated_after_a_broken_session(
    broker: Endpoint, tmp_path: Path
) -> None:
    with plugged(Plan(built_in=(MODEL,), answers=False)) as [board]:
        async with gateway(broker, tmp_path, board.path) as world:
            await world.mesh.ready()
            [task] = world.mesh.offer(tiny(), [INPUTS], flags=TaskFlag.AT_MOST_ONCE)
            await world.mesh.until(lambda: len(board.offers) == 1)
            board.hushed = True
            await asyncio.sleep(0.7)
            board.plan.answers = True
            board.hushed = False
            [result] = await world.mesh.answers([task])
            # Not refused: it may have run, and the coordinator must not try again.
            assert (result.status, result.code) == (ResultStatus.FAILED, ErrorCode.NODE_ERROR)
            assert isinstance(result.content, bytes)
            assert b"the line to the board broke" in result.content
            assert (await world.result(tiny()))[0] is ResultStatus.DONE
            assert len(board.offers) == 2


@in_loop
async def test_delivery_to_a_board_and_eviction(broker: Endpoint, tmp_path: Path) -> None:
    with plugged(Plan()) as [board]:
        async with gateway(broker, tmp_path, board.path) as world:
            await world.mesh.ready()

            def reports() -> list[ModelReport]:
                return [m for m in world.messages(ModelReport) if isinstance(m, ModelReport)]

            world.mesh.send(topics.NODE_MODEL, ModelOrder(ModelCommand.DEPLOY, tiny(), 5))
            await world.mesh.until(lambda: bool(reports()))
            want = reports()[-1]
            assert (want.state, want.offset, want.length) == (ModelState.WANT, 0, len(MODEL))
            world.mesh.send(topics.NODE_CHUNK, Chunk(tiny().sha256, 3, MODEL[3:]))
            world.mesh.send(topics.NODE_CHUNK, Chunk(tiny().sha256, 0, MODEL[:40]))
            await world.mesh.until(lambda: reports()[-1].offset == 40)
            world.mesh.send(topics.NODE_CHUNK, Chunk(tiny().sha256, 40, MODEL[40:]))
            await world.mesh.until(lambda: reports()[-1].state is ModelState.READY)
            assert reports()[-1].nonce == 5
            assert board.eeprom == {0: MODEL}
            assert (await world.result(tiny()))[0] is ResultStatus.DONE
            world.mesh.send(topics.NODE_MODEL, ModelOrder(ModelCommand.EVICT, tiny(), 6))
            await world.mesh.until(lambda: reports()[-1].state is ModelState.GONE)
            await world.mesh.until(
                lambda: (
                    isinstance(last := world.messages(BoardState)[-1], BoardState)
                    and not last.models
                )
            )
            assert (await world.result(tiny()))[1] is ErrorCode.MODEL_NOT_HELD


@in_loop
async def test_a_delivery_that_cannot_be(broker: Endpoint, tmp_path: Path) -> None:
    with plugged(Plan()) as [board]:
        async with gateway(broker, tmp_path, board.path) as world:
            await world.mesh.ready()
            damaged = bytes(len(MODEL))
            for model, chunk, expected in (
                (reference(MODEL), b"", ErrorCode.UNSUPPORTED_FORMAT),
                (replace(tiny(), size_bytes=5000), b"", ErrorCode.MODEL_TOO_LARGE),
                (tiny(), damaged, ErrorCode.ARTEFACT_CORRUPT),
                (tiny(b"no model at all"), b"no model at all", ErrorCode.MODEL_INVALID),
            ):
                before = world.count(ModelReport)
                world.mesh.send(topics.NODE_MODEL, ModelOrder(ModelCommand.DEPLOY, model, 7))
                await world.until_more(ModelReport, before)
                if chunk:
                    world.mesh.send(topics.NODE_CHUNK, Chunk(model.sha256, 0, chunk))
                    await world.until_more(ModelReport, before + 1)
                last = world.messages(ModelReport)[-1]
                assert isinstance(last, ModelReport)
                assert (last.state, last.code) == (ModelState.FAILED, expected)
                assert last.text
            assert not board.eeprom


@in_loop
async def test_senses(broker: Endpoint, tmp_path: Path) -> None:
    with plugged(Plan(built_in=(MODEL,))) as [board]:
        async with gateway(broker, tmp_path, board.path) as world:
            await world.mesh.ready()

            def readings() -> list[tuple[int, ErrorCode]]:
                return [
                    (reading.counter, reading.code)
                    for message in world.messages(Readings)
                    if isinstance(message, Readings)
                    for reading in message.readings
                ]

            start = SenseOrder(
                SenseCommand.START, 70_000, tiny().sha256, "a0", 20, SenseMode.ALWAYS
            )
            world.mesh.send(topics.NODE_SENSE, replace(start, sensor="a9"))
            await world.mesh.until(lambda: readings() == [(0, ErrorCode.NO_SUCH_SENSOR)])
            world.mesh.send(topics.NODE_SENSE, start)
            await world.mesh.until(lambda: (3, ErrorCode.NONE) in readings(), 3)
            world.mesh.send(topics.NODE_SENSE, replace(start, command=SenseCommand.STOP))
            await world.mesh.until(
                lambda: (
                    isinstance(last := world.messages(BoardState)[-1], BoardState)
                    and not last.senses
                )
            )


@in_loop
async def test_unplugging_is_a_loss_and_plugging_in_a_return(
    broker: Endpoint, tmp_path: Path
) -> None:
    link = tmp_path / "tty"
    with plugged(Plan(built_in=(MODEL,)), Plan(built_in=(MODEL,))) as [first, second]:
        link.symlink_to(first.path)
        async with gateway(broker, tmp_path, str(link)) as world:
            await world.mesh.ready()
            link.unlink()
            link.symlink_to(second.path)
            first.close()
            await world.mesh.until(lambda: world.mesh.statuses[-1][1].state is NodeState.LOST)
            await world.mesh.ready()
            assert (await world.result(tiny()))[0] is ResultStatus.DONE


@in_loop
async def test_a_board_that_hangs_is_reset_and_then_given_up(
    broker: Endpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with plugged(Plan(built_in=(MODEL,)), Plan(identity=b"\2" * 8)) as [board, other]:
        async with gateway(broker, tmp_path, board.path, other.path) as world:
            await world.mesh.until(lambda: world.state(board.path) == "online")
            await world.mesh.until(lambda: world.state(other.path) == "online")
            caplog.set_level(logging.ERROR)
            board.hushed = True
            await world.mesh.until(lambda: world.state(board.path) == "searching")
            assert "does not answer any more" in caplog.text
            status = next(s for s in world.service.status() if s.path == board.path)
            assert status.resets_by_gateway >= 1
            assert world.state(other.path) == "online"
            board.hushed = False
            board.reset()
            await world.mesh.until(lambda: world.state(board.path) == "online")


@in_loop
async def test_orders_to_a_board(
    broker: Endpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with plugged(Plan(built_in=(MODEL,))) as [board]:
        async with gateway(broker, tmp_path, board.path) as world:
            await world.mesh.ready()
            board.say(BoardLog(30, "hot\x1b[2J"))
            await world.mesh.until(lambda: world.count(Log) == 1)
            assert "it says: hot?[2J" in caplog.text
            world.mesh.send(topics.NODE_CONTROL, ControlOrder(Control.DRAIN, 0, "service"))
            await world.mesh.until(lambda: world.mesh.statuses[-1][1].state is NodeState.DRAINING)
            assert (await world.result(tiny()))[1] is ErrorCode.DRAINING
            world.mesh.send(topics.NODE_CONTROL, ControlOrder(Control.RESUME, 0, ""))
            await world.mesh.ready()
            world.mesh.send(topics.NODE_MODEL, ModelOrder(ModelCommand.CALIBRATE, None, 9))
            await world.mesh.until(lambda: world.count(ModelReport) == 1)
            report = world.messages(ModelReport)[0]
            assert isinstance(report, ModelReport)
            assert (report.state, report.nonce) == (ModelState.CALIBRATED, 9)
            boot = world.mesh.statuses[-1][0]
            world.mesh.send(topics.NODE_CONTROL, ControlOrder(Control.STOP_DUPLICATE, boot, "twin"))
            await world.mesh.until(lambda: world.state(board.path) == "unfit")
            assert "another node with this id" in world.service.status()[0].problem


@in_loop
async def test_a_gateway_passes_late_copies_over_for_its_board(
    broker: Endpoint, tmp_path: Path
) -> None:
    with plugged(Plan(built_in=(MODEL,))) as [board]:
        async with gateway(broker, tmp_path, board.path) as world:
            mesh = world.mesh
            await mesh.ready()
            drain = ControlOrder(Control.DRAIN, 0, "service")
            mesh.send(topics.NODE_CONTROL, drain)
            drain_seq = mesh.seq
            once = TaskFlag.AT_MOST_ONCE
            offer = Offer(bytes(16), 1, 60_000, once, INPUTS, mesh.boot)
            mesh.send(topics.NODE_TASK, Offers(tiny(), (offer,)))
            assert (await mesh.answers([offer.task_id]))[0].code is ErrorCode.DRAINING
            mesh.send(topics.NODE_CONTROL, ControlOrder(Control.RESUME, 0, ""))
            await mesh.ready()
            mesh.send(topics.NODE_CONTROL, drain, seq=drain_seq)
            mesh.send(topics.NODE_TASK, Offers(tiny(), (offer,)))
            assert (await world.result(tiny()))[0] is ResultStatus.DONE
            assert len(mesh.results[offer.task_id]) == 1


@in_loop
async def test_a_cancelled_task_ends_on_the_board(broker: Endpoint, tmp_path: Path) -> None:
    with plugged(Plan(built_in=(MODEL,), answers=False)) as [board]:
        async with gateway(broker, tmp_path, board.path) as world:
            await world.mesh.ready()
            [task] = world.mesh.offer(tiny(), [INPUTS])
            await world.mesh.until(lambda: len(board.offers) == 1)
            world.mesh.send(topics.NODE_CANCEL, Cancel(((task, 1),)))
            await world.mesh.until(lambda: board.cancels == board.offers)
            board.plan.answers = True
            assert (await world.result(tiny()))[0] is ResultStatus.DONE
            assert task not in world.mesh.results


# --- bad input: a clear message each, the others unharmed ------------------------------------------


@in_loop
async def test_strangers_on_the_ports(
    broker: Endpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    modem, silent = FakeLine(answer=b"\r\nERROR\r\n"), FakeLine(answer=b"")
    endless = FakeLine(answer=b"\x55" * 64)
    plans = (Plan(built_in=(MODEL,)), Plan(schema=b"\1\2\3\4"), Plan(window_bytes=8))
    try:
        with plugged(*plans) as [good, old, narrow]:
            lines = [modem.path, silent.path, endless.path]
            paths = [good.path, old.path, narrow.path, *lines]
            async with gateway(broker, tmp_path, *paths) as world:
                await world.mesh.ready()
                await world.mesh.until(
                    lambda: (
                        all(world.state(path) == "stranger" for path in lines)
                        and world.state(old.path) == world.state(narrow.path) == "unfit"
                    )
                )
                problems = {status.path: status.problem for status in world.service.status()}
                assert "ERROR" in problems[modem.path]
                assert "it said nothing" in problems[silent.path]
                assert "UUUU" in problems[endless.path]
                assert "01020304" in problems[old.path]
                assert "8 bytes" in problems[narrow.path]
                for problem in problems.values():
                    assert not problem or "flash" in problem or "sketch" in problem
                assert caplog.text.count("01020304") == 1
                assert (await world.result(tiny()))[0] is ResultStatus.DONE
    finally:
        for line in (modem, silent, endless):
            line.close()


@in_loop
async def test_a_board_that_lies_about_its_window(
    broker: Endpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It says 255 and holds 40 bytes: its frames are cut until they fit, and the message says why."""
    liar = Plan(identity=b"\2" * 8, window_bytes=255, ring_bytes=40)
    with plugged(Plan(built_in=(MODEL,)), liar) as [good, lying]:
        node = "uno-02020202"
        async with gateway(broker, tmp_path, good.path, lying.path, node=node) as world:
            await world.mesh.until(lambda: world.state(lying.path) == "online")
            world.mesh.send(topics.NODE_MODEL, ModelOrder(ModelCommand.DEPLOY, tiny(), 5))
            await world.until_more(ModelReport, 0)
            world.mesh.send(topics.NODE_CHUNK, Chunk(tiny().sha256, 0, MODEL))
            await world.mesh.until(lambda: lying.eeprom == {0: MODEL})
            assert (await world.result(tiny()))[0] is ResultStatus.DONE
            port = next(s for s in world.service.status() if s.path == lying.path)
            assert port.window_bytes < 255
            assert world.state(good.path) == "online"
    notes = [record.getMessage() for record in caplog.records if "as if it held" in record.message]
    assert notes
    assert all(note.startswith(lying.path) for note in notes), notes
    assert "a receive buffer of 255 bytes" in notes[0]
    assert "correct the window in the sketch" in notes[0]


@in_loop
async def test_two_gateways_on_one_port_and_a_port_that_is_not_there(
    broker: Endpoint, tmp_path: Path
) -> None:
    with plugged(Plan(built_in=(MODEL,))) as [board]:
        async with gateway(broker, tmp_path, board.path) as world:
            await world.mesh.ready()
            missing = str(tmp_path / "missing")
            second = GatewayService(
                replace(world.settings, gateway="gw2", ports=(board.path, missing))
            )
            running = asyncio.create_task(second.run())
            await world.mesh.until(lambda: len(second.status()) == 2)
            problems = {status.path: status.problem for status in second.status()}
            assert "used by another program" in problems[board.path]
            assert "is not there" in problems[missing]
            states = {status.path: status.state for status in second.status()}
            assert states == {board.path: "busy", missing: "missing"}
            assert (await world.result(tiny()))[0] is ResultStatus.DONE
            second.stop()
            await running


@in_loop
async def test_noise_and_hostile_boards_do_no_harm(broker: Endpoint, tmp_path: Path) -> None:
    with plugged(Plan(built_in=(MODEL,)), Plan(identity=b"\2" * 8)) as [good, wild]:
        async with gateway(broker, tmp_path, good.path, wild.path) as world:
            await world.mesh.until(lambda: world.state(wild.path) == "online")
            await world.mesh.until(lambda: world.state(good.path) == "online")
            for number in range(200):
                wild.write_raw(os.urandom(50))
                if number % 20 == 0:
                    await asyncio.sleep(0.01)
            port = next(s for s in world.service.status() if s.path == wild.path)
            assert (await world.result(tiny()))[0] is ResultStatus.DONE
            await world.mesh.until(lambda: world.state(wild.path) == "online")
            assert port.counters.bad_frames > 0


@in_loop
async def test_metrics(broker: Endpoint, tmp_path: Path) -> None:
    with plugged(Plan(built_in=(MODEL,))) as [board]:
        async with gateway(broker, tmp_path, board.path) as world:
            await world.mesh.ready()
            await world.result(tiny())
            async with serve_metrics(world.service, 0) as port:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
                answer = (await reader.read()).decode()
                writer.close()
    assert f'maille_serial_online{{port="{board.path}",node="{NODE}"}} 1' in answer
    assert f'maille_serial_tasks_done_total{{port="{board.path}",node="{NODE}"}} 1' in answer
    assert 'maille_gateway_online{gateway="gw"} 1' in answer
    assert 'maille_gateway_boards{gateway="gw"} 1' in answer
    assert metrics_text([]).count("# TYPE") == answer.count("# TYPE")


class FakeLine:
    """A serial port with something else on it, which answers every write the same."""

    def __init__(self, answer: bytes) -> None:
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        fcntl.fcntl(self._master, fcntl.F_SETFL, os.O_NONBLOCK)
        self.path = os.ttyname(self._slave)
        self._answer = answer
        asyncio.get_event_loop().add_reader(self._master, self._readable)

    def _readable(self) -> None:
        with contextlib.suppress(OSError):
            os.read(self._master, 4096)
            os.write(self._master, self._answer)

    def close(self) -> None:
        asyncio.get_event_loop().remove_reader(self._master)
        os.close(self._master)
        os.close(self._slave)
