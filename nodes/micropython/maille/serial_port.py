"""The line to a gateway: the board's own USB port (where its REPL is), or a UART."""

import sys

from micropython import const

_QUIET_MS = const(200)
_MOST_AT_ONCE = const(512)
_CTRL_C = const(3)
_RETURN = const(13)
BAUDS = (115200, 250000, 500000, 1000000)


class Escape:
    """Finds Enter and Ctrl-C at the start of a line, with which people and tools ask for the REPL.

    No frame of a host begins so: 13 says that its first zero comes after 12 bytes, and 3 is a
    STATUS, which has 7.
    """

    def __init__(self) -> None:
        self._last_ms = -_QUIET_MS
        self._start = True
        self._armed = False

    def seen(self, byte: int, now_ms: int) -> bool:
        """Whether this byte completes it."""
        start = self._start or now_ms - self._last_ms >= _QUIET_MS
        self._last_ms = now_ms
        if self._armed and byte == _CTRL_C:
            return True
        self._armed = start and byte == _RETURN
        self._start = byte == 0
        return False


class Usb:
    """The port that the REPL has otherwise, USB or a UART's adapter. Ctrl-C means nothing on it."""

    rates = 0

    def __init__(self) -> None:
        import select

        self._in = sys.stdin.buffer
        self._out = sys.stdout.buffer
        self._poll = select.poll()
        self._poll.register(sys.stdin, select.POLLIN)
        self._byte = bytearray(1)
        take_port()

    def any(self) -> bool:
        """Whether `read` would not wait."""
        for _ in self._poll.ipoll(0):
            return True
        return False

    def read(self) -> int:
        """One byte; the port's `readinto` waits until it has all that is asked for."""
        if self._in.readinto(self._byte) == 0:
            raise OSError("the line is gone")
        return self._byte[0]

    def write(self, data) -> None:
        """All of these bytes."""
        self._out.write(data)

    def set_rate(self, _rate: int) -> None:
        """Nothing: bytes have no speed here."""

    def close(self) -> None:
        """Give the port back to the REPL."""
        give_port_back()


class Uart:
    """A UART of its own.

    Args:
        settings: "uart" (its number), and pins "tx" and "rx" where they are not the port's usual.
    """

    rates = 7

    def __init__(self, settings: dict) -> None:
        from machine import UART, Pin

        options: dict = {"baudrate": BAUDS[0], "rxbuf": _MOST_AT_ONCE}
        for name in ("tx", "rx"):
            if name in settings:
                options[name] = Pin(settings[name])
        self._uart = UART(settings["uart"], **options)
        self._byte = bytearray(1)

    def any(self) -> bool:
        """Whether `read` would not wait."""
        return self._uart.any() > 0

    def read(self) -> int:
        """One byte."""
        self._uart.readinto(self._byte)
        return self._byte[0]

    def write(self, data) -> None:
        """All of these bytes."""
        self._uart.write(data)

    def set_rate(self, rate: int) -> None:
        """Change the speed once everything written has left."""
        self._uart.flush()
        self._uart.init(baudrate=BAUDS[rate])

    def close(self) -> None:
        """Give the pins back."""
        self._uart.deinit()


_terminal: list = []


def take_port() -> None:
    """From now on Ctrl-C is a byte like any other."""
    import micropython

    micropython.kbd_intr(-1)
    if sys.platform == "linux" and not _terminal:
        # There the terminal makes of Ctrl-C what a board's port makes of it.
        import termios  # type: ignore[import-not-found]

        _terminal.append(termios.tcgetattr(0))
        termios.setraw(0)


def give_port_back() -> None:
    """Ctrl-C interrupts again."""
    import micropython

    if _terminal:
        import termios

        termios.tcsetattr(0, termios.TCSANOW, _terminal.pop())
    micropython.kbd_intr(_CTRL_C)
