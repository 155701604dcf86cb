"""When the memory of virtual runs is collected: after each, and not meanwhile.

A run makes some hundred thousand objects that live until its end. Collections meanwhile look at
them again and again, and at all that the process holds besides: in a process with many modules
that takes longer than the runs.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


def begin_runs() -> None:
    """From now on nothing is collected but by `collect_run`, and nothing that exists already."""
    gc.collect()
    gc.freeze()
    gc.disable()


@contextmanager
def runs() -> Iterator[None]:
    """`begin_runs`, undone at the end; within another one it changes nothing."""
    if not gc.isenabled():
        yield
        return
    begin_runs()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.enable()


def collect_run() -> None:
    """A run is over: its objects go, if nobody else collects them."""
    if not gc.isenabled():
        gc.collect()
