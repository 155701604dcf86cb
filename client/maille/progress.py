"""How a `map` shows how far it is: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from maille.errors import MailleError
from maille.views import Answer

PLAIN_LINE_EVERY_S = 2.0


class MapProgress(AbstractContextManager["MapProgress"]):
    """Shows nothing; the base of those that do."""

    @staticmethod
    def of(enabled: bool, total: int | None) -> "MapProgress":
        """What fits: nothing, a bar (terminal) or lines. All goes to standard error."""
        if not enabled:
            return MapProgress()
        console = Console(stderr=True)
        return _Bar(console, total) if console.is_terminal else _Lines(total)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return

    def advance(self, ended: Sequence[Answer | MailleError]) -> None:
        """These tasks have ended."""


class _Count:
    def __init__(self, total: int | None) -> None:
        self.total = total
        self.done = 0
        self.failed = 0
        self.nodes: set[str] = set()
        self.started_s = time.monotonic()

    def add(self, ended: Sequence[Answer | MailleError]) -> None:
        for item in ended:
            if isinstance(item, Answer):
                self.done += 1
                self.nodes.add(item.node)
            else:
                self.failed += 1

    @property
    def rate(self) -> float:
        return (self.done + self.failed) / max(1e-9, time.monotonic() - self.started_s)

    def __str__(self) -> str:
        text = f"{self.rate:,.0f} tasks/s on {len(self.nodes)} node{'s'[: len(self.nodes) != 1]}"
        return f"{text}, {self.failed} failed" if self.failed else text


class _Bar(MapProgress):
    def __init__(self, console: Console, total: int | None) -> None:
        self._count = _Count(total)
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._row = self._progress.add_task("waiting", total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def advance(self, ended: Sequence[Answer | MailleError]) -> None:
        self._count.add(ended)
        self._progress.update(self._row, advance=len(ended), description=str(self._count))


class _Lines(MapProgress):
    def __init__(self, total: int | None) -> None:
        self._count = _Count(total)
        self._said_s = time.monotonic()

    def advance(self, ended: Sequence[Answer | MailleError]) -> None:
        self._count.add(ended)
        if time.monotonic() - self._said_s >= PLAIN_LINE_EVERY_S:
            self._say()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._say()

    def _say(self) -> None:
        self._said_s = time.monotonic()
        done = self._count.done + self._count.failed
        of = f" of {self._count.total}" if self._count.total is not None else ""
        print(f"{done}{of}: {self._count}", file=sys.stderr, flush=True)  # noqa: T201
