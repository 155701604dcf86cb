"""Real models as AVR machine code: right answers, and about as fast as the converter says."""

import re
from pathlib import Path

import pytest
from avr_support import ARDUINO, FIRMWARE, array, build, example, finished, needs_avr, variable
from real_models import REAL_MODELS, converted

from maille_coordinator.models.conversion.targets import BOARDS, estimated_ms
from maille_node.firmware.header import model_header
from maille_node.firmware.targets import LEAST_STACK_BYTES, TARGETS
from maille_protocol.tiny import encode_model, make_self_tests, quantise_batch
from maille_simulator.boards.avr import AvrBoard

pytestmark = [needs_avr, pytest.mark.timeout(120)]


def cycles(name: str, folder: Path) -> int:
    """One run on an Uno, after a check of its outputs."""
    model, data = converted(name).model, converted(name).data
    first = model.self_tests[: model.input_bytes]
    header = model_header(data, "measured") + "\n" + array("first_input", first)
    (folder / "data.h").write_text(header)
    built = build(FIRMWARE / "model_cycles.cpp", TARGETS["uno"], folder / "out", include=(folder,))
    with AvrBoard(built.target, built.elf) as board:
        finished(board)
        assert variable(built, board, "fault", 1) == b"\0"
        assert variable(built, board, "ran", 1) == b"\1"
        arena = variable(built, board, "arena", model.arena_bytes)
        start = model.input_bytes
        for tensor in model.outputs:
            wanted = model.self_tests[start : start + tensor.size_bytes]
            assert arena[tensor.offset : tensor.end] == wanted
            start += tensor.size_bytes
        first_mark, second_mark = board.marks
        return second_mark.cycle - first_mark.cycle


@pytest.mark.parametrize("name", tuple(REAL_MODELS))
def test_machine_code_takes_about_what_the_converter_estimates(name: str, tmp_path: Path) -> None:
    board = next(item for item in BOARDS if item.name == "uno")
    measured_ms = 1000 * cycles(name, tmp_path) / board.clock_hz
    estimate_ms = estimated_ms(board, converted(name).model)
    print(f"{name}: {measured_ms:.2f} ms measured, {estimate_ms:.2f} ms estimated")  # noqa: T201
    # Kernels that have become faster are welcome; estimates that promise too much are not.
    assert 0.3 * estimate_ms <= measured_ms <= 1.35 * estimate_ms


def test_the_room_that_the_converter_counts_on_is_there(tmp_path: Path) -> None:
    """Firmware of an Uno with everything in it, less its model: the same on a Nano."""
    header = (ARDUINO / "examples" / "DigitsOnUno" / "model.h").read_text("utf-8")
    document = int(re.search(r"([\d,]+) bytes, SHA-256", header)[1].replace(",", ""))  # type: ignore[index]
    arena = int(re.search(r"arena_bytes = (\d+)", header)[1])  # type: ignore[index]
    built = example("DigitsOnUno", "uno", tmp_path)
    boards = {board.name: board for board in BOARDS}
    for name in ("uno", "nano"):
        target, board = TARGETS[name], boards[name]
        assert built.flash_bytes - document + board.model_bytes <= target.flash_bytes
        stack = target.ram_bytes - (built.ram_bytes - arena + board.arena_bytes)
        assert stack >= LEAST_STACK_BYTES
        print(f"{name}: {stack} bytes of stack at the largest arena")  # noqa: T201


def test_a_wrong_answer_would_be_noticed(tmp_path: Path) -> None:
    real = REAL_MODELS["wine-forest"]()
    model = converted("wine-forest").model
    few = quantise_batch(model, {real.input_name: real.unseen[:8]})
    tests = bytearray(make_self_tests(model, few))
    tests[-1] ^= 1
    damaged = encode_model(
        type(model)(model.inputs, model.outputs, model.layers, bytes(tests), model.description)
    )
    header = model_header(damaged, "measured") + "\n" + array("first_input", bytes(26))
    (tmp_path / "data.h").write_text(header)
    built = build(
        FIRMWARE / "model_cycles.cpp", TARGETS["uno"], tmp_path / "out", include=(tmp_path,)
    )
    with AvrBoard(built.target, built.elf) as board:
        finished(board)
        assert variable(built, board, "fault", 1) == b"\x05"
