"""Files that a command writes for people and for CI beside what it prints."""

import os
from pathlib import Path

from maille.errors import MailleError, SettingsError


def check_writable(path: Path) -> None:
    """SettingsError where a report could not be written later: before the work, not after it."""
    folder = path.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise SettingsError(f"{path} cannot be written: make the folder {folder} first")


def write_file(path: Path, text: str) -> None:
    """Write a report; MailleError with the next step where that fails."""
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise MailleError(
            f"{path} cannot be written ({error.strerror}): free some space, or name another file; "
            "the figures are printed all the same with --json"
        ) from error
