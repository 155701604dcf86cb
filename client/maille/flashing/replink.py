"""Files and programs of a MicroPython board, over the raw REPL on its serial port.

All paths are relative to the board's root, where its interpreter starts. This is the only module
that touches mpremote's transport, whose classes are not declared stable.
"""

import contextlib
import errno
import hashlib
import io
import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

from maille.errors import SettingsError
from maille.flashing.errors import BoardFailed, BoardSilent
from maille.flashing.mixed_text import MixedText, holds_frame

_log = logging.getLogger(__name__)

_QUIET_S = 3.0
_ENTRY_TRIES = (True, False)
"""With a soft reset, then without: what cures most boards that do not answer."""
_CHUNK_BYTES = 256
_HEARD_BYTES = 500
_ARCHITECTURES = (
    "",
    "x86",
    "x64",
    "armv6",
    "armv6m",
    "armv7m",
    "armv7em",
    "armv7emsp",
    "armv7emdp",
    "xtensa",
    "xtensawin",
    "rv32imc",
    "rv64imc",
)
"""As `sys.implementation._mpy` numbers them, in its bits 10 to 13."""

_ABOUT = """
import sys, os
_i = sys.implementation
_u = os.uname() if hasattr(os, 'uname') else None
print(_i[0], '.'.join(str(n) for n in _i[1][:3]), getattr(_i, '_mpy', 0), _u[4] if _u else sys.platform)
"""
_HASH = """
import hashlib
def _h(path):
    try:
        f = open(path, 'rb')
    except OSError:
        return ''
    h = hashlib.sha256()
    b = bytearray(256)
    while True:
        n = f.readinto(b)
        if not n:
            break
        h.update(memoryview(b)[:n])
    f.close()
    return ''.join('%02x' % c for c in h.digest())
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What runs on a board. `architecture` is "" where it takes no machine code."""

    version: tuple[int, ...]
    bytecode: int
    architecture: str
    machine: str


class BoardRepl:
    """A MicroPython board whose program is stopped while this is open.

    Args:
        port: its serial port.
        quiet_s: how long it may say nothing before it counts as silent.

    Raises:
        BoardSilent: the port does not open, or nobody answers as MicroPython does.
    """

    def __init__(self, port: str, *, quiet_s: float = _QUIET_S) -> None:
        try:
            from mpremote.transport import TransportError
            from mpremote.transport_serial import SerialTransport
        except ModuleNotFoundError as error:
            raise SettingsError(
                f"Boards on a cable need {error.name}. Install it with: pip install 'maille[flash]'"
            ) from error

        class PatientTransport(SerialTransport):  # type: ignore[misc] # mpremote has no types
            """One that gives a board up in time which never stops talking; and notes what it said."""

            heard = b""

            def read_until(
                self,
                min_num_bytes: int,
                ending: bytes,
                timeout: float | None = 10,
                data_consumer: Callable[[bytes], None] | None = None,
                timeout_overall: float | None = None,
            ) -> bytes:
                if timeout_overall is None or data_consumer is not None:
                    found: bytes = super().read_until(
                        min_num_bytes, ending, timeout, data_consumer, timeout_overall
                    )
                    return found
                data, end_s = b"", time.monotonic() + timeout_overall
                while not data.endswith(ending) and time.monotonic() < end_s:
                    data += self.serial.read(1)
                self.heard = (self.heard + data)[-_HEARD_BYTES:]
                return data

        self._errors: tuple[type[Exception], ...] = (TransportError, OSError)
        self.port = port
        try:
            self._transport = PatientTransport(port, timeout=quiet_s)
        except (TransportError, OSError) as error:
            raise BoardSilent(_does_not_open(port, error)) from error
        self._enter(quiet_s)

    def _enter(self, quiet_s: float) -> None:
        last: Exception | None = None
        for soft_reset in _ENTRY_TRIES:
            try:
                # The transport prints what it does not understand; that is for the log.
                with contextlib.redirect_stdout(io.StringIO()) as said:
                    self._transport.enter_raw_repl(soft_reset=soft_reset, timeout_overall=quiet_s)
            except self._errors as error:
                last = error
                _log.debug("no raw REPL on %s: %s %s", self.port, error, said.getvalue())
                continue
            return
        self._transport.close()
        if holds_frame(self._transport.heard):
            raise BoardSilent(
                f"What hangs on {self.port} is a board without MicroPython that asks for a gateway, "
                "as an Arduino does: it has no files, settings or REPL. Join it with `maille gateway "
                f"--port {self.port}`, or write it anew with `maille flash`."
            ) from last
        raise BoardSilent(
            f"The device on {self.port} does not answer as MicroPython does. Press its reset "
            "button and try again; if it has no MicroPython yet, give one with --firmware."
        ) from last

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the port; the board stays stopped unless `restart` was called."""
        self.close()

    def close(self) -> None:
        """Let go of the port."""
        with contextlib.suppress(*self._errors):
            self._transport.close()

    def run(self, code: str) -> str:
        """Run statements on the board; what they printed.

        Raises:
            BoardFailed: they raised; with the last line of the traceback.
            BoardSilent: the connection broke.
        """
        from mpremote.transport import TransportExecError

        try:
            return bytes(self._transport.exec(code)).decode("utf-8", "replace")
        except TransportExecError as error:
            lines = str(error.error_output).strip().splitlines() or ["no reason given"]
            raise BoardFailed(f"The board on {self.port} reports: {lines[-1]}") from error
        except self._errors as error:
            raise BoardSilent(
                f"The board on {self.port} stopped answering ({error}). Check the cable, then "
                "run the command again: it goes on where it was."
            ) from error

    def about(self) -> Interpreter:
        """Which interpreter runs there.

        Raises:
            BoardFailed: it is no MicroPython.
        """
        words = self.run(_ABOUT).split(None, 3)
        if len(words) < 4 or words[0] != "micropython":
            raise BoardFailed(
                f"The device on {self.port} runs {' '.join(words) or 'something unknown'}, not "
                "MicroPython. Write MicroPython to it with --firmware."
            )
        number = int(words[2])
        index = number >> 10 & 0xF
        return Interpreter(
            version=tuple(int(part) for part in re.findall(r"\d+", words[1])),
            bytecode=number & 0xFF,
            architecture=_ARCHITECTURES[index] if index < len(_ARCHITECTURES) else "",
            machine=words[3].strip(),
        )

    def read(self, path: str) -> bytes | None:
        """A file's content, None if there is none."""
        try:
            return bytes(self._transport.fs_readfile(path, chunk_size=_CHUNK_BYTES))
        except FileNotFoundError:
            return None
        except self._errors as error:
            raise BoardFailed(f"{path} cannot be read from the board ({error}).") from error

    def write(self, path: str, content: bytes) -> bool:
        """Put a file in place, whole or not at all; whether it was another one before.

        The content is read back by its SHA-256 before it takes the file's name.
        """
        digest = hashlib.sha256(content).hexdigest()
        self.run(_HASH)
        if self._digest(path) == digest:
            return False
        folder = ""
        for part in path.split("/")[:-1]:
            folder = f"{folder}/{part}" if folder else part
            self.run(f"import os\ntry:\n os.mkdir({folder!r})\nexcept OSError:\n pass")
        fresh = f"{path}.new"
        try:
            self._transport.fs_writefile(fresh, content, chunk_size=_CHUNK_BYTES)
        except self._errors as error:
            raise BoardFailed(
                f"{path} cannot be written to the board ({error}). If its flash is full, remove "
                "files that you no longer need."
            ) from error
        if self._digest(fresh) != digest:
            raise BoardFailed(
                f"{path} came back from the board's flash as something else. Try again; if it "
                "happens again, the flash or the cable is faulty."
            )
        # FAT cannot rename onto a file that is there, littlefs can.
        self.run(
            f"import os\ntry:\n os.rename({fresh!r}, {path!r})\nexcept OSError:\n"
            f" os.remove({path!r})\n os.rename({fresh!r}, {path!r})"
        )
        return True

    def remove(self, path: str) -> None:
        """Remove a file if it is there."""
        self.run(f"import os\ntry:\n os.remove({path!r})\nexcept OSError:\n pass")

    def files(self, folder: str) -> list[str]:
        """Names of the files in a folder, none if there is no folder."""
        listed = self.run(
            f"import os\ntry:\n for e in os.ilistdir({folder!r}):\n  if e[1] == 0x8000: print(e[0])\n"
            "except OSError:\n pass"
        )
        return listed.split()

    def restart(self) -> None:
        """Start the board's own program again, as after power on, and keep listening."""
        with contextlib.suppress(*self._errors):
            self._transport.exit_raw_repl()
            self._transport.serial.write(b"\x04")

    def follow(self, *, stop: Callable[[], bool], quiet_s: float = 0.2) -> Iterator[str]:
        """Lines that the board prints, until `stop` says so; "" where it was quiet for a while."""
        yield from follow_lines(self._transport.serial, stop=stop, quiet_s=quiet_s, port=self.port)

    def heard(self, quiet_s: float = 0.2) -> bytes:
        """What the board says, in whatever form; empty where it was quiet for a while.

        Raises:
            BoardSilent: the port is gone.
        """
        serial = self._transport.serial
        serial.timeout = quiet_s
        try:
            return bytes(serial.read(max(1, serial.in_waiting)))
        except self._errors as error:
            raise BoardSilent(
                f"The port {self.port} is gone ({error}). Plug the board in again."
            ) from error

    def _digest(self, path: str) -> str:
        return self.run(f"print(_h({path!r}))").strip()


def follow_lines(
    serial: object, *, stop: Callable[[], bool], quiet_s: float, port: str
) -> Iterator[str]:
    """Lines from an open serial port; see `BoardRepl.follow`."""
    from serial import Serial, SerialException

    if not isinstance(serial, Serial):
        raise TypeError("a pyserial port is wanted")
    serial.timeout = quiet_s
    text = MixedText(port)
    while not stop():
        try:
            data = serial.read(max(1, serial.in_waiting))
        except (SerialException, OSError) as error:
            raise BoardSilent(
                f"The port {port} is gone ({error}). Plug the board in again."
            ) from error
        lines = list(text.feed(data))
        yield from lines or [""]


def _does_not_open(port: str, error: Exception) -> str:
    text = str(error)
    if "lock" in text or "failed to access" in text:
        why = "another program uses it"
    elif getattr(error, "errno", None) == errno.EACCES:
        why = "this user may not use it; on Linux, the group dialout may"
    else:
        why = text
    return (
        f"The port {port} does not open: {why}. Close what else uses it (a running `maille gateway`, "
        "a serial monitor), and see that this user may use it."
    )


def listen(port: str, *, stop: Callable[[], bool]) -> Iterator[str]:
    """Lines that a running board prints, without stopping its program.

    Raises:
        BoardSilent: the port does not open, or vanishes.
    """
    from serial import SerialException, serial_for_url

    try:
        opened = serial_for_url(port, 115200, exclusive=True)
    except (SerialException, OSError) as error:
        raise BoardSilent(_does_not_open(port, error)) from error
    try:
        yield from follow_lines(opened, stop=stop, quiet_s=0.2, port=port)
    finally:
        opened.close()
