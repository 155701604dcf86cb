"""Compiles the small program that runs AVR code with libsimavr."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import platformdirs

_SOURCES = ("main.c", "uart.c", "pty.c")


class RunnerError(Exception):
    """The runner cannot be built or has ended; the text says why and what to do."""


def runner_path() -> Path:
    """The compiled runner, built on first use and again when its sources change.

    Raises:
        RunnerError: a compiler or libsimavr is missing.
    """
    folder = Path(__file__).parent / "runner"
    digest = hashlib.sha256()
    for source in sorted(folder.glob("*.[ch]")):
        digest.update(source.read_bytes())
    cache = Path(os.environ.get("MAILLE_FIRMWARE_CACHE") or platformdirs.user_cache_dir("maille"))
    made = cache / "runner" / f"maille-avr-runner-{digest.hexdigest()[:16]}"
    if made.is_file():
        return made
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RunnerError("a C compiler is needed once; on Debian: sudo apt install gcc")
    made.parent.mkdir(parents=True, exist_ok=True)
    partial = made.with_suffix(f".{os.getpid()}")
    command = [compiler, "-O2", "-std=gnu11", "-Wall", "-Wextra", "-o", str(partial)]
    command += [str(folder / name) for name in _SOURCES]
    done = subprocess.run(
        [*command, "-lsimavr", "-lutil"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        hint = ""
        if "simavr" in done.stderr:
            hint = "libsimavr is missing; on Debian: sudo apt install libsimavr-dev\n"
        raise RunnerError(f"{hint}the AVR runner does not compile:\n{done.stderr.strip()[-2000:]}")
    partial.replace(made)
    return made
