"""Where programs of this machine are."""

import shutil
import sys
from pathlib import Path


def program_path(name: str) -> str | None:
    """A program beside this interpreter, as packages install them, else on PATH; None if nowhere."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)
