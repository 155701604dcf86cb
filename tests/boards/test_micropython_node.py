"""A board's process against real brokers, with a coordinator that does what the test says."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pytest
from board_mesh import Board, Peer, Switch, outputs, peer
from board_models import classifier, random_input, reference, sensor_model, with_wrong_test

from maille_broker import start_broker
from maille_protocol import (
    Cancel,
    Control,
    ControlOrder,
    ErrorCode,
    Kernel,
    ModelCommand,
    ModelFormat,
    ModelOrder,
    ModelReference,
    ModelState,
    NodeKind,
    NodeState,
    NodeStatus,
    Offer,
    Offers,
    Reference,
    ResultStatus,
    SenseCommand,
    SenseMode,
    SenseOrder,
    TaskFlag,
    topics,
)
from maille_protocol.tensors import encode_tensors
from maille_protocol.tiny import encode_model, run

# amqtt, in this process, leaves cut connections to the garbage collector: `play` calls it, so that
# its warnings come while they are ignored, not in whatever test runs next.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

Kind: TypeAlias = Literal["amqtt", "mosquitto", "nats"]
BROKERS: tuple[Kind, ...] = ("amqtt", "mosquitto", "nats")
MODEL = classifier(1)
CONTAINER = encode_model(MODEL)
OTHER = encode_model(classifier(2))
SENSED = encode_model(sensor_model())
SENSORS = {
    "light": {"kind": "fake", "readings": [[0.1, 0.9, 0.2, 0.3], [0.1, 0.9, 0.2, 0.4]]},
    "turning": {"kind": "fake", "readings": [[0.9, 0, 0, 0], [0, 0.9, 0, 0]]},
    "narrow": {"kind": "fake", "readings": [[0.5, 0.5]]},
    "broken": {"kind": "fake", "readings": [["no number"] * 4]},
}


@asynccontextmanager
async def mesh(
    folder: Path,
    kind: Kind = "mosquitto",
    *,
    settings: dict[str, object] | None = None,
    heap: str = "256k",
) -> AsyncIterator[tuple[Board, Peer, Switch]]:
    """A broker, a peer, a board behind a switch, ready."""
    async with await start_broker(kind, port=0, data_directory=folder / "broker") as broker:
        switch = Switch(broker.endpoint.port)
        await switch.start()
        made = Board(
            folder / "board",
            switch.port,
            settings={"sensors": SENSORS, **(settings or {})},
            heap=heap,
        )
        try:
            async with peer(broker.endpoint) as other:
                made.start()
                await other.ready()
                yield made, other, switch
        finally:
            made.kill()
            await switch.stop()


def play(story: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(story())
    gc.collect()


def expected(seed: int) -> list[int]:
    (output,) = run(MODEL, [random_input(MODEL, seed)])
    return [int(value) for value in output]


@pytest.mark.parametrize("kind", BROKERS)
def test_join_deploy_and_infer(kind: Kind, tmp_path: Path) -> None:
    async def story() -> None:
        async with mesh(tmp_path, kind) as (_, coordinator, _switch):
            info = coordinator.info()
            assert info.kind is NodeKind.MICROPYTHON
            assert info.formats == (ModelFormat.TINY,)
            assert info.slots == 1
            assert info.max_message_bytes == 768
            assert info.measured.multiply_accumulates_per_s > 1000
            state = coordinator.board_state()
            assert {speed.kernel for speed in state.kernels} == set(Kernel)
            assert all(speed.operations_per_s > 1000 for speed in state.kernels)
            assert state.models == ()
            births = {e.seq: type(e.message).__name__ for e in coordinator.envelopes}
            order = ["NodeStatus", "NodeInfo", "BoardState", "Heartbeat", "NodeStatus"]
            assert [births.get(seq) for seq in range(1, 6)] == order

            refused = await coordinator.answer(coordinator.offer(CONTAINER, random_input(MODEL, 1)))
            assert (refused.status, refused.code) == (
                ResultStatus.REFUSED,
                ErrorCode.MODEL_NOT_HELD,
            )
            report = await coordinator.deployed(CONTAINER)
            assert report.state is ModelState.READY
            assert report.run_us > 0
            assert coordinator.wanted == list(range(0, len(CONTAINER), 512))
            await coordinator.until(lambda: coordinator.board_state().models)
            (held,) = coordinator.board_state().models
            assert (held.sha256, held.removable) == (reference(CONTAINER).sha256, True)
            for seed in range(20):
                task = coordinator.offer(CONTAINER, random_input(MODEL, seed))
                result = await coordinator.answer(task)
                assert result.status is ResultStatus.DONE
                assert outputs(result) == {"y": expected(seed)}
            await coordinator.until(
                lambda: coordinator.heartbeat().warm == (reference(CONTAINER).sha256[:8],)
            )

    play(story)


def test_delivery_survives_lost_chunks_and_a_power_cut_and_goes_on(tmp_path: Path) -> None:
    async def story() -> None:
        async with mesh(tmp_path) as (board, coordinator, _):
            await coordinator.deployed(CONTAINER)
            lost = {512, 1024}
            coordinator.wanted.clear()

            def lose(offset: int) -> bool:
                if offset in lost:
                    lost.remove(offset)
                    return True
                return offset == 2048

            coordinator.lose_chunk = lose
            coordinator.deploy(OTHER, nonce=2)
            await coordinator.until(lambda: 2048 in coordinator.wanted)
            assert coordinator.wanted.count(512) == 2
            board.kill()
            coordinator.lose_chunk = lambda _offset: False
            board.start()
            await coordinator.ready(births=2)
            (held,) = coordinator.board_state().models
            assert held.sha256 == reference(CONTAINER).sha256
            coordinator.wanted.clear()
            report = await coordinator.deployed(OTHER, nonce=2)
            assert report.state is ModelState.READY
            assert coordinator.wanted[0] == 2048
            # The one before it is no longer held; asked for again it is delivered again.
            task = coordinator.offer(CONTAINER, random_input(MODEL, 1))
            assert (await coordinator.answer(task)).code is ErrorCode.MODEL_NOT_HELD

    play(story)


def test_models_that_cannot_be_taken_are_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    async def story() -> None:
        async with mesh(tmp_path, settings={"arena_bytes": 200}) as (_, coordinator, _switch):
            await coordinator.deployed(CONTAINER)
            wrong_hash = bytearray(OTHER)
            wrong_hash[-1] ^= 1
            coordinator.artefacts[reference(OTHER).sha256] = bytes(wrong_hash)
            order = ModelOrder(ModelCommand.DEPLOY, reference(OTHER), 2)
            coordinator.send(topics.NODE_MODEL, order)
            await coordinator.until(lambda: coordinator.reports(ModelState.FAILED))
            failed_test = await coordinator.deployed(with_wrong_test(classifier(3)), nonce=3)
            version = bytearray(OTHER)
            version[6] = 2
            other_version = await coordinator.deployed(bytes(version), nonce=4)
            arena = await coordinator.deployed(encode_model(classifier(4, inputs=180)), nonce=5)
            too_large = await coordinator.deployed(bytes(9000), nonce=6)
            damaged = await coordinator.deployed(OTHER[:-40], nonce=7)
            onnx = ModelReference("m", 1, bytes(32), 100, ModelFormat.ONNX)
            coordinator.send(topics.NODE_MODEL, ModelOrder(ModelCommand.DEPLOY, onnx, 8))
            await coordinator.until(lambda: coordinator.reports(ModelState.FAILED)[-1].nonce == 8)
            codes = [report.code for report in coordinator.reports(ModelState.FAILED)]
            assert codes == [
                ErrorCode.ARTEFACT_CORRUPT,
                ErrorCode.SELF_TEST_FAILED,
                ErrorCode.UNSUPPORTED_FORMAT,
                ErrorCode.MODEL_TOO_LARGE,
                ErrorCode.MODEL_TOO_LARGE,
                ErrorCode.MODEL_INVALID,
                ErrorCode.UNSUPPORTED_FORMAT,
            ]
            assert "vector 2" in failed_test.text
            assert "version 2" in other_version.text
            assert "arena" in arena.text
            assert "8192" in too_large.text
            assert damaged.text
            result = await coordinator.answer(coordinator.offer(CONTAINER, random_input(MODEL, 5)))
            assert outputs(result) == {"y": expected(5)}
            coordinator.deploy(CONTAINER, nonce=9)
            await coordinator.until(lambda: coordinator.reports(ModelState.READY)[-1].nonce == 9)

    play(story)


def test_evict_calibrate_and_report(tmp_path: Path) -> None:
    async def story() -> None:
        async with mesh(tmp_path) as (board, coordinator, _):
            await coordinator.deployed(CONTAINER)
            coordinator.send(topics.NODE_MODEL, ModelOrder(ModelCommand.CALIBRATE, None, 7))
            await coordinator.until(lambda: coordinator.reports(ModelState.CALIBRATED))
            assert coordinator.reports(ModelState.CALIBRATED)[-1].nonce == 7
            states = len(coordinator.said(type(coordinator.board_state())))
            coordinator.send(topics.NODE_MODEL, ModelOrder(ModelCommand.REPORT, None, 8))
            await coordinator.until(
                lambda: len(coordinator.said(type(coordinator.board_state()))) > states
            )
            for nonce in (9, 10):
                order = ModelOrder(ModelCommand.EVICT, reference(CONTAINER), nonce)
                coordinator.send(topics.NODE_MODEL, order)
            await coordinator.until(lambda: len(coordinator.reports(ModelState.GONE)) == 2)
            await coordinator.until(lambda: not coordinator.board_state().models)
            board.kill()
            board.start()
            await coordinator.ready(births=2)
            assert coordinator.board_state().models == ()
            assert coordinator.board_state().resets == 2

    play(story)


def test_inputs_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    async def story() -> None:
        async with mesh(tmp_path) as (_, coordinator, _switch):
            await coordinator.deployed(CONTAINER)
            good = random_input(MODEL, 1)
            asked = {
                coordinator.offer(CONTAINER, good, name="z"): ErrorCode.INPUT_NAME,
                coordinator.offer(CONTAINER, good.astype(np.int16)): ErrorCode.INPUT_TYPE,
            }
            for task, code in asked.items():
                assert (await coordinator.answer(task)).code is code
            task = coordinator.offer(CONTAINER, good[:-1])
            assert (await coordinator.answer(task)).code is ErrorCode.INPUT_SHAPE
            for number, content, code in (
                (1, b"\x81\x82", ErrorCode.INPUT_MALFORMED),
                (2, Reference(bytes(32), 10), ErrorCode.CONTENT_UNAVAILABLE),
            ):
                offer = Offer(bytes([number] * 16), 1, 1000, 0, content)
                coordinator.send(topics.NODE_TASK, Offers(reference(CONTAINER), (offer,)))
                assert (await coordinator.answer(offer.task_id)).code is code
            offer = Offer(bytes(16), 1, 1000, 0, b"")
            missing = Offers(ModelReference("m", 1, bytes(32), 1, ModelFormat.ONNX), (offer,))
            coordinator.send(topics.NODE_TASK, missing)
            assert (await coordinator.answer(offer.task_id)).code is ErrorCode.UNSUPPORTED_FORMAT
            late = coordinator.offer(CONTAINER, good, remaining_ms=0)
            assert (await coordinator.answer(late)).status is ResultStatus.EXPIRED

    play(story)


def test_offers_again_epochs_and_cancel(tmp_path: Path) -> None:
    async def story() -> None:
        async with mesh(tmp_path) as (_, coordinator, _switch):
            await coordinator.deployed(CONTAINER)
            good = random_input(MODEL, 1)
            task = coordinator.offer(CONTAINER, good)
            first = await coordinator.answer(task)
            coordinator.offer(CONTAINER, good, task_id=task)
            assert await coordinator.answer(task, 2) == first
            coordinator.epoch = 3
            coordinator.offer(CONTAINER, good, task_id=task, attempt=2)
            again = await coordinator.answer(task, 3)
            assert (again.attempt, again.epoch, again.content) == (2, 3, first.content)
            old = coordinator.offer(CONTAINER, good, epoch=2)
            assert (await coordinator.answer(old)).code is ErrorCode.STALE_EPOCH
            # Cancelled under this attempt: the same offer does nothing, a newer one runs.
            coordinator.send(topics.NODE_CANCEL, Cancel(((task, 2),)))
            coordinator.offer(CONTAINER, good, task_id=task, attempt=2)
            coordinator.offer(CONTAINER, good, task_id=task, attempt=3)
            last = await coordinator.answer(task, 4)
            assert last.attempt == 3
            burst = [coordinator.offer(CONTAINER, good) for _ in range(6)]
            results = [await coordinator.answer(task) for task in burst]
            codes = {result.code for result in results}
            assert codes <= {ErrorCode.NONE, ErrorCode.BUSY}
            assert sum(result.code is ErrorCode.NONE for result in results) >= 2

    play(story)


def test_late_copies_of_orders_and_of_refused_offers_change_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with mesh(tmp_path) as (_, coordinator, _switch):
            await coordinator.deployed(CONTAINER)
            good = random_input(MODEL, 1)
            drain = ControlOrder(Control.DRAIN, 0, "test")
            coordinator.send(topics.NODE_CONTROL, drain)
            drain_seq = coordinator.seq
            once = TaskFlag.AT_MOST_ONCE
            task = coordinator.offer(CONTAINER, good, flags=once)
            assert (await coordinator.answer(task)).code is ErrorCode.DRAINING
            again = coordinator.offer(CONTAINER, good)
            assert (await coordinator.answer(again)).code is ErrorCode.DRAINING
            coordinator.send(topics.NODE_CONTROL, ControlOrder(Control.RESUME, 0, "test"))
            coordinator.send(topics.NODE_CONTROL, drain, seq=drain_seq)
            # The task has gone elsewhere meanwhile: only a newer attempt may run here.
            coordinator.offer(CONTAINER, good, task_id=task, flags=once)
            coordinator.offer(CONTAINER, good, task_id=again)
            assert (await coordinator.answer(again, 2)).status is ResultStatus.DONE
            assert len(coordinator.results[task]) == 1
            coordinator.offer(CONTAINER, good, task_id=task, attempt=2, flags=once)
            assert (await coordinator.answer(task, 2)).status is ResultStatus.DONE
            # What is meant for another process of this id is that one's alone.
            other = coordinator.offer(CONTAINER, good, flags=once, boot=coordinator.boot() ^ 2)
            again = coordinator.offer(CONTAINER, good, flags=once)
            assert (await coordinator.answer(again)).status is ResultStatus.DONE
            assert other not in coordinator.results

    play(story)


def test_drain_resume_rebirth_and_take_over(tmp_path: Path) -> None:
    async def story() -> None:
        async with mesh(tmp_path) as (board, coordinator, switch):
            await coordinator.deployed(CONTAINER)
            good = random_input(MODEL, 1)
            boot = coordinator.boot()
            for command, code in (
                (Control.DRAIN, ErrorCode.DRAINING),
                (Control.RESUME, ErrorCode.NONE),
            ):
                coordinator.send(topics.NODE_CONTROL, ControlOrder(command, boot, "test"))
                assert (await coordinator.answer(coordinator.offer(CONTAINER, good))).code is code
            coordinator.send(topics.NODE_CONTROL, ControlOrder(Control.REBIRTH, boot + 1, "other"))
            coordinator.send(topics.NODE_CONTROL, ControlOrder(Control.REBIRTH, boot, "gap"))
            await coordinator.ready(births=2)
            states = [status.state for status in coordinator.said(NodeStatus)]
            assert states.count(NodeState.INIT) == 2
            # Another board with the same id is told to stop, and only it obeys.
            order = ControlOrder(Control.STOP_DUPLICATE, boot ^ 1, "another board")
            coordinator.send(topics.NODE_CONTROL, order)
            assert (await coordinator.answer(coordinator.offer(CONTAINER, good))).code.value == 0
            twin = Board(tmp_path / "twin", switch.port)
            try:
                twin.start()
                # The broker lets the newcomer in and the older out; they push each other out
                # until the coordinator, which hears both, ends one of them.
                await coordinator.until(lambda: coordinator.boot() != boot)
                order = ControlOrder(Control.STOP_DUPLICATE, boot, "another board")

                async def tell() -> None:
                    while board.running:
                        coordinator.send(topics.NODE_CONTROL, order)
                        await asyncio.sleep(0.2)

                await asyncio.wait_for(tell(), 15)
                assert "another node with this id" in board.log()
                births = len(coordinator.said(NodeStatus))
                await coordinator.until(
                    lambda: (
                        coordinator.boot() != boot
                        and coordinator.said(NodeStatus)[-1].state is NodeState.READY
                    )
                )
                assert twin.running
                assert births
            finally:
                twin.kill()

    play(story)


def test_senses(tmp_path: Path) -> None:
    async def story() -> None:
        async with mesh(tmp_path) as (_, coordinator, _switch):
            coordinator.sense(SENSED, "light", sense=1)
            await coordinator.until(lambda: coordinator.readings)
            assert coordinator.readings[0].code is ErrorCode.MODEL_NOT_HELD
            await coordinator.deployed(SENSED)
            coordinator.readings.clear()
            coordinator.sense(SENSED, "light", sense=1, interval_ms=40)
            await coordinator.until(lambda: len(coordinator.readings) >= 5)
            assert [reading.counter for reading in coordinator.readings[:5]] == [1, 2, 3, 4, 5]
            assert all(outputs(reading) == {"which": [1]} for reading in coordinator.readings)
            await coordinator.until(lambda: coordinator.board_state().senses == (1,))
            # Only changes: this sensor's answer never changes, so one reading is all.
            coordinator.sense(SENSED, "light", sense=1, interval_ms=20, mode=SenseMode.CHANGES)
            coordinator.sense(SENSED, "turning", sense=2, interval_ms=20, mode=SenseMode.CHANGES)
            await coordinator.until(
                lambda: sum(reading.sense == 2 for reading in coordinator.readings) >= 6
            )
            turning = [r for r in coordinator.readings if r.sense == 2]
            assert [outputs(r)["which"] for r in turning[:4]] == [[0], [1], [0], [1]]
            still = [r.counter for r in coordinator.readings if r.sense == 1]
            task = coordinator.offer(SENSED, np.array([1, 2, 9, 3], np.uint8), name="readings")
            assert outputs(await coordinator.answer(task)) == {"which": [2]}
            assert [r.counter for r in coordinator.readings if r.sense == 1] == still
            for sense, sensor, code in (
                (3, "nothing", ErrorCode.NO_SUCH_SENSOR),
                (4, "narrow", ErrorCode.INPUT_SHAPE),
                (5, "broken", ErrorCode.SENSOR_ERROR),
            ):
                coordinator.sense(SENSED, sensor, sense=sense)
                seen = len(coordinator.readings)
                while all(r.sense != sense for r in coordinator.readings):
                    await coordinator.until(lambda: len(coordinator.readings) > seen)  # noqa: B023
                    seen = len(coordinator.readings)
                assert [r.code for r in coordinator.readings if r.sense == sense] == [code]
            # The model is in use: no other takes its place until the senses are stopped.
            assert (await coordinator.deployed(CONTAINER)).code is ErrorCode.NO_SPACE
            for sense in (1, 2, 5):
                order = SenseOrder(SenseCommand.STOP, sense, None, "", 0, SenseMode.ALWAYS)
                coordinator.send(topics.NODE_SENSE, order)
            await coordinator.until(lambda: coordinator.board_state().senses == ())
            assert (await coordinator.deployed(CONTAINER, 2)).state is ModelState.READY

    play(story)


async def _break_and_silence(kind: Kind, folder: Path, keepalive_s: int, silent_s: float) -> None:
    async with mesh(folder, kind, settings={"keepalive_s": keepalive_s}) as (
        _,
        coordinator,
        switch,
    ):
        await coordinator.deployed(CONTAINER)
        good = random_input(MODEL, 7)
        for births in (2, 3):
            switch.drop_all()
            await coordinator.ready(births)
            result = await coordinator.answer(coordinator.offer(CONTAINER, good))
            assert outputs(result) == {"y": expected(7)}
        # The radio is gone: no end learns of it but by silence.
        switch.cut = True
        await asyncio.sleep(silent_s)
        heard = len(coordinator.envelopes)
        switch.cut = False
        switch.drop_all()
        await coordinator.until(lambda: len(coordinator.envelopes) > heard)
        await coordinator.ready(4)
        result = await coordinator.answer(coordinator.offer(CONTAINER, good))
        assert outputs(result) == {"y": expected(7)}


@pytest.mark.parametrize("kind", BROKERS)
def test_connections_that_break_or_fall_silent(kind: Kind, tmp_path: Path) -> None:
    asyncio.run(_break_and_silence(kind, tmp_path, 2, 4))


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", BROKERS)
def test_half_a_minute_without_a_radio(kind: Kind, tmp_path: Path) -> None:
    asyncio.run(_break_and_silence(kind, tmp_path, 15, 30))


def test_hostile_messages_are_counted_and_the_board_lives_on(tmp_path: Path) -> None:
    async def story() -> None:
        async with mesh(tmp_path) as (board, coordinator, _):
            await coordinator.deployed(CONTAINER)
            good = encode_tensors({"x": random_input(MODEL, 3)})
            hostile = [
                b"",
                b"\xff" * 700,
                b"\x9f" * 768,
                b"\x81" * 768,
                b"\x9b" + b"\xff" * 8,
                b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff",
                b"\x86\x01\x10\x01\x01\x01\x82" + b"\x80" * 700,
                b"\x86\x02\x10\x01\x01\x01\x82\x80\x80",
                bytes(48 * 1024),
                bytes(48 * 1024),
                good,
            ]
            for suffix in ("task", "cancel", "ctl", "model", "blob", "sense", "act", "stage", "x"):
                for payload in hostile:
                    coordinator.send_raw(f"dn/{suffix}", payload)
            # Right in form, with numbers at their ends.
            coordinator.send(
                topics.NODE_SENSE,
                SenseOrder(SenseCommand.START, 1, None, "", 0, SenseMode.ALWAYS),
            )
            coordinator.send(topics.NODE_MODEL, ModelOrder(ModelCommand.DEPLOY, None, 1))
            coordinator.send(topics.NODE_MODEL, ModelOrder(ModelCommand.EVICT, None, 1))
            result = await coordinator.answer(
                coordinator.offer(CONTAINER, random_input(MODEL, 3), remaining_ms=(1 << 64) - 1)
            )
            assert outputs(result) == {"y": expected(3)}
            coordinator.send(topics.NODE_MODEL, ModelOrder(ModelCommand.REPORT, None, 9))
            await coordinator.until(lambda: coordinator.board_state().faults >= 60)
            assert board.running
            assert "Error" not in board.log()

    play(story)
