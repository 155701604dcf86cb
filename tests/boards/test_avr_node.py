"""Real sketches as AVR machine code behind the gateway's link, in virtual time."""

import zlib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from avr_support import example, needs_avr
from random_layers import Sizes, random_cases
from sklearn.datasets import load_digits

from maille_node.firmware import avr
from maille_node.firmware.targets import TARGETS, UNO
from maille_protocol.codes import (
    ErrorCode,
    ModelState,
    NodeKind,
    ResetCause,
    ResultStatus,
    SenseMode,
)
from maille_protocol.serial import events
from maille_protocol.serial.messages import (
    CancelTask,
    Deploy,
    Evict,
    Info,
    Load,
    ModelChunk,
    ModelRecord,
    ModelStateReport,
    OfferTask,
    Refused,
    Report,
    Sense,
    SenseReading,
    SensorRecord,
    StopSense,
    TaskResult,
    Want,
)
from maille_protocol.tiny import LayerKind, Model, decode_model, encode_model, quantise_inputs, run
from maille_simulator.boards.avr import AvrBoard
from maille_simulator.boards.wire import VirtualHost

pytestmark = needs_avr
DIGITS_LIMIT_US = 3000
ROUND_TRIP_LIMIT_MS = 15
STACK_LIMIT_BYTES = 700
CORE_FLASH_LIMIT_BYTES = 8192
CORE_RAM_LIMIT_BYTES = 450


def document_of(header: Path) -> bytes:
    """The model in a header that `model_header` made."""
    text = header.read_text(encoding="utf-8")
    body = text.split("_document[] PROGMEM = {", 1)[1].split("}", 1)[0]
    return bytes(int(number) for number in body.replace("\n", "").split(",") if number.strip())


class Bench:
    """A sketch on a board, joined to a host."""

    def __init__(self, name: str, target: str, folder: Path) -> None:
        self.built = example(name, target, folder)
        self.board = AvrBoard(TARGETS[target], self.built.elf)
        self.board.paint_memory()
        self.host = VirtualHost(self.board)
        self.tasks = 0

    def join(self) -> Info:
        info = self.host.wait_for(Info)
        self.host.run_for_ms(300)  # to the higher speed
        assert self.board.uart_counters()[0].baud == 500_000
        return info

    def offer(self, *inputs: bytes, model: int = 0) -> TaskResult:
        self.tasks += 1
        self.host.send(OfferTask(self.tasks, model, 1000, inputs))
        result = self.host.wait_for(TaskResult)
        assert result.task == self.tasks
        return result

    def stack_left(self) -> int:
        start = avr.symbols(self.built)["__heap_start"][0] & 0xFFFF
        return self.board.never_used_bytes(start)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sketches")


@pytest.fixture(params=["uno", "mega"])
def digits(request: pytest.FixtureRequest, folder: Path) -> Iterator[Bench]:
    bench = Bench("DigitsOnUno", request.param, folder / f"digits-{request.param}")
    yield bench
    bench.board.close()


@pytest.fixture
def keeper(folder: Path) -> Iterator[Bench]:
    bench = Bench("KeepModels", "uno", folder / "keeper")
    yield bench
    bench.board.close()


def digits_model() -> tuple[Model, list[bytes], np.ndarray]:
    header = Path(__file__).parents[2] / "nodes/arduino/examples/DigitsOnUno/model.h"
    model = decode_model(document_of(header))
    images, labels = load_digits(return_X_y=True)
    inputs = [
        quantise_inputs(model, {model.description.inputs[0].name: image.astype(np.float32)})
        for image in images[:30]
    ]
    return model, [next(iter(values.values())).tobytes() for values in inputs], labels[:30]


def test_an_uno_and_a_mega_read_digits(digits: Bench) -> None:
    info = digits.join()
    target = digits.built.target
    assert info.kind is NodeKind.ARDUINO
    assert (info.name, info.mcu, info.clock_hz) == ("digits on an uno", target.mcu, 16_000_000)
    assert info.ram_bytes == target.ram_bytes
    assert 0 < info.ram_free < target.ram_bytes - digits.built.ram_bytes
    assert info.flash_bytes - info.flash_free >= digits.built.flash_bytes
    (kernel,) = info.kernels
    assert 1000 < kernel[1] < 1400  # hundredths of a cycle, measured by the board itself
    assert digits.host.heard
    record = digits.host.heard[0].message
    assert isinstance(record, ModelRecord)
    assert not record.removable
    assert info.resets == 1
    hello = digits.host.link.hello
    assert hello is not None
    assert hello.cause == ResetCause.POWER

    model, inputs, labels = digits_model()
    right = 0
    for octets, label in zip(inputs, labels, strict=True):
        result = digits.offer(octets)
        wanted = run(model, [np.frombuffer(octets, np.uint8)])
        assert result.outputs == tuple(output.tobytes() for output in wanted)
        assert (result.status, result.code) == (ResultStatus.DONE, ErrorCode.NONE)
        right += int(result.outputs[0][0]) == label
        digits.host.run_for_ms(5)
    assert right >= 28
    assert digits.board.uart_counters()[0].overruns == 0
    load = digits.host.wait_for(Load, 2000)
    assert (load.bad, load.overruns) == (0, 0)


def test_speed_in_board_time(digits: Bench) -> None:
    digits.join()
    _, inputs, _ = digits_model()
    digits.offer(inputs[0])
    digits.host.run_for_ms(20)
    start_ms = digits.host.now_ms
    result = digits.offer(inputs[1])
    round_trip_ms = digits.host.now_ms - start_ms
    print(f"digits {result.run_us} us, round trip {round_trip_ms:.2f} ms")  # noqa: T201
    assert result.run_us <= DIGITS_LIMIT_US
    assert round_trip_ms <= ROUND_TRIP_LIMIT_MS


def test_stack_of_the_digits_example(folder: Path) -> None:
    bench = Bench("DigitsOnUno", "uno", folder / "digits-uno")
    with bench.board:
        bench.join()
        _, inputs, _ = digits_model()
        for octets in inputs[:3]:
            bench.offer(octets)
        bench.host.run_for_ms(2000)
        left = bench.stack_left()
        print(bench.built.summary(), f"\nnever used {left} bytes")  # noqa: T201
        assert left >= STACK_LIMIT_BYTES


def test_no_overrun_while_a_model_runs_and_offers_pour_in(digits: Bench) -> None:
    digits.join()
    _, inputs, _ = digits_model()
    for task in range(40):
        digits.host.send(OfferTask(1000 + task, 0, 1000, (inputs[task % 30],)))
        # A host that does not wait for results: some are refused as BUSY, none is lost.
    digits.host.run_for_ms(2000, lambda: len(results(digits)) == 40)
    given = results(digits)
    assert sorted(result.task for result in given) == list(range(1000, 1040))
    assert {result.code for result in given} <= {ErrorCode.NONE, ErrorCode.BUSY}
    assert sum(result.status is ResultStatus.DONE for result in given) >= 10
    counters = digits.board.uart_counters()[0]
    assert counters.overruns == 0
    assert digits.host.link.counters.messages_lost == 0


def test_a_repeated_offer_is_answered_from_memory(digits: Bench) -> None:
    digits.join()
    _, inputs, _ = digits_model()
    first = digits.offer(inputs[0])
    digits.host.send(OfferTask(first.task, 0, 1000, (inputs[1],)))
    assert digits.host.wait_for(TaskResult) == first
    other = digits.offer(inputs[1])
    assert other.outputs != first.outputs
    digits.host.send(OfferTask(first.task, 0, 1000, (inputs[0],)))  # forgotten by now: run again
    assert digits.host.wait_for(TaskResult).outputs == first.outputs


def test_a_million_baud(folder: Path) -> None:
    built = example("DigitsOnUno", "uno", folder / "digits-uno")
    with AvrBoard(UNO, built.elf) as board:
        host = VirtualHost(board, highest_rate=3)
        host.wait_for(Info)
        host.run_for_ms(500)
        assert board.uart_counters()[0].baud == 1_000_000
        _, inputs, _ = digits_model()
        for task, octets in enumerate(inputs):
            host.send(OfferTask(task, 0, 1000, (octets,)))
        host.run_for_ms(
            2000, lambda: sum(isinstance(item.message, TaskResult) for item in host.heard) == 30
        )
        assert sum(isinstance(item.message, TaskResult) for item in host.heard) == 30
        assert board.uart_counters()[0].overruns == 0
        assert host.link.counters.bad_frames == 0


def results(bench: Bench) -> list[TaskResult]:
    messages = [heard.message for heard in bench.host.heard]
    return [message for message in messages if isinstance(message, TaskResult)]


def test_reset_in_mid_task_is_seen_at_once(digits: Bench) -> None:
    first = digits.join()
    _, inputs, _ = digits_model()
    digits.offer(inputs[0])
    digits.host.send(OfferTask(77, 0, 1000, (inputs[1],)))
    digits.host.run_for_ms(4)  # the model runs
    digits.board.reset()
    start_ms = digits.host.now_ms
    info = digits.host.wait_for(Info, 1000)
    assert digits.host.now_ms - start_ms < 500
    assert (info.identity, info.resets) == (first.identity, first.resets + 1)
    lost = [action for action in digits.host.log if isinstance(action, events.Closed)]
    assert len(lost) == 1
    digits.host.run_for_ms(300)
    assert not results(digits)
    assert digits.offer(inputs[1]).status is ResultStatus.DONE


def test_bad_orders_are_refused_and_change_nothing(digits: Bench) -> None:
    digits.join()
    _, inputs, _ = digits_model()
    cases = [
        (OfferTask(1, 0, 1000, (inputs[0][:-1],)), ErrorCode.INPUT_SHAPE),
        (OfferTask(2, 0, 1000, (inputs[0], b"x")), ErrorCode.INPUT_SHAPE),
        (OfferTask(3, 0, 1000, ()), ErrorCode.INPUT_SHAPE),
        (OfferTask(4, 1, 1000, (inputs[0],)), ErrorCode.MODEL_NOT_HELD),
        (OfferTask(5, 255, 1000, (inputs[0],)), ErrorCode.MODEL_NOT_HELD),
    ]
    for message, code in cases:
        digits.host.send(message)
        result = digits.host.wait_for(TaskResult)
        assert (result.task, result.status, result.code) == (
            message.task,
            ResultStatus.REFUSED,
            code,
        )
    malformed = [b"\x00", b"\x80", b"\x9f\xff", b"\x81\x18\xff", b"\x82\x01", b"\xff" * 100]
    malformed += [b"\x85\x00\x01\x00\x01\x81\x58\xff", b"\x81\x06", b"\x86\x05\x01\x00\x00\x01\x00"]
    for octets in malformed:
        digits.host.send_bytes(octets)
        assert digits.host.wait_for(Refused).error is ErrorCode.INPUT_MALFORMED
    digits.host.send(CancelTask(4711))
    digits.host.send(Report())
    assert digits.host.wait_for(Info).models == 1
    assert digits.offer(inputs[0]).status is ResultStatus.DONE


def test_another_schema_is_told_to_flash_again(folder: Path) -> None:
    built = example("FirstNode", "uno", folder / "first")
    with AvrBoard(UNO, built.elf) as board:
        host = VirtualHost(board, schema=b"none")
        host.run_for_ms(300)
        (unfit,) = (action for action in host.log if isinstance(action, events.Unfit))
        assert "maille flash" in unfit.reason


def small_model(seed: int, kind: LayerKind, limit_bytes: int = 400) -> tuple[bytes, Model]:
    sizes = Sizes(max_arena_bytes=200, max_weight_bytes=200, max_multiply_accumulates=300)
    for model, _ in random_cases(seed=seed, count=200, kinds=(kind,), sizes=sizes):
        document = encode_model(model)
        if len(document) <= limit_bytes and model.arena_bytes <= 256:
            return document, model
    raise AssertionError("no such case")


def deploy(bench: Bench, document: bytes, *, crc_error: int = 0) -> ModelStateReport:
    host = bench.host
    digest = sha256(document).digest()
    host.send(Deploy(0, len(document), zlib.crc32(document) ^ crc_error, digest))
    end_ms = host.now_ms + 20_000
    while host.now_ms < end_ms:
        host.run_for_ms(50, lambda: bool(host.heard))
        while host.heard:
            message = host.heard.pop(0).message
            if isinstance(message, Want):
                assert message.length > 0
                data = document[message.offset : message.offset + message.length]
                host.send(ModelChunk(0, message.offset, data))
            elif isinstance(message, ModelStateReport):
                return message
    raise AssertionError("no end of the delivery")


@pytest.mark.timeout(60)
def test_a_model_is_delivered_to_the_eeprom_and_survives_a_reset(keeper: Bench) -> None:
    assert keeper.join().max_models == 1
    document, model = small_model(1, LayerKind.DENSE)
    assert deploy(keeper, document).state is ModelState.READY
    record = keeper.host.wait_for(ModelRecord)
    assert (record.model, record.sha256, record.removable) == (0, sha256(document).digest(), True)
    octets = bytes(range(model.input_bytes))
    wanted = run(model, [np.frombuffer(octets, np.uint8)])[0].tobytes()
    assert keeper.offer(octets).outputs == (wanted,)
    assert document in keeper.board.eeprom()

    keeper.board.reset()
    assert keeper.host.wait_for(Info).models == 1
    keeper.host.run_for_ms(300)
    assert keeper.offer(octets).outputs == (wanted,)
    assert deploy(keeper, document).state is ModelState.READY  # held already

    other, second = small_model(2, LayerKind.FOREST)
    broken = bytearray(other)
    broken[-len(second.self_tests) // 2] ^= 1
    bad = deploy(keeper, other, crc_error=1)
    assert (bad.state, bad.code) == (ModelState.FAILED, ErrorCode.ARTEFACT_CORRUPT)
    wrong_version = document.replace(b"\x64tiny\x01", b"\x64tiny\x02", 1)
    bad = deploy(keeper, wrong_version)
    assert (bad.state, bad.code) == (ModelState.FAILED, ErrorCode.UNSUPPORTED_FORMAT)
    at = document.index(model.self_tests) + model.input_bytes
    failing = document[:at] + bytes([document[at] ^ 1]) + document[at + 1 :]
    bad = deploy(keeper, failing)
    assert (bad.state, bad.code) == (ModelState.FAILED, ErrorCode.SELF_TEST_FAILED)
    conv, _ = small_model(3, LayerKind.CONV2D)
    bad = deploy(keeper, conv)
    assert (bad.state, bad.code) == (ModelState.FAILED, ErrorCode.UNSUPPORTED_FORMAT)
    bad = deploy(keeper, bytes(5000))
    assert (bad.state, bad.code) == (ModelState.FAILED, ErrorCode.MODEL_TOO_LARGE)
    assert keeper.offer(octets).outputs == (wanted,), "the old one was kept through all of this"

    assert deploy(keeper, other).state is ModelState.READY
    assert keeper.offer(bytes(second.input_bytes)).status is ResultStatus.DONE
    keeper.host.send(Evict(0))
    assert keeper.host.wait_for(ModelStateReport).state is ModelState.GONE
    assert keeper.offer(bytes(second.input_bytes)).code is ErrorCode.MODEL_NOT_HELD
    assert keeper.board.uart_counters()[0].overruns == 0


@pytest.mark.timeout(60)
def test_a_reset_at_any_point_of_a_delivery_leaves_old_or_new(keeper: Bench) -> None:
    keeper.join()
    old, model = small_model(1, LayerKind.DENSE)
    new, _ = small_model(2, LayerKind.FOREST)
    assert deploy(keeper, old).state is ModelState.READY
    digest = {sha256(old).digest(), sha256(new).digest()}
    rng = np.random.default_rng(3)
    for _ in range(8):
        keeper.host.send(Deploy(0, len(new), zlib.crc32(new), sha256(new).digest()))
        end_ms = keeper.host.now_ms + rng.uniform(0, 2500)
        while keeper.host.now_ms < end_ms:
            keeper.host.run_for_ms(20, lambda: bool(keeper.host.heard))
            while keeper.host.heard:
                message = keeper.host.heard.pop(0).message
                if isinstance(message, Want):
                    data = new[message.offset : message.offset + message.length]
                    keeper.host.send(ModelChunk(0, message.offset, data))
        keeper.board.reset()
        keeper.host.heard.clear()
        assert keeper.host.wait_for(Info).models == 1
        record = keeper.host.wait_for(ModelRecord)
        assert record.sha256 in digest
    del model


@pytest.mark.timeout(60)
def test_an_uno_classifies_what_its_own_sensor_measures(folder: Path) -> None:
    bench = Bench("VibrationClassifier", "uno", folder / "vibration")
    with bench.board:
        info = bench.join()
        assert info.sensors == 2
        names = [bench.host.wait_for(SensorRecord) for _ in range(2)]
        assert [(record.name, record.values) for record in names] == [
            ("accelerometer", 0),
            ("button", 1),
        ]
        bench.board.set_analog(0, 2500)
        bench.host.send(Sense(9, 0, 0, 200, SenseMode.ALWAYS))
        still = bench.host.wait_for(SenseReading)
        assert (still.sense, still.counter, still.code) == (9, 1, ErrorCode.NONE)
        assert still.outputs[0][0] == 0
        assert bench.host.wait_for(SenseReading).counter == 2
        assert vibrate(bench, strength=0.08, unbalance=0.0) == 1
        assert vibrate(bench, strength=0.22, unbalance=0.6) == 2
        bench.host.send(StopSense(9))
        bench.host.run_for_ms(300)
        bench.host.heard.clear()
        bench.host.run_for_ms(600)
        assert not any(isinstance(heard.message, SenseReading) for heard in bench.host.heard)
        for order, code in (
            (Sense(1, 0, 7, 100, SenseMode.ALWAYS), ErrorCode.NO_SUCH_SENSOR),
            (Sense(2, 5, 0, 100, SenseMode.ALWAYS), ErrorCode.MODEL_NOT_HELD),
            (Sense(3, 0, 1, 100, SenseMode.ALWAYS), ErrorCode.INPUT_SHAPE),
        ):
            bench.host.send(order)
            refused = bench.host.wait_for(Refused)
            assert (refused.handle, refused.error) == (order.sense, code)
        assert bench.board.uart_counters()[0].overruns == 0
        assert bench.stack_left() > 200


def vibrate(bench: Bench, *, strength: float, unbalance: float) -> int:
    """Moves the accelerometer's pin for some readings; what the last one says."""
    bench.host.heard.clear()
    for step in range(800):
        time_s = step / 1000
        value = 0.5 + strength * np.sin(2 * np.pi * 50 * time_s)
        value += unbalance * strength * np.sin(np.pi * 50 * time_s + 1)
        bench.board.set_analog(0, round(value * 5000))
        bench.host.run_for_ms(1)
    readings = [h.message for h in bench.host.heard if isinstance(h.message, SenseReading)]
    assert len(readings) >= 3
    label: int = readings[-1].outputs[0][0]
    return label


@pytest.mark.timeout(60)
def test_noise_never_wedges_a_board(digits: Bench) -> None:
    digits.join()
    _, inputs, _ = digits_model()
    digits.offer(inputs[0])
    rng = np.random.default_rng(11)
    for _ in range(10):
        digits.board.uart_write(rng.bytes(10_000), baud=500_000)
        digits.host.run_for_ms(250)
    digits.host.run_for_ms(3000, lambda: digits.host.link.phase.name == "OPEN")
    digits.host.run_for_ms(500)
    digits.host.heard.clear()
    assert digits.offer(inputs[1]).status is ResultStatus.DONE
    counters = digits.board.uart_counters()[0]
    assert counters.bytes_received > 100_000
