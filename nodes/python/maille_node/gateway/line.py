"""One serial port of the operating system: bytes, speed, reset. The only place that knows pyserial."""

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable

import serial
from serial.tools import list_ports

from maille_node.errors import NodeError
from maille_protocol.serial.limits import BAUDS

_READ_BYTES = 4096
_RESET_S = 0.1


class LineError(NodeError):
    """A port cannot be opened; the text says why and what to do.

    Args:
        text: cause and next step.
        missing: there is no such port.
    """

    def __init__(self, text: str, *, missing: bool = False) -> None:
        super().__init__(text)
        self.missing = missing


class Line:
    """An open serial port. Nobody else can open it meanwhile."""

    def __init__(self, path: str) -> None:
        """Open it at the first rate; most boards reset at that.

        Raises:
            LineError: it is not there, used by another program, or not allowed.
        """
        self.path = path
        self._reading = False
        try:
            self._serial = serial.Serial(path, BAUDS[0], timeout=0, write_timeout=0, exclusive=True)
        except (serial.SerialException, OSError, ValueError) as error:
            missing = getattr(error, "errno", None) == errno.ENOENT
            raise LineError(_why(path, error), missing=missing) from error

    def start(self, received: Callable[[bytes], None], gone: Callable[[str], None]) -> None:
        """Hand over what comes; `gone` is called once, when the port is there no more."""

        def readable() -> None:
            try:
                data = os.read(self._serial.fileno(), _READ_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self.close()
                gone(os.strerror(error.errno or errno.EIO))
                return
            if data:
                received(data)
            else:
                self.close()
                gone("it was unplugged")

        asyncio.get_running_loop().add_reader(self._serial.fileno(), readable)
        self._reading = True

    def write(self, data: bytes) -> bool:
        """Put a frame on the line; False if it could not be taken whole (the link repeats it)."""
        try:
            return os.write(self._serial.fileno(), data) == len(data)
        except (OSError, serial.SerialException, TypeError):
            # A port that is gone tells so when it is read.
            return False

    def set_rate(self, rate: int) -> None:
        """Change the speed once everything written has left: at most a few milliseconds."""
        with contextlib.suppress(OSError, serial.SerialException):
            self._serial.flush()
            self._serial.baudrate = BAUDS[rate]

    async def reset(self) -> bool:
        """Reset the board by its DTR line; False where the port has none."""
        try:
            self._serial.dtr = False
            await asyncio.sleep(_RESET_S)
            self._serial.dtr = True
        except (OSError, serial.SerialException):
            return False
        return True

    def close(self) -> None:
        """Give the port back."""
        if self._serial.is_open:
            if self._reading:
                asyncio.get_running_loop().remove_reader(self._serial.fileno())
                self._reading = False
            with contextlib.suppress(OSError):
                self._serial.close()


def usb_ports() -> list[str]:
    """Every serial port that hangs on USB."""
    return sorted(port.device for port in list_ports.comports() if port.vid is not None)


def place_of(path: str) -> str:
    """What names a board that has no number of its own: the adapter's, or else the port."""
    for port in list_ports.comports():
        if port.device == path and port.serial_number:
            return str(port.serial_number)
    return path.rsplit("/", 1)[-1]


def _why(path: str, error: Exception) -> str:
    number = getattr(error, "errno", None)
    text = str(error)
    if number in {errno.EAGAIN, errno.EBUSY} or "lock" in text:
        return (
            f"{path} is used by another program (a gateway, a serial monitor): close that one, "
            "or name other ports with --port"
        )
    if number == errno.EACCES:
        return (
            f"{path} may not be used by this user: add the user to the group that owns it "
            "(often dialout), then log in again"
        )
    if number == errno.ENOENT:
        return f"{path} is not there: plug the board in, or name another port with --port"
    return f"{path} cannot be opened ({text})"
