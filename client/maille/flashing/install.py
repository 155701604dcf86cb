"""One board, from a cable to a node: library and settings onto it, started, seen in the mesh."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from maille.flashing.errors import BoardFailed
from maille.flashing.library import board_files, stale_files
from maille.flashing.replink import BoardRepl, Interpreter
from maille.flashing.settings import SETTINGS_FILE, encoded, merged, parse_settings

START_TIMEOUT_S = 90.0
_LAST_LINES = 12
_RESTARTED = "soft reboot"


class Watcher(Protocol):
    """Who is told how far it is."""

    def file(self, path: str, number: int, count: int, *, written: bool) -> None:
        """A file is on the board; `written` is False where the same one was there already."""

    def line(self, text: str) -> None:
        """The board printed a line."""


@dataclass(frozen=True, slots=True)
class Installed:
    """What was put on a board."""

    interpreter: Interpreter
    written: int
    unchanged: int
    size_bytes: int
    settings: Mapping[str, object] = field(repr=False)


def install(
    board: BoardRepl,
    library: Path,
    settings: Mapping[str, object] | None,
    watcher: Watcher,
) -> Installed:
    """Bring library and settings onto a board; files that are there already are not written.

    Args:
        board: an open board.
        library: the folder with the board library's sources.
        settings: laid over those that the board has; None keeps them as they are.
        watcher: is told.

    Raises:
        SettingsError: too old an interpreter, or damaged settings on the board.
        BoardFailed, BoardSilent: see there.
    """
    interpreter = board.about()
    files = board_files(library, interpreter)
    for path in stale_files(board, files):
        board.remove(path)
    written = 0
    for number, file in enumerate(files, start=1):
        fresh = board.write(file.path, file.content)
        written += fresh
        watcher.file(file.path, number, len(files), written=fresh)
    found = board.read(SETTINGS_FILE)
    old = parse_settings(found) if found and settings is None else {}
    if found and settings is not None:
        old = _readable(found)
    final = merged(old, settings or {})
    if not final:
        raise BoardFailed(
            "The board has no settings yet. Give it some with `maille flash`, or with "
            "`maille board config --port ... node=... broker=...`."
        )
    board.write(SETTINGS_FILE, encoded(final))
    return Installed(
        interpreter,
        written,
        len(files) - written,
        sum(len(file.content) for file in files),
        final,
    )


def _readable(content: bytes) -> dict[str, object]:
    try:
        return parse_settings(content)
    except Exception:  # noqa: BLE001 - damaged settings are replaced by the new ones
        return {}


def start_and_wait(
    board: BoardRepl,
    seen: Callable[[], bool],
    watcher: Watcher,
    *,
    timeout_s: float = START_TIMEOUT_S,
) -> float:
    """Start the board's program and wait until the mesh has seen it; the seconds it took.

    Raises:
        BoardFailed: it was not seen in time; with the last lines that the board printed.
    """
    board.restart()
    started_s = time.monotonic()
    looked_s = 0.0
    lines: list[str] = []
    joined = False

    def over() -> bool:
        return joined or time.monotonic() - started_s > timeout_s

    started = False
    for line in board.follow(stop=over):
        if line:
            lines = [*lines[-_LAST_LINES:], line]
            if started:
                watcher.line(line)
            # Before this the prompt greets, which tells a person nothing.
            started = started or _RESTARTED in line
        if time.monotonic() - looked_s > 0.5:
            looked_s = time.monotonic()
            joined = seen()
    if joined:
        return time.monotonic() - started_s
    said = "\n    ".join(lines) if lines else "nothing"
    raise BoardFailed(
        f"The board was not seen in the mesh within {timeout_s:.0f} s. Check Wi-Fi name, password "
        f"and broker with `maille board config`. Its last words:\n    {said}"
    )
