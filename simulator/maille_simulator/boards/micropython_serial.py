"""A MicroPython board on a cable that is none: the unix port behind a pseudo-terminal.

It behaves as a board does where the unix port alone does not: `boot.py` and `main.py` of its
folder run at every start, Ctrl-D starts it anew, and from the raw REPL without `main.py`.
What it cannot stand for: the boot loader of the chip, Wi-Fi and pins.
"""

import contextlib
import functools
import os
import pty
import selectors
import signal
import subprocess
import tempfile
import termios
import threading
import tty
from pathlib import Path
from typing import Self

from maille_simulator.boards.interpreter import find_micropython

_ENTER_RAW, _LEAVE_RAW = b"\x01", b"\x02"
_START = """
import sys
for _name in ("boot.py", "main.py"):
    try:
        _file = open(_name)
    except OSError:
        continue
    try:
        exec(_file.read(), globals())
    except KeyboardInterrupt:
        print("KeyboardInterrupt:")
        break
    except BaseException as _error:
        sys.print_exception(_error)
"""


def _quiet_terminal(descriptor: int) -> None:
    """Bytes as they are, no echo; Ctrl-C is a signal while a program runs."""
    tty.setraw(descriptor)
    modes = termios.tcgetattr(descriptor)
    modes[3] |= termios.ISIG
    termios.tcsetattr(descriptor, termios.TCSANOW, modes)


class MicroPythonOnSerial:
    """A board with a serial port; use it in a `with` block.

    Args:
        folder: its file system.
        heap_bytes: its heap; 0 is the unix port's own.
        answers: False makes a device that never answers, as one without MicroPython.
    """

    def __init__(self, folder: Path, *, heap_bytes: int = 0, answers: bool = True) -> None:
        self.folder = folder
        self._command = [find_micropython()]
        if heap_bytes:
            self._command += ["-X", f"heapsize={heap_bytes}"]
        self._answers = answers
        self._raw = False
        self._child: subprocess.Popen[bytes] | None = None
        self._inner = -1
        self._starter = tempfile.NamedTemporaryFile("w", suffix=".py")  # noqa: SIM115 - until close
        self._starter.write(_START)
        self._starter.flush()
        self._outer, self._port_end = pty.openpty()
        tty.setraw(self._port_end)
        self.port = os.ttyname(self._port_end)
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._serve, name="board on a cable", daemon=True)

    def __enter__(self) -> Self:
        """Switch it on."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Switch it off and remove its port."""
        os.write(self._stop_write, b"x")
        self._thread.join(timeout=10)
        for descriptor in (self._outer, self._port_end, self._stop_read, self._stop_write):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._starter.close()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._stop_read, selectors.EVENT_READ)
            selector.register(self._outer, selectors.EVENT_READ)
            if self._answers:
                self._start(selector, with_main=True)
            while True:
                ready = {key.fd for key, _ in selector.select()}
                if self._stop_read in ready:
                    break
                if self._outer in ready:
                    self._from_host(os.read(self._outer, 4096))
                if self._inner in ready:
                    self._from_board(selector)
            self._stop(selector)

    def _from_host(self, data: bytes) -> None:
        if self._inner < 0:
            return
        for byte in (data[index : index + 1] for index in range(len(data))):
            if byte in {_ENTER_RAW, _LEAVE_RAW}:
                self._raw = byte == _ENTER_RAW
        os.write(self._inner, data)

    def _from_board(self, selector: selectors.BaseSelector) -> None:
        try:
            data = os.read(self._inner, 4096)
        except OSError:
            data = b""
        if data:
            os.write(self._outer, data)
            return
        # The unix port has ended, which is what Ctrl-D does to it: a board starts anew.
        self._stop(selector)
        os.write(self._outer, b"MPY: soft reboot\r\n")
        self._start(selector, with_main=not self._raw)
        if self._raw:
            os.write(self._inner, _ENTER_RAW)

    def _start(self, selector: selectors.BaseSelector, *, with_main: bool) -> None:
        self._inner, end = pty.openpty()
        _quiet_terminal(end)
        command = [*self._command, "-i", self._starter.name] if with_main else self._command
        environment = os.environ | {"MICROPYPATH": ".frozen:lib", "HOME": str(self.folder)}
        self._child = subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            pass_fds=(end,),
            # A terminal of its own, so that Ctrl-C interrupts its program as it does a board's.
            preexec_fn=functools.partial(os.login_tty, end),  # noqa: PLW1509 - it takes no lock
        )
        os.close(end)
        selector.register(self._inner, selectors.EVENT_READ)

    def _stop(self, selector: selectors.BaseSelector) -> None:
        if self._inner >= 0:
            selector.unregister(self._inner)
            os.close(self._inner)
            self._inner = -1
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                self._child.send_signal(signal.SIGKILL)
            self._child.wait()
            self._child = None
