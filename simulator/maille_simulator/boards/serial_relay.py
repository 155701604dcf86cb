"""A port in front of a board's port that damages some of the bytes on their way, each way.

Beside that it is as if it were not there: whoever opens it opens the board's port, with the
same speed, so that a board which is reset by that is reset.
"""

import contextlib
import errno
import fcntl
import os
import pty
import select
import termios
import threading
import tty
from random import Random

from maille_simulator.boards.closing import Closing

GET_TERMIOS2 = 0x802C542A
SET_TERMIOS2 = 0x402C542B
"""Linux's calls for speeds that have no code of their own, such as 250000."""
TERMIOS2_BYTES = 44

LOOK_S = 0.005
"""How often an end that nobody has open, or a new speed, is looked for."""

WAITING_BYTES = 1 << 16
"""So much waits for an end that does not read; what comes then is lost, as on a cable."""


class SerialRelay(Closing):
    """One cable; its near end is `path`.

    Args:
        board: the path of the board's port.
        random: decides which bytes are damaged, and how.
        share: the share of the bytes that are damaged, 0 to 1; may be changed at any time.

    Raises:
        OSError: there is no pseudo-terminal left.
    """

    def __init__(self, board: str, random: Random, share: float = 0.0) -> None:
        self.share = share
        self.damaged = 0
        """Bytes that arrived other than they were sent."""
        self._board = board
        self._random = random
        self._near, end = pty.openpty()
        tty.setraw(end)
        self.path = os.ttyname(end)
        os.close(end)
        os.set_blocking(self._near, False)
        self._far = -1
        self._speed = b""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="damaged cable", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Unplug both ends."""
        self._ended.set()
        self._thread.join()

    # --- its own thread --------------------------------------------------------------------

    def _serve(self) -> None:
        to_board, to_host = bytearray(), bytearray()
        try:
            while not self._ended.is_set():
                if not self._is_open(self._near):
                    self._hang_up()
                    to_board.clear()
                    to_host.clear()
                    self._ended.wait(LOOK_S)
                    continue
                if self._far < 0 and not self._open_board():
                    return
                self._copy_speed()
                outwards = [self._near] if to_host else []
                outwards += [self._far] if to_board else []
                ready, free, _ = select.select([self._near, self._far], outwards, [], LOOK_S)
                if self._near in ready:
                    self._take(self._near, to_board)
                if self._far in ready and not self._take(self._far, to_host):
                    return
                if self._near in free:
                    _write(self._near, to_host)
                if self._far in free:
                    _write(self._far, to_board)
        finally:
            self._hang_up()
            os.close(self._near)

    def _is_open(self, descriptor: int) -> bool:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        return not any(event & select.POLLHUP for _, event in poller.poll(0))

    def _open_board(self) -> bool:
        try:
            self._far = os.open(self._board, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError:
            return False  # the board was taken away, and its cable with it
        with contextlib.suppress(termios.error):
            tty.setraw(self._far)
        self._speed = b""
        return True

    def _hang_up(self) -> None:
        if self._far >= 0:
            os.close(self._far)
            self._far = -1

    def _copy_speed(self) -> None:
        """Whoever sets this end's speed sets the board's end's."""
        wanted = bytearray(TERMIOS2_BYTES)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._near, GET_TERMIOS2, wanted)
            if wanted != self._speed:
                fcntl.ioctl(self._far, SET_TERMIOS2, bytes(wanted))
                self._speed = bytes(wanted)

    def _take(self, descriptor: int, waiting: bytearray) -> bool:
        """Read what is there; False if the other end is gone."""
        try:
            data = os.read(descriptor, 4096)
        except OSError as error:
            return error.errno in {errno.EAGAIN, errno.EINTR}
        if len(waiting) < WAITING_BYTES:
            waiting += self._on_the_way(data)
        return bool(data)

    def _on_the_way(self, data: bytes) -> bytes:
        share, random = self.share, self._random
        if not share:
            return data
        found = bytearray(data)
        for place in range(len(found)):
            if random.random() < share:
                found[place] ^= random.randint(1, 255)
                self.damaged += 1
        return bytes(found)


def _write(descriptor: int, waiting: bytearray) -> None:
    with contextlib.suppress(OSError):
        del waiting[: os.write(descriptor, waiting)]
