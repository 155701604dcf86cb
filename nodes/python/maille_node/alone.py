"""A node alone in its process: settings found elsewhere, handed over without what found them.

Looking for a mesh, asking for keys and explaining options takes 20 MB of modules that a running node
never needs again, on machines whose memory is wanted for models. So where the system can, the
program that found the settings replaces itself by `python -m maille_node`.
"""

import logging
import os
import pickle
import sys
from dataclasses import dataclass

from maille_node.settings import NodeSettings

__all__ = ["HandedOver", "hand_over", "take_over"]

_MOST_BYTES = 32 * 1024
"""Fits every system's pipe, which is filled before anybody reads it."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """What the new program begins with.

    Attributes:
        settings: of the node.
        log_level: of everything; the node's start and end are logged at INFO in any case.
        log_format: as of `logging.basicConfig`.
        log_time_format: likewise.
    """

    settings: NodeSettings
    log_level: int
    log_format: str
    log_time_format: str


def hand_over(handed: HandedOver) -> None:
    """Replace this process by the node; returns where the system cannot.

    Settings may hold a key: they go through a pipe, never on a command line.
    """
    if os.name != "posix":
        return
    payload = pickle.dumps(handed)
    if len(payload) > _MOST_BYTES:
        return
    reading, writing = os.pipe()
    os.write(writing, payload)
    os.close(writing)
    os.set_inheritable(reading, True)
    sys.stdout.flush()
    sys.stderr.flush()
    # Each thread's own heap would keep what loading a slice takes for a moment (20 MB).
    environment = {"MALLOC_ARENA_MAX": "1", **os.environ}
    # -P: a file of the present folder never stands for a module.
    command = [sys.executable, "-P", "-m", "maille_node", str(reading)]
    os.execve(sys.executable, command, environment)  # noqa: S606


def take_over(descriptor: int) -> HandedOver:
    """What `hand_over` left; ValueError if it is something else."""
    with os.fdopen(descriptor, "rb") as stream:
        # Written by this very process, before it was replaced.
        handed = pickle.loads(stream.read(_MOST_BYTES))  # noqa: S301
    if not isinstance(handed, HandedOver):
        raise ValueError("no settings of a node were handed over")  # noqa: TRY004
    logging.basicConfig(
        level=handed.log_level,
        format=handed.log_format,
        datefmt=handed.log_time_format,
        stream=sys.stderr,
    )
    for name in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(name).setLevel(max(handed.log_level, logging.WARNING))
    logging.getLogger("maille_node.run").setLevel(min(handed.log_level, logging.INFO))
    return handed
