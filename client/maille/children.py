"""The parts of a mesh as child processes of this one: started, watched, ended in order."""

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Mapping, Sequence

import httpx

from maille.errors import MailleError
from maille_broker.process import ChildProcess, die_with_parent

READY_TIMEOUT_S = 20.0


def maille_command(*arguments: str) -> list[str]:
    """The command line of another `maille` with this interpreter."""
    return [sys.executable, "-m", "maille.cli", *arguments]


async def start_child(
    name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
) -> ChildProcess:
    """Start a program that ends with this one but does not see the terminal's Ctrl-C.

    Ctrl-C reaches only this process, which then ends its children in an order that loses nothing.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
        preexec_fn=die_with_parent(),
    )
    return ChildProcess(name, process)


async def wait_for_http(url: str, child: ChildProcess, name: str) -> None:
    """Wait until a coordinator answers.

    Raises:
        MailleError: the child ended (with its last words), or did not answer in time.
    """
    deadline_s = asyncio.get_running_loop().time() + READY_TIMEOUT_S
    async with httpx.AsyncClient(trust_env=False, timeout=2.0) as client:
        while True:
            if child.has_ended:
                await child.wait()
                raise MailleError(f"The {name} ended at its start. {_last_words(child)}")
            with contextlib.suppress(httpx.HTTPError):
                if (await client.get(f"{url}/healthz")).is_success:
                    return
            if asyncio.get_running_loop().time() > deadline_s:
                raise MailleError(
                    f"The {name} does not answer at {url} after {READY_TIMEOUT_S:g} s. "
                    f"{_last_words(child)}"
                )
            await asyncio.sleep(0.03)


def ended_text(child: ChildProcess, name: str) -> str:
    """That a child has ended, with its last words."""
    return f"The {name} has ended. {_last_words(child)}"


def _last_words(child: ChildProcess) -> str:
    lines = child.last_lines(6).strip()
    return f"It said: {lines}" if lines else "It said nothing; try again with MAILLE_DEBUG=1."
