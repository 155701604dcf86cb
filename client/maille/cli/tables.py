"""Tables that stay readable where a terminal is narrower than they are."""

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table
from rich.text import Text

_GAP = 1
"""Blanks on each side of a column's border, as rich pads them without a box."""

_LEAST_FOLDED = 8
"""Where words have to be cut, the longest ones are, and to no less than this."""


class FittedTable(Table):
    """A table without lines. Where it is too wide, columns without content go, then words wrap.

    No word is cut as long as the longest of each column have room beside each other.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What rich calls to draw it."""
        wanted = [_natural(column) for column in self.columns]
        if _sum(wanted) <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        shown = [column for column in self.columns if any(map(_plain, column.cells))]
        fitted = Table(box=None, pad_edge=False, header_style=self.header_style)
        widths = _widths(
            [_natural(column) for column in shown],
            [_longest_word(column) for column in shown],
            options.max_width,
        )
        for column, width in zip(shown, widths, strict=True):
            fitted.add_column(
                column.header,
                justify=column.justify,
                overflow=column.overflow,
                width=width,
            )
        for row in zip(*(column.cells for column in shown), strict=True):
            fitted.add_row(*row)
        yield from fitted.__rich_console__(console, options)


def _plain(cell: object) -> str:
    return Text.from_markup(cell).plain if isinstance(cell, str) else str(cell)


def _lines(column: Column) -> list[str]:
    return [_plain(column.header), *map(_plain, column.cells)]


def _natural(column: Column) -> int:
    return max((len(part) for line in _lines(column) for part in line.split("\n")), default=0)


def _longest_word(column: Column) -> int:
    return max((len(word) for line in _lines(column) for word in line.split()), default=1)


def _sum(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * _GAP * max(0, len(widths) - 1)


def _widths(wanted: Sequence[int], least: Sequence[int], room: int) -> list[int | None]:
    """Each column's width: what it needs for its words, then what is left, those that lack least first."""
    widths = list(least)
    while _sum(widths) > room and max(widths) > _LEAST_FOLDED:
        widths[widths.index(max(widths))] -= 1
    spare = room - _sum(widths)
    if spare < 0:
        return [None] * len(widths)
    if spare == 0:
        return list(widths)
    order = sorted(range(len(least)), key=lambda place: wanted[place] - least[place])
    for done, place in enumerate(order):
        more = min(wanted[place] - least[place], spare // (len(order) - done))
        widths[place] += more
        spare -= more
    return list(widths)
