"""One child program that never outlives us: start, last log lines, stop."""

import asyncio
import atexit
import contextlib
import ctypes
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import deque
from collections.abc import Callable, Sequence

TERMINATE_TIMEOUT_S = 5.0
KEPT_LOG_LINES = 40
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> Callable[[], None] | None:
    """What a child calls first, to get SIGTERM when this process dies; None where the system cannot.

    On Linux it is the thread that forks whose end counts.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def before_program() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            # The parent died between fork and prctl.
            os._exit(1)

    return before_program


class ChildProcess:
    """A running program whose output is kept in a short, bounded tail."""

    def __init__(self, name: str, process: Process) -> None:
        self._name = name
        self._process = process
        self._lines: deque[str] = deque(maxlen=KEPT_LOG_LINES)
        self._reader = asyncio.create_task(self._read_output(), name=f"output of {name}")
        atexit.register(self._kill_at_exit)

    @classmethod
    async def start(cls, name: str, command: Sequence[str]) -> "ChildProcess":
        """Start `command`; it gets SIGTERM when this process dies, however that happens.

        On Linux that holds for the thread that calls: run the event loop in one that stays.

        Raises:
            OSError: it cannot be started.
        """
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            # Ctrl-C in a terminal is for us; the broker must live until we have said goodbye.
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
        return cls(name, process)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """The program has ended by itself or was stopped."""
        return self._process.returncode is not None

    def last_lines(self, count: int = 8) -> str:
        """The end of the program's output."""
        return "\n".join(list(self._lines)[-count:])

    async def wait(self) -> int:
        """Wait for the end; the exit status (negative: the signal), with all output read."""
        status = await self._process.wait()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait((self._reader,))
        return status

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL after 5 s; returns when it is gone."""
        atexit.unregister(self._kill_at_exit)
        if not self.has_ended:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                async with asyncio.timeout(TERMINATE_TIMEOUT_S):
                    await self._process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
        await self.wait()

    async def _read_output(self) -> None:
        output = self._process.stdout
        if output is None:
            return
        while True:
            try:
                line = await output.readline()
            except ValueError:
                # A line beyond the reader's limit; the rest of it follows.
                continue
            if not line:
                return
            self._lines.append(line.decode(errors="replace").rstrip()[:500])

    def _kill_at_exit(self) -> None:
        if not self.has_ended:
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGTERM)
