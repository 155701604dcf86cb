"""Several simulated boards on this machine, each on a port of its own.

python -m maille_simulator.boards.fleet uno --count 3
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from maille_node.firmware import avr
from maille_node.firmware.header import check_stack, write_model_header
from maille_node.firmware.targets import TARGETS
from maille_simulator.boards.avr_serial import AvrSerial, remember_identity
from maille_simulator.boards.runner_build import RunnerError

SKETCH = "DigitsOnUno"
_WATCH_S = 0.5


def start_boards(
    stack: ExitStack,
    name: str,
    count: int,
    *,
    sketch: Path | None = None,
    model: Path | None = None,
    speed: float = 1.0,
) -> list[AvrSerial]:
    """Builds the firmware and starts `count` boards with it; the stack takes them away.

    Args:
        stack: closes what is started here.
        name: the kind of board, a key of `TARGETS`.
        count: how many.
        sketch: an .ino file; else the example that reads digits.
        model: a model in the tiny format, in place of the sketch's own.
        speed: board time over real time.

    Raises:
        FirmwareError: the firmware cannot be built here.
        RunnerError: boards cannot be simulated here.
        WireError: `model` is no model.
    """
    target = TARGETS[name]
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="maille-boards-")))
    include: tuple[Path, ...] = ()
    if model is not None:
        write_model_header(model.read_bytes(), target, folder / "model")
        include = (folder / "model",)
    source = sketch or avr.library_directory() / "examples" / SKETCH / f"{SKETCH}.ino"
    built = avr.build(source, target, folder, include=include)
    if model is not None:
        check_stack(target, built.ram_bytes)
    boards = []
    for number in range(1, count + 1):
        eeprom = folder / f"eeprom-{number}"
        eeprom.write_bytes(remember_identity(target, number))
        board = AvrSerial(target, built.elf, eeprom=eeprom, speed=speed)
        boards.append(stack.enter_context(board))
    return boards


def run_boards(name: str, count: int, say: Callable[[str], None], *, model: Path | None) -> None:
    """Starts boards, says where they are, and keeps them until interrupted.

    Raises:
        FirmwareError, RunnerError, WireError: as `start_boards`; also when no board is left.
    """
    with ExitStack() as stack:
        boards = start_boards(stack, name, count, model=model)
        ports = " ".join(f"--port {board.path}" for board in boards)
        for number, board in enumerate(boards, 1):
            say(f"{TARGETS[name].title} {number} on {board.path}")
        them = "it" if count == 1 else "them"
        say(f"join {them} to a mesh, in another terminal (Ctrl-C here takes {them} away):")
        say(f"  maille gateway {ports}")
        running = dict(enumerate(boards, 1))
        while running:
            time.sleep(_WATCH_S)
            for number in [number for number, board in running.items() if not board.running]:
                say(f"{TARGETS[name].title} {number} on {running.pop(number).path} has gone")
        raise RunnerError("no board runs any more: their programs crashed or were ended")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("board", choices=sorted(TARGETS))
    parser.add_argument("--count", type=int, default=1, help="how many boards")
    parser.add_argument("--model", type=Path, help="a model in the tiny format to build in")
    arguments = parser.parse_args()

    def say(text: str) -> None:
        print(text, flush=True)  # noqa: T201

    run_boards(arguments.board, arguments.count, say, model=arguments.model)


if __name__ == "__main__":
    main()
