"""The real MicroPython, its unix port, with the board library as it is in the repository."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from maille_simulator.boards.interpreter import find_micropython

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "nodes" / "micropython"
SCRIPTS = Path(__file__).parent / "on_board"


def micropython_32bit() -> str | None:
    """The interpreter with the word of a board's processor, where `make test` could get one."""
    beside = Path(sys.executable).parent / "micropython-32bit"
    return str(beside) if beside.exists() else None


def environment(library: Path = LIBRARY) -> dict[str, str]:
    """In which `import maille` finds the board library."""
    return {**os.environ, "MICROPYPATH": f"{library}:.frozen"}


def run_on_board(
    script: str, *arguments: object, heap: str = "16m", library: Path = LIBRARY, check: bool = True
) -> list[str]:
    """Lines that a script of `on_board/` printed."""
    ended = subprocess.run(
        [
            *(find_micropython(), "-X", f"heapsize={heap}", str(SCRIPTS / script)),
            *(str(argument) for argument in arguments),
        ],
        capture_output=True,
        text=True,
        env=environment(library),
    )
    if check:
        assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.splitlines()


def last_words(lines: Sequence[str]) -> dict[str, str]:
    """Lines of a word and a value, the last one of each word."""
    return dict(line.split(" ", 1) for line in lines if " " in line)


def plain_vectors(source: Path, target: Path) -> None:
    """Vectors without escaped surrogates, which MicroPython's JSON does not put together."""
    for path in source.glob("*.json"):
        text = json.dumps(json.loads(path.read_text("utf-8")), ensure_ascii=False)
        (target / path.name).write_text(text, "utf-8")
