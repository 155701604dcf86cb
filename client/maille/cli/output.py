"""What commands print: tables for people, JSON for programs, errors as cause and next step."""

import json
import logging
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Literal

import numpy as np
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

from maille.cli.tables import FittedTable

PLAIN_COLUMNS = 240
LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
LOG_TIME_FORMAT = "%H:%M:%S"
EXIT_OK = 0
EXIT_FAILED = 1
EXIT_SETTINGS = 2
EXIT_REFUSED = 3
EXIT_UNREACHABLE = 4
EXIT_INTERRUPTED = 130

_COMMAND = re.compile(r"`[^`]+`|\b(?:sudo )?(?:apt|pip) install [^.;,]*")

EXIT_CODES = """Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 refused (key or login),
4 no mesh or broker reached, 5 another node has this id, 130 interrupted."""


def stdout() -> Console:
    """Where results go. Made anew each time, so that redirected output is respected."""
    console = Console(highlight=False)
    # What goes into a file or a pipe is not cut to the 80 columns of an unknown terminal.
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_COLUMNS)


def stderr() -> Console:
    """Where progress and errors go."""
    return Console(stderr=True, highlight=False)


def plain(value: object) -> object:
    """The value as JSON knows it: bytes as hexadecimal, enumerations as words, arrays as lists."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    match value:
        case Enum():
            return value.name.lower()
        case bytes():
            return value.hex()
        case np.ndarray():
            return value.tolist()
        case np.generic():
            return value.item()
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case str():
            return value
        case Sequence():
            return [plain(item) for item in value]
        case _:
            return value


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    print(json.dumps(plain(value), indent=2, default=str))


def print_line(value: object) -> None:
    """One JSON document on one line of standard output."""
    print(json.dumps(plain(value), default=str), flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: str = "") -> Table:
    """A table; `right` names the columns that are aligned to the right, separated by blanks.

    A blank within a name is an underscore there.
    """
    made = FittedTable(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        known = column.replace(" ", "_") in right.split()
        justify: Literal["left", "right"] = "right" if known else "left"
        # Names and ids are copied by people: never cut one.
        made.add_column(column, justify=justify, no_wrap=number == 0, overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


@contextmanager
def live_view(first: RenderableType, console: Console) -> Iterator[Live]:
    """A view that is drawn anew with `update(..., refresh=True)`; what is logged appears above it."""
    before = sys.stderr
    handlers = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is before
    ]
    with Live(first, console=console, auto_refresh=False) as live:
        if before.isatty():
            for handler in handlers:
                handler.setStream(sys.stderr)
        try:
            yield live
        finally:
            for handler in handlers:
                handler.setStream(before)


def print_error(error: BaseException, *, as_json: bool) -> None:
    """The cause on one line, the next step below; a traceback only with MAILLE_DEBUG=1."""
    text = str(error) or type(error).__name__
    if debugging():
        traceback.print_exception(error)
    if as_json:
        document = {"error": {"kind": type(error).__name__, "text": text}}
        print(json.dumps(document), file=sys.stderr)
        return
    console = stderr()
    for number, line in enumerate(
        error_lines(text, console.width if console.is_terminal else None)
    ):
        if number == 0:
            console.print("error:", style="bold red", end=" ")
        console.print(line.removeprefix("error: "), markup=False, soft_wrap=True)


def error_lines(text: str, width: int | None) -> list[str]:
    """The cause after `error: `, the next step below it, in lines of at most `width` characters.

    Commands and paths stay whole, to be copied: a line may be longer for them. None does not wrap.
    """
    cause, *steps = re.split(r"(?<=[.?!]) +(?=[A-Z`])", text, maxsplit=1)
    lines = [*f"error: {cause}".split("\n"), *(f"  {step}" for step in steps)]
    if width is None:
        return lines
    return [part for line in lines for part in _wrapped(line, width)]


def _wrapped(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    whole = _COMMAND.sub(lambda match: match[0].replace(" ", "\N{NO-BREAK SPACE}"), line)
    indent = "" if line.startswith(" " * 3) else "  "
    parts = textwrap.wrap(
        whole,
        width,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )
    return [part.replace("\N{NO-BREAK SPACE}", " ") for part in parts]


def debugging() -> bool:
    """Whether tracebacks are wanted."""
    return os.environ.get("MAILLE_DEBUG", "") not in {"", "0"}


def set_up_logging(verbose: int) -> None:
    """Log to standard error: warnings, with -v what happens, with -vv everything."""
    level = [logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)]
    if debugging():
        level = logging.DEBUG
    logging.basicConfig(
        level=level,
        format=LOG_FORMAT,
        datefmt=LOG_TIME_FORMAT,
        stream=sys.stderr,
    )
    for name in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def count(number: float, unit: str = "") -> str:
    """A number as people read it: `12.3 G`."""
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {letter}{unit}"
    return f"{number:.3g} {unit}".rstrip()


def duration(seconds: float) -> str:
    """A time as people read it."""
    if seconds <= 0:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s"
