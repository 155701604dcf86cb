"""What a board prints, told apart from the frames that it sends to a gateway on the same line."""

import re
from collections.abc import Iterator

from maille_protocol import WireError
from maille_protocol.serial.frames import parse_board_frame
from maille_protocol.serial.framing import FrameReader
from maille_protocol.serial.limits import MAX_FRAME_BYTES

_DELIMITER = b"\0"
_SEARCHED_BYTES = 2 * MAX_FRAME_BYTES
_NO_TEXT = re.compile(rb"[^\t\n\r\x1b\x20-\x7e\x80-\xff]")


class MixedText:
    """Lines of text from bytes in which frames may stand.

    Args:
        port: names the port in the note that says what the frames are.
    """

    def __init__(self, port: str) -> None:
        self._port = port
        self._rest = b""
        self._frames_seen = False

    def feed(self, data: bytes) -> Iterator[str]:
        """The lines that end in `data`; a note, once, where a frame does."""
        *parts, self._rest = (self._rest + data).split(_DELIMITER)
        for part in parts:
            text = _text_before_frame(part)
            yield from _lines(part if text is None else text)
            if text is not None and not self._frames_seen:
                self._frames_seen = True
                yield (
                    f"(the board asks for a gateway, and only text is shown here; "
                    f"what it says to a gateway: maille gateway --port {self._port})"
                )
        # A newline may be a byte of a frame that has not ended.
        text, newline, rest = self._rest.rpartition(b"\n")
        whole = not self._frames_seen and not _NO_TEXT.search(text)
        if newline and (whole or len(self._rest) > _SEARCHED_BYTES):
            self._rest = rest
            yield from _lines(text)


def holds_frame(data: bytes) -> bool:
    """Whether a whole frame of a board stands in these bytes."""
    return any(_text_before_frame(part) is not None for part in data.split(_DELIMITER)[:-1])


def _text_before_frame(part: bytes) -> bytes | None:
    """What stands before the frame that ends here; None where none ends."""
    if _is_frame(part):
        return b""
    start = part.find(b"\n", max(0, len(part) - _SEARCHED_BYTES))
    while start >= 0:
        if _is_frame(part[start + 1 :]):
            return part[:start]
        start = part.find(b"\n", start + 1)
    return None


def _is_frame(part: bytes) -> bool:
    found = FrameReader().feed(part + _DELIMITER)
    if len(found) != 1 or not isinstance(found[0], bytes):
        return False
    try:
        parse_board_frame(found[0])
    except WireError:
        return False
    return True


def _lines(text: bytes) -> Iterator[str]:
    for line in text.split(b"\n") if text else ():
        yield line.rstrip(b"\r").decode("utf-8", "replace")
