"""The Uno of the demonstration: it is built, plugged in, and answers as the PC does."""

import asyncio

import pytest

from maille.cli.demo_uno import show_uno, uno_problem
from maille.digits import load_digits


@pytest.mark.timeout(150)
@pytest.mark.skipif(bool(uno_problem()), reason="no AVR tools, or no simavr")
def test_the_uno_answers_as_the_pc() -> None:
    said: list[str] = []
    digits, _ = load_digits()
    told = asyncio.run(show_uno(digits, said.append))
    assert told["uno_equal"]
    assert float(str(told["uno_accuracy"])) > 0.9
    assert "bytes of flash" in said[0]
