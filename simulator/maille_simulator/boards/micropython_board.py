"""A board that speaks with a gateway: the real library on MicroPython's unix port, on a pseudo terminal.

`path` is the port for the gateway. What it cannot stand for: USB itself, whose driver has buffers and
a flow control of its own, and pins.
"""

import contextlib
import json
import os
import pty
import subprocess
import tty
from collections.abc import Mapping
from pathlib import Path

from maille_simulator.boards.closing import Closing
from maille_simulator.boards.interpreter import find_micropython
from maille_simulator.errors import ToolMissing

HEAP = "256k"


def board_library() -> Path:
    """The folder with the board library's `main.py` and package.

    Raises:
        ToolMissing: it is not part of this installation.
    """
    found = Path(__file__).resolve().parents[3] / "nodes" / "micropython"
    if not (found / "main.py").is_file():
        raise ToolMissing(
            "the board library is not beside this installation: run from a checkout of Maille"
        )
    return found


class MicroPythonBoard(Closing):
    """One board; use it in a `with` block, or `close` it.

    Args:
        folder: its file system, kept over resets.
        settings: more of `maille.json`; without any it is as a board that was only given the library.
        heap: of the interpreter, as its -X heapsize takes it.
        library: another folder with the library.
        interpreter: another one than MicroPython's unix port of this environment.
        program: what it runs; the library's `main.py` if left out.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, object] | None = None,
        *,
        heap: str = HEAP,
        library: Path | None = None,
        interpreter: str | None = None,
        program: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if settings is not None:
            (folder / "maille.json").write_text(json.dumps(settings), encoding="utf-8")
        self._library = library or board_library()
        self._heap = heap
        self._interpreter = interpreter or find_micropython()
        self._program = program or (str(self._library / "main.py"),)
        self._board_end, self._port_end = pty.openpty()
        tty.setraw(self._port_end)
        self.path = os.ttyname(self._port_end)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Switch it on."""
        with (self.folder / "errors").open("ab") as errors:
            self.process = subprocess.Popen(
                [self._interpreter, "-X", f"heapsize={self._heap}", *self._program],
                stdin=self._board_end,
                stdout=self._board_end,
                stderr=errors,
                cwd=self.folder,
                env=os.environ | {"MICROPYPATH": f"{self._library}:.frozen"},
            )

    def kill(self) -> None:
        """Cut the power: whatever it did is not finished."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def reset(self) -> None:
        """Cut the power and switch it on again."""
        self.kill()
        self.start()

    def noise(self, data: bytes) -> None:
        """Bytes that nobody said, towards the gateway and towards the board."""
        os.write(self._board_end, data)
        os.write(self._port_end, data)

    def errors(self) -> str:
        """What the interpreter had to say to nobody."""
        return (self.folder / "errors").read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """Take it away."""
        self.kill()
        for descriptor in (self._board_end, self._port_end):
            with contextlib.suppress(OSError):
                os.close(descriptor)
