"""An AVR board under simavr on a pseudo terminal, in real time: what a gateway meets on a port.

    python -m maille_simulator.boards.avr_serial TARGET FIRMWARE.elf

prints the port's path; a line on standard input pulls the reset line.
"""

import array
import contextlib
import fcntl
import os
import pty
import select
import sys
import time
import tty
from pathlib import Path

from maille_node.firmware.targets import TARGETS
from maille_simulator.boards.avr import AvrBoard

_TCGETS2 = 0x802C542A
_TERMIOS2_BYTES = 44
_SLICE_S = 0.001
_MOST_BEHIND_S = 0.1
_READ_BYTES = 256


class AvrSerial:
    """Carries bytes and speed between a pseudo terminal and UART 0 of a board."""

    def __init__(self, board: AvrBoard) -> None:
        self._board = board
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.path = os.ttyname(self._slave)

    def close(self) -> None:
        """Take the port away."""
        os.close(self._master)
        os.close(self._slave)

    def run_for(self, time_s: float) -> None:
        """So much board time, no faster than real time."""
        real_s, end_us = time.monotonic(), self._board.time_us + time_s * 1e6
        start_us = self._board.time_us
        while self._board.time_us < end_us:
            select.select([self._master], [], [], _SLICE_S)
            with contextlib.suppress(BlockingIOError):
                data = os.read(self._master, _READ_BYTES)
                self._board.uart_write(data, baud=self._host_baud())
            ahead_s = time.monotonic() - real_s - (self._board.time_us - start_us) / 1e6
            if ahead_s > _MOST_BEHIND_S:
                # This machine is too slow: the board's time stands still for a moment.
                real_s += ahead_s - _MOST_BEHIND_S
            if ahead_s > 0:
                self._board.run_for_us(min(ahead_s, _MOST_BEHIND_S) * 1e6)
            self._write(self._host_baud())

    def _write(self, host_baud: int) -> None:
        heard = bytes(
            event.value if abs(event.baud - host_baud) * 20 <= host_baud else event.value ^ 0xA5
            for event in self._board.uart_events()
        )
        if heard:
            with contextlib.suppress(BlockingIOError):
                os.write(self._master, heard)

    def _host_baud(self) -> int:
        state = array.array("B", bytes(_TERMIOS2_BYTES))
        fcntl.ioctl(self._slave, _TCGETS2, state)
        return int.from_bytes(state[40:44], sys.byteorder)


def _main(target: str, elf: str) -> None:
    with AvrBoard(TARGETS[target], Path(elf)) as board:
        port = AvrSerial(board)
        print(port.path, flush=True)  # noqa: T201 - for whoever started it
        while True:
            port.run_for(0.05)
            if select.select([sys.stdin], [], [], 0)[0]:
                if not sys.stdin.readline():
                    return
                board.reset()


if __name__ == "__main__":
    _main(*sys.argv[1:])
