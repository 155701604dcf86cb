"""Compiles the small program that runs AVR code with libsimavr."""

from pathlib import Path

from maille_simulator.compiling import CompileFailed, CompilerMissing, Program

_SOURCES = ("main.c", "uart.c", "pty.c")


class RunnerError(Exception):
    """The runner cannot be built or has ended; the text says why and what to do."""


def runner_path() -> Path:
    """The compiled runner, built on first use and again when its sources change.

    Raises:
        RunnerError: a compiler or libsimavr is missing.
    """
    folder = Path(__file__).parent / "runner"
    program = Program(
        "maille-avr-runner",
        [folder / name for name in _SOURCES],
        ("-O2", "-std=gnu11", "-Wall", "-Wextra"),
        ("-lsimavr", "-lutil"),
        headers=sorted(folder.glob("*.h")),
    )
    try:
        return program.path("runner")
    except CompilerMissing:
        raise RunnerError("a C compiler is needed once; on Debian: sudo apt install gcc") from None
    except CompileFailed as error:
        hint = ""
        if "simavr" in str(error):
            hint = "libsimavr is missing; on Debian: sudo apt install libsimavr-dev\n"
        raise RunnerError(f"{hint}the AVR runner does not compile:\n{error}") from None
