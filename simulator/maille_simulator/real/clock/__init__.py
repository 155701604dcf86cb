"""Another wall clock for one program of this machine."""

import sys
from pathlib import Path

from maille_simulator.compiling import CompileFailed, CompilerMissing, Program
from maille_simulator.errors import ToolMissing

_SOURCE = Path(__file__).with_name("shifted.c")


def shifted_clock(by_s: float) -> dict[str, str]:
    """The environment of a program whose wall clock is off by so many seconds, either way.

    Its steady clock goes on as it is, as in a machine that is set right. The first call compiles
    what is preloaded.

    Raises:
        ToolMissing: there is no C compiler, it fails, or this is not Linux.
    """
    if sys.platform != "linux":
        raise ToolMissing("clock_jump works on Linux only: leave it out, or add --virtual")
    return {"LD_PRELOAD": str(_library()), "MAILLE_CLOCK_OFFSET_MS": str(round(by_s * 1000))}


def _library() -> Path:
    flags = ("-O2", "-Wall", "-Wextra", "-shared", "-fPIC")
    try:
        return Program("shifted", [_SOURCE], flags, ("-ldl",), suffix=".so").path("clock")
    except CompilerMissing:
        raise ToolMissing(
            "clock_jump needs a C compiler once; on Debian: sudo apt install gcc"
        ) from None
    except CompileFailed as error:
        raise ToolMissing(
            f"clock_jump needs a C compiler that works; {error.compiler} says:\n{error}\n"
            "on Debian: sudo apt install gcc libc6-dev"
        ) from None
