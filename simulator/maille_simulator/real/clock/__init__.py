"""Another wall clock for one program of this machine."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import platformdirs

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
    digest = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("MAILLE_FIRMWARE_CACHE") or platformdirs.user_cache_dir("maille"))
    made = cache / "clock" / f"shifted-{digest}.so"
    if made.is_file():
        return made
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise ToolMissing("clock_jump needs a C compiler once; on Debian: sudo apt install gcc")
    made.parent.mkdir(parents=True, exist_ok=True)
    partial = made.with_suffix(f".{os.getpid()}")
    command = [compiler, "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", str(partial)]
    done = subprocess.run(
        [*command, str(_SOURCE), "-ldl"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ToolMissing(
            f"clock_jump needs a C compiler that works; {compiler} says:\n{done.stderr[-2000:]}\n"
            "on Debian: sudo apt install gcc libc6-dev"
        )
    partial.replace(made)
    return made
