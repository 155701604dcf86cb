"""The Arduino firmware compiled for this machine, on a pseudo-terminal.

Fast and with sanitizers, but neither its cycles nor its RAM are those of a board.
"""

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from maille_node.firmware.avr import cache_directory, library_directory
from maille_simulator.boards.runner_build import RunnerError

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
    sources = [library / "extras/host/board_host.cpp", *sorted(library.glob("src/maille/*.cpp"))]
    flags = (*_FLAGS, *(_CHECKS if checked else ()))
    digest = hashlib.sha256("\0".join(flags).encode())
    for path in (*sources, *sorted(library.glob("src/maille/*.h"))):
        digest.update(path.read_bytes())
    made = cache_directory().parent / "host" / f"maille-board-{digest.hexdigest()[:16]}"
    if made.is_file():
        return made
    compiler = shutil.which("g++")
    if compiler is None:
        raise RunnerError("g++ is needed once; on Debian: sudo apt install g++")
    made.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=made.parent) as folder:
        partial = Path(folder) / "board"
        command = [compiler, *flags, f"-I{library / 'src'}", "-o", str(partial)]
        done = subprocess.run(
            [*command, *map(str, sources), "-lutil"], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RunnerError(f"the firmware does not compile here:\n{done.stderr[-2000:]}")
        partial.replace(made)
    return made


class HostBoard:
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> int:
        """Takes the board away; what was delivered is kept. Returns the program's exit status."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        status = self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return status
