"""Boards on serial ports in real scenarios, damaged cables, clocks that jump."""

import os
import pty
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from maille_simulator.boards.serial_relay import SerialRelay
from maille_simulator.real import serial_boards
from maille_simulator.real.clock import shifted_clock
from maille_simulator.real.run import run_for_real
from maille_simulator.scenario.read import read_scenario

SCENARIO = """\
name: boards
duration: 9s
models:
  - {name: digits-uno, tiny: true, run: 60ms}
  - {name: digits, run: 5ms}
nodes:
  - {name: uno, kind: avr, slots: 1}
  - {name: arduino, kind: arduino, slots: 1}
  - {name: worn, kind: arduino, slots: 1, link: {corruption: 0.003}}
  - {name: board, kind: light}
load:
  - {kind: bursts, model: digits-uno, burst: 8, every: 1s}
  - {kind: constant, model: digits, per_s: 8, deadline: 60s}
events:
  - {at: 1s, do: corruption, nodes: uno, share: 0.003, for: 3s}
  - {at: 2s, do: clock_jump, seconds: 7200}
  - {at: 5s, do: kill, nodes: arduino, for: 1s}
  - {at: 6s, do: clock_jump, seconds: -10800}
expect: {lost: 0, done_share: 1, recovered_within: 15s}
"""


@pytest.mark.end_to_end
@pytest.mark.broker
@pytest.mark.timeout(120)
def test_damaged_cables_and_a_clock_that_jumps_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cables: list[SerialRelay] = []
    shares: list[float] = []

    class Watched(SerialRelay):
        def __init__(self, board: str, random: Random, share: float) -> None:
            super().__init__(board, random, share)
            cables.append(self)
            shares.append(share)

    monkeypatch.setattr(serial_boards, "SerialRelay", Watched)
    path = tmp_path / "boards.yaml"
    path.write_text(SCENARIO)
    record = run_for_real(read_scenario(path), show=False)
    assert record.held, [check for check in record.checks() if not check.held]
    assert sorted(shares) == [0.0, 0.003], "the Uno's is damaged for three seconds only"
    assert cables[shares.index(0.003)].damaged > 0
    assert cables[shares.index(0.0)].share == 0.0
    ran = {task.node for task in record.tasks}
    # Eight at once for three boards with one slot each: all of them work.
    assert ran == {"uno", "arduino", "worn", "board"}


PICO = """\
name: pico
duration: 4s
models: [{name: digits-tiny, tiny: true, run: 5ms}]
nodes: [{name: pico, kind: pico, count: 2, slots: 1}]
load: [{kind: bursts, model: digits-tiny, burst: 10, every: 500ms, deadline: 60s}]
events:
  - {at: 1s, do: corruption, nodes: pico-1, share: 0.003, for: 2s}
  - {at: 2s, do: kill, nodes: pico-2, for: 1s}
expect: {lost: 0, done_share: 1}
"""


@pytest.mark.end_to_end
@pytest.mark.broker
@pytest.mark.timeout(120)
def test_micropython_without_a_network(tmp_path: Path) -> None:
    path = tmp_path / "pico.yaml"
    path.write_text(PICO)
    record = run_for_real(read_scenario(path), show=False)
    assert record.held, [check for check in record.checks() if not check.held]
    # Ten at once: one board's single slot is taken while the others wait, so both work.
    assert {task.node for task in record.tasks} == {"pico-1", "pico-2"}


@pytest.fixture
def board() -> Iterator[tuple[int, str]]:
    """A board's end of a cable, and the path of its port."""
    near, end = pty.openpty()
    tty.setraw(end)
    yield near, os.ttyname(end)
    os.close(end)
    os.close(near)


def read_all(descriptor: int, size_bytes: int) -> bytes:
    found = b""
    while len(found) < size_bytes:
        found += os.read(descriptor, 4096)
    return found


@pytest.mark.timeout(20)
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_a_cable_damages_its_share_each_way(board: tuple[int, str], share: float) -> None:
    near, path = board
    sent = bytes(range(256)) * 8
    with SerialRelay(path, Random(1), share) as relay:
        port = os.open(relay.path, os.O_RDWR | os.O_NOCTTY)
        os.write(port, sent)
        there = read_all(near, len(sent))
        os.write(near, sent)
        back = read_all(port, len(sent))
        os.close(port)
    wrong = sum(one != other for one, other in zip(sent + sent, there + back, strict=True))
    assert wrong == relay.damaged
    assert abs(wrong / (2 * len(sent)) - share) < 0.03


@pytest.mark.timeout(20)
def test_a_cable_carries_the_speed_and_can_be_plugged_in_again(board: tuple[int, str]) -> None:
    near, path = board
    with SerialRelay(path, Random(1)) as relay:
        for speed in (termios.B9600, termios.B115200):
            port = os.open(relay.path, os.O_RDWR | os.O_NOCTTY)
            settings = termios.tcgetattr(port)
            settings[4] = settings[5] = speed
            termios.tcsetattr(port, termios.TCSANOW, settings)
            deadline_s = time.monotonic() + 5
            while termios.tcgetattr(near)[5] != speed:
                assert time.monotonic() < deadline_s
                time.sleep(0.005)
            os.write(port, b"x")
            assert read_all(near, 1) == b"x"
            os.close(port)
            time.sleep(0.05)


@pytest.mark.parametrize("by_s", [7200.5, -7200.5])
def test_only_the_wall_clock_of_a_program_is_off(by_s: float) -> None:
    code = (
        "import time, datetime, threading; before = time.monotonic(); time.sleep(0.01);"
        "threading.Event().wait(0.01);"
        "print(time.time(), datetime.datetime.now().timestamp(), time.monotonic(), before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **shifted_clock(by_s)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    wall_s, date_s, steady_s, before_s = map(float, done.stdout.split())
    assert abs(wall_s - time.time() - by_s) < 20
    assert abs(date_s - wall_s) < 1
    assert before_s + 0.02 <= steady_s < time.monotonic()
