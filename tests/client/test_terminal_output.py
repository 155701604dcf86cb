"""Errors and tables on a terminal: words stay whole, and so do commands, which people copy."""

import io
from collections.abc import Sequence

from rich.console import Console

from maille.cli import output
from maille.cli.output import error_lines

TEXT = (
    "avr-gcc, which builds firmware, is not installed. On Debian: sudo apt install gcc-avr avr-libc "
    "arduino-core-avr. Then try `maille flash uno` again."
)


def test_no_word_and_no_command_is_cut() -> None:
    lines = error_lines(TEXT, 40)
    assert lines == [
        "error: avr-gcc, which builds firmware,",
        "  is not installed.",
        "  On Debian:",
        "  sudo apt install gcc-avr avr-libc arduino-core-avr.",
        "  Then try `maille flash uno` again.",
    ]


def test_what_goes_into_a_file_is_not_wrapped() -> None:
    cause, step = TEXT.split(". ", 1)
    assert error_lines(TEXT, None) == [f"error: {cause}.", f"  {step}"]


def test_lines_of_a_compiler_stay_in_their_columns() -> None:
    text = "avr-g++ failed:\na.ino:1:2: error\n void setup(){ foo(); }\n               ^"
    assert error_lines(text, 80) == [f"error: {text}".split("\n")[0], *text.split("\n")[1:]]


def drawn(width: int, rows: Sequence[tuple[str, ...]]) -> list[str]:
    columns = ("node", "state", "speed", "battery", "models")
    console = Console(width=width, file=io.StringIO())
    console.print(output.table(columns, rows, right="speed"))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_narrow_table_loses_empty_columns_and_cuts_no_word() -> None:
    rows = [("digits-on-an-uno-1", "[green]ready[/]", "1.22 MMAC/s", "", "digits-mlp")]
    assert drawn(80, rows) == [
        "node                state        speed  battery  models",
        "digits-on-an-uno-1  ready  1.22 MMAC/s           digits-mlp",
    ]
    assert drawn(50, rows) == [
        "node                state        speed  models",
        "digits-on-an-uno-1  ready  1.22 MMAC/s  digits-mlp",
    ]
    assert drawn(45, rows) == [
        "node                state   speed  models",
        "digits-on-an-uno-1  ready    1.22  digits-mlp",
        "                           MMAC/s",
    ]
    assert drawn(36, rows) == [
        "node       state   speed  models",
        "digits-on  ready    1.22  digits-mlp",
        "-an-uno-1         MMAC/s",
    ]
