"""What the shell is told when Tab is pressed."""

import pytest
from typer.testing import CliRunner

from maille.cli import app
from maille_broker.running import free_port


def completed(line: str, url: str) -> list[str]:
    words = line.split(" ")
    environment = {
        "_MAILLE_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "MAILLE_URL": url,
    }
    done = CliRunner().invoke(app, [], prog_name="maille", env=environment)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("maille simulate cla", ["classroom"]),
        ("maille simulate un", ["uno"]),
        ("maille flash esp32s", ["esp32s3"]),
        # No mesh answers: no names, and no error between the lines that are being typed.
        ("maille run dig", []),
        ("maille board show un", []),
    ],
)
def test_names_are_completed_and_nothing_else_is_said(line: str, words: list[str]) -> None:
    nowhere = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    assert completed(line, nowhere) == words
