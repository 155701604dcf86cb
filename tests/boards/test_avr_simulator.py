"""The simulated board itself: time, the UART's times and overruns, EEPROM, reset."""

import itertools
from pathlib import Path

import pytest
from avr_support import FIRMWARE, needs_avr

from maille_node.firmware import avr
from maille_node.firmware.targets import UNO
from maille_simulator.boards.avr import AvrBoard
from maille_simulator.boards.runner_build import RunnerError

pytestmark = needs_avr
CYCLES_OF_A_BYTE = 320  # 10 bits at 500,000 baud and 16 MHz


def _echo(folder: Path, *defines: str) -> avr.Build:
    return avr.build(FIRMWARE / "echo.cpp", UNO, folder, defines=defines, with_core=False)


def test_bytes_take_ten_bits_each(tmp_path: Path) -> None:
    built = _echo(tmp_path)
    with AvrBoard(UNO, built.elf) as board:
        board.run_for_us(100)
        start = board.cycle
        board.uart_write(bytes(range(100)), baud=500_000)
        board.run_for_us(3000)
        events = board.uart_events()
        assert bytes(event.value for event in events) == bytes(range(100))
        assert {event.baud for event in events} == {500_000}
        gaps = [b.cycle - a.cycle for a, b in itertools.pairwise(events)]
        # The program looks every few cycles, so single bytes jitter; the line's speed does not.
        assert all(abs(gap - CYCLES_OF_A_BYTE) <= 16 for gap in gaps)
        assert abs(events[-1].cycle - start - 101 * CYCLES_OF_A_BYTE) <= 48
        assert board.uart_counters()[0].overruns == 0


def test_the_same_run_twice_gives_the_same_cycles(tmp_path: Path) -> None:
    built = _echo(tmp_path)
    runs = []
    for _ in range(2):
        with AvrBoard(UNO, built.elf) as board:
            board.uart_write(b"once more", baud=500_000, not_before_us=50)
            board.run_for_us(1000)
            runs.append(board.uart_events())
    assert runs[0] == runs[1]
    assert len(runs[0]) == 9


def test_a_deaf_program_overruns_after_three_bytes(tmp_path: Path) -> None:
    built = _echo(tmp_path, "DEAF")
    with AvrBoard(UNO, built.elf) as board:
        board.run_for_us(100)
        board.uart_write(b"12345", baud=500_000)
        board.run_for_us(500)
        counters = board.uart_counters()[0]
        assert counters.bytes_received == 5
        assert counters.overruns == 2


def test_another_speed_is_garbage(tmp_path: Path) -> None:
    built = _echo(tmp_path, "DIVIDER=16")
    with AvrBoard(UNO, built.elf) as board:
        board.run_for_us(100)
        board.uart_write(b"abc", baud=250_000)
        board.run_for_us(1000)
        assert board.uart_counters()[0].frame_errors == 3
        assert board.uart_counters()[0].baud == pytest.approx(115_200, rel=0.03)
        assert board.uart_read() != b"abc"


def test_reset_keeps_memory_and_starts_anew(tmp_path: Path) -> None:
    built = _echo(tmp_path)
    with AvrBoard(UNO, built.elf) as board:
        board.write_eeprom(10, b"kept")
        board.run_for_us(100)
        assert [mark.value for mark in board.marks] == [1]
        board.write_memory(0x700, b"noinit")
        board.reset()
        before = board.cycle
        board.run_for_us(100)
        assert board.cycle > before
        assert [mark.value for mark in board.marks] == [1, 1]
        assert board.eeprom(10, 4) == b"kept"
        assert board.memory(0x700, 6) == b"noinit"


def test_a_file_that_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "no.elf").write_bytes(b"nothing")
    with pytest.raises(RunnerError, match="has ended"), AvrBoard(UNO, tmp_path / "no.elf") as board:
        board.run_for_us(1)
