"""`maille simulate uno --count 3`: machine code on pseudo-terminals, in real time, as chips of their own."""

import os
import select
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from avr_support import example, needs_avr

from maille_node.firmware.targets import UNO
from maille_protocol.errors import WireError
from maille_protocol.serial.frames import Kind, parse_board_frame, parse_hello
from maille_protocol.serial.framing import Damaged, FrameReader
from maille_simulator.boards.avr_serial import AvrSerial, remember_identity

pytestmark = [needs_avr, pytest.mark.timeout(60)]


def hello_frames(path: str, seconds: float, baud: int = termios.B115200) -> list[int]:
    """Boot numbers of the HELLOs that a port says, opened anew."""
    port = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        settings = termios.tcgetattr(port)
        settings[4] = settings[5] = baud
        termios.tcsetattr(port, termios.TCSANOW, settings)
        reader, boots = FrameReader(), list[int]()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not select.select([port], [], [], 0.05)[0]:
                continue
            for item in reader.feed(os.read(port, 4096)):
                if isinstance(item, Damaged):
                    continue
                try:
                    frame = parse_board_frame(item)
                except WireError:
                    continue
                if frame.kind is Kind.HELLO:
                    boots.append(parse_hello(frame.payload).boot)
        return boots
    finally:
        os.close(port)


def wait_for_hello(path: str) -> set[int]:
    for _ in range(10):
        boots = hello_frames(path, 1.0)
        if boots:
            return set(boots)
    raise AssertionError("the board says nothing")


def test_opening_the_port_resets_the_board_and_the_eeprom_is_kept(tmp_path: Path) -> None:
    built = example("FirstNode", "uno", tmp_path / "first")
    eeprom = tmp_path / "eeprom"
    eeprom.write_bytes(remember_identity(UNO, 7))
    with AvrSerial(UNO, built.elf, eeprom=eeprom) as board:
        first = wait_for_hello(board.path)
        time.sleep(0.1)  # the board looks whether its port is open twice a millisecond
        second = wait_for_hello(board.path)
        assert len(first) == len(second) == 1
        assert first != second
        assert board.running
    kept = eeprom.read_bytes()
    assert kept[-13:-5] == (7).to_bytes(8, "big")
    assert int.from_bytes(kept[-5:-1], "little") >= 2


def test_another_speed_is_garbage(tmp_path: Path) -> None:
    built = example("FirstNode", "uno", tmp_path / "first")
    with AvrSerial(UNO, built.elf) as board:
        wait_for_hello(board.path)
        assert hello_frames(board.path, 1.0, termios.B500000) == []


def test_three_unos_are_three_chips() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "maille.cli", "simulate", "uno", "--count", "3"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        try:
            paths = [line.split()[-1] for line in lines[:3]]
            assert lines[4].endswith(" ".join(f"--port {path}" for path in paths) + "\n")
            boots = [wait_for_hello(path) for path in paths]
            assert len(set.union(*boots)) >= 3
        finally:
            process.terminate()
