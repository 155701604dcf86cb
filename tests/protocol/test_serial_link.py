"""Both ends of the serial link on a bad wire, in virtual time; the board's in Python and in C++."""

from collections.abc import Callable
from functools import partial
from random import Random

import pytest
from cpp_board import CppBoard
from serial_world import Board, Faults, World

from maille_protocol import UsageError
from maille_protocol.serial import BoardLink, Hello, Phase, events
from maille_protocol.serial.limits import BAUDS

RECOVERY_MS = 500
LIMIT_MS = 20_000
ALL_SEEDS = 10_000
# Side by side, and one sees how far they are.
SEEDS_AT_ONCE = 1000
BOARDS: tuple[Callable[[Hello], Board], ...] = (BoardLink, CppBoard)
both = pytest.mark.parametrize("make_board", BOARDS, ids=["python", "cpp"])


def run_to_end(world: World) -> World:
    """Run until every message has arrived, and check everything."""
    world.run(LIMIT_MS, done=lambda: world.finished)
    world.check_end()
    assert world.overflows == 0
    late = [recovery for recovery in world.recoveries_ms if recovery >= RECOVERY_MS]
    assert not late, f"recovered only after {late} ms"
    return world


def run_many(make_board: Callable[[Hello], Board], first_seed: int, count: int) -> list[float]:
    """That many histories; the recoveries' times."""
    recoveries: list[float] = []
    for seed in range(first_seed, first_seed + count):
        window = (32, 63, 63, 128, 255)[seed % 5]
        world = World(seed, make_board, window_bytes=window, highest_rate=seed % len(BAUDS))
        try:
            run_to_end(world)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        recoveries += world.recoveries_ms
    return recoveries


@pytest.mark.timeout(120)
@both
def test_every_message_arrives_once_on_a_bad_wire(make_board: Callable[[Hello], Board]) -> None:
    recoveries = run_many(make_board, 0, 150)
    assert len(recoveries) >= 300


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first_seed", range(0, ALL_SEEDS, SEEDS_AT_ONCE))
@both
def test_ten_thousand_histories(make_board: Callable[[Hello], Board], first_seed: int) -> None:
    recoveries = run_many(make_board, first_seed, SEEDS_AT_ONCE)
    assert len(recoveries) > 2 * SEEDS_AT_ONCE


@both
def test_a_clean_wire_repeats_nothing(make_board: Callable[[Hello], Board]) -> None:
    clean = Faults(0, 0, 0, 0, 0, delay_ms=0, resets=0, busy=0)
    world = run_to_end(World(1, make_board, faults=clean, messages=40))
    assert world.host.counters.repeated_frames == 0
    assert world.host.counters.bad_frames == 0
    assert world.host.rate == 3
    assert not world.host_side.lost
    assert not world.board_side.lost


@both
def test_a_board_whose_line_has_no_speed(make_board: Callable[[Hello], Board]) -> None:
    world = run_to_end(World(2, make_board, rates=0))
    assert world.host.rate == 0
    assert world.board_rate == 0


@pytest.mark.timeout(120)
@both
def test_noise_never_wedges_it(make_board: Callable[[Hello], Board]) -> None:
    world = World(7, make_board, faults=Faults(resets=0), messages=20)
    world.run(100)
    noise = Random(7)
    sent = 0
    while sent < 100_000:
        piece = noise.randbytes(noise.randrange(1, 60))
        sent += len(piece)
        world.at(world.now_ms, partial(world.noise, piece))
        world.run(world.now_ms + 3)
    world.check()
    world.run(world.now_ms + LIMIT_MS, done=lambda: world.finished)
    world.check_end()
    assert world.host.phase is Phase.OPEN


@both
def test_a_frame_that_never_ends_holds_nothing(make_board: Callable[[Hello], Board]) -> None:
    world = World(8, make_board, faults=Faults(resets=0), messages=5)
    world.run(100)
    for _ in range(2000):
        world.noise(b"\x55" * 50)
    world.run(world.now_ms + LIMIT_MS, done=lambda: world.finished)
    world.check_end()


def test_a_board_that_lies_about_its_window_is_found_out() -> None:
    world = World(
        3, BoardLink, faults=Faults(0, 0, 0, 0, 0, delay_ms=0, resets=0, busy=0), window_bytes=255
    )
    world.ring_limit_bytes = 40
    world.run(LIMIT_MS, done=lambda: world.finished)
    world.check_end()
    assert any("as if it held" in note for note in world.notes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "version 2"),
        ({"schema": b"\1\2\3\4"}, "01020304"),
        ({"window_bytes": 31}, "31 bytes"),
        ({"max_message_bytes": 10}, "messages of 10 bytes"),
    ],
)
def test_a_board_that_does_not_fit_is_named_once(change: dict[str, object], words: str) -> None:
    world = World(5, BoardLink, faults=Faults(resets=0))
    world.change_hello = change
    world.restart_board()
    world.run(3000)
    assert [words in note for note in world.notes] == [True]
    assert "flash" in world.notes[0] or "sketch" in world.notes[0]
    assert world.host.phase is Phase.SEEKING


def test_a_host_takes_only_what_the_board_can() -> None:
    world = World(6, BoardLink, faults=Faults(resets=0), messages=0)
    world.run(500)
    with pytest.raises(UsageError, match="this board takes 200"):
        world.host.handle(events.Send(99, bytes(201)), world.now_ms)
