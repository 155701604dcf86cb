"""The Arduino firmware compiled for this machine, on a pseudo-terminal.

Fast and with sanitizers, but neither its cycles nor its RAM are those of a board.
"""

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from maille_node.firmware.avr import library_directory
from maille_simulator.boards.closing import Closing
from maille_simulator.boards.runner_build import RunnerError
from maille_simulator.compiling import CompileFailed, CompilerMissing, Program

_FLAGS = ("-std=gnu++11", "-O2", "-Wall", "-Wextra", "-fno-exceptions")
_CHECKS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


def host_board_path(*, checked: bool = False) -> Path:
    """The compiled firmware, built when the sources have changed.

    Args:
        checked: with the sanitizers for addresses and undefined behaviour.

    Raises:
        RunnerError: no C++ compiler, or it does not compile.
        FirmwareError: the Arduino library is not part of this installation.
    """
    library = library_directory()
    program = Program(
        "maille-board",
        [library / "extras/host/board_host.cpp", *sorted(library.glob("src/maille/*.cpp"))],
        (*_FLAGS, *(_CHECKS if checked else ())),
        ("-lutil",),
        headers=sorted(library.glob("src/maille/*.h")),
        include=(library / "src",),
        compilers=("g++",),
    )
    try:
        return program.path("host")
    except CompilerMissing:
        raise RunnerError("g++ is needed once; on Debian: sudo apt install g++") from None
    except CompileFailed as error:
        raise RunnerError(f"the firmware does not compile here:\n{error}") from None


class HostBoard(Closing):
    """One board; its port is `path`.

    Args:
        name: of the node.
        folder: where the models' digests and the store of delivered models are written.
        models: documents in the tiny format, built in, at most four.
        checked: as for `host_board_path`.
    """

    def __init__(
        self, name: str, folder: Path, models: Sequence[bytes] = (), *, checked: bool = False
    ) -> None:
        paths = []
        for index, document in enumerate(models):
            path = folder / f"{name}-{index}.tiny"
            path.write_bytes(document)
            path.with_suffix(".tiny.sha256").write_text(
                hashlib.sha256(document).hexdigest(), encoding="utf-8"
            )
            paths.append(str(path))
        self._process = subprocess.Popen(
            [str(host_board_path(checked=checked)), name, *paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"MAILLE_BOARD_STORE": str(folder / f"{name}.store")},
            text=True,
        )
        self.path = self._process.stdout.readline().strip() if self._process.stdout else ""
        if not self.path:
            self.close()
            raise RunnerError("the firmware did not start on this machine")

    def close(self) -> int:
        """Takes the board away; what was delivered is kept. Returns the program's exit status."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        status = self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return status
