"""What `maille board logs` makes of a serial line: text, frames for a gateway, and both."""

import random

from maille.flashing.mixed_text import MixedText
from maille_protocol.serial.frames import BoardFrame, Hello, Kind

# A boot number with newlines in it: bytes of frames are no text.
HELLO = BoardFrame(
    Kind.HELLO, 0, payload=Hello(1, 0x0A0A0A0A, 64, 10, b"\n\r\n\r", 10).encode()
).encode()
NOTE = "maille gateway --port COM3"


def read(data: bytes, sizes: random.Random | None = None) -> list[str]:
    text = MixedText("COM3")
    lines: list[str] = []
    while data:
        size = sizes.randint(1, 20) if sizes is not None else len(data)
        lines += text.feed(data[:size])
        data = data[size:]
    return lines


def test_text_comes_line_by_line() -> None:
    assert read(b"one\r\ntwo\nthr") == ["one", "two"]


def test_frames_are_told_once_and_not_shown() -> None:
    for seed in range(50):
        data = HELLO + b"Traceback\nline 1\n" + HELLO + HELLO + b"line 2\n" + HELLO
        lines = read(data, random.Random(seed))
        assert [line for line in lines if NOTE not in line] == ["Traceback", "line 1", "line 2"]
        assert len(lines) == 4


def test_what_never_ends_is_shown_all_the_same() -> None:
    text = MixedText("COM3")
    list(text.feed(HELLO))
    shown = [line for _ in range(10) for line in text.feed(b"x" * 49 + b"\n")]
    assert len(shown) >= 8
