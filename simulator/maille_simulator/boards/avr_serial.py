"""AVR boards on pseudo-terminals, paced to real time: what a gateway meets on its ports.

    python -m maille_simulator.boards.avr_serial TARGET FIRMWARE.elf

prints the port's path; a line on standard input pulls the reset line, its end takes the board away.
"""

import subprocess
import sys
from pathlib import Path

from maille_node.firmware.targets import TARGETS, AvrTarget
from maille_simulator.boards.closing import Closing
from maille_simulator.boards.runner_build import RunnerError, runner_path

_IDENTITY_BYTES = 8
_REMEMBERED_BYTES = 13  # identity, starts, check: at the EEPROM's end, see Maille.cpp
_CHECK_SEED = 0x4D


class AvrSerial(Closing):
    """A board in a process of its own. Opening its port resets it, as on an Uno.

    Bytes are garbage to whichever end has another speed.

    Args:
        target: the kind of board.
        elf: the program.
        eeprom: a file with what the EEPROM holds; written when the board is taken away. None: blank.
        speed: board time over real time; 0: as fast as it goes.
    """

    def __init__(
        self, target: AvrTarget, elf: Path, *, eeprom: Path | None = None, speed: float = 1.0
    ) -> None:
        place = str(eeprom) if eeprom is not None else "/dev/null"
        arguments = [target.mcu, str(target.clock_hz), str(elf), "--pty", str(speed), place]
        self._process = subprocess.Popen(
            [str(runner_path()), *arguments],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        line = self._process.stderr.readline() if self._process.stderr else ""
        if not line.startswith("pty "):
            self.close()
            raise RunnerError(f"the AVR runner did not start: {line.strip()}")
        self.path = line.split()[1]
        """The port, for a gateway."""

    def reset(self) -> None:
        """Presses the button."""
        if self._process.stdin is not None:
            self._process.stdin.write("r")
            self._process.stdin.flush()

    @property
    def running(self) -> bool:
        """False once the program has crashed."""
        return self._process.poll() is None

    def close(self) -> None:
        """Takes the board away; its port vanishes."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()


def remember_identity(target: AvrTarget, number: int) -> bytes:
    """The EEPROM of a chip that was started before: each number is another chip.

    A chip without one draws its identity from noise, of which a simulated chip has none.
    """
    identity = number.to_bytes(_IDENTITY_BYTES, "big")
    check = _CHECK_SEED
    for byte in identity:
        check = ((check << 1 | check >> 7) ^ byte) & 0xFF
    remembered = identity + bytes(4) + bytes([check])
    return b"\xff" * (target.eeprom_bytes - _REMEMBERED_BYTES) + remembered


def _main(name: str, elf: str) -> None:
    with AvrSerial(TARGETS[name], Path(elf)) as board:
        print(board.path, flush=True)  # noqa: T201 - for whoever started it
        while board.running and sys.stdin.readline():
            board.reset()


if __name__ == "__main__":
    _main(*sys.argv[1:])
