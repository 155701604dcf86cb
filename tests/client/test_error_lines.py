"""Errors on a terminal: words stay whole, and so do commands, which people copy."""

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
