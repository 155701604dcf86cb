"""A board without a network: started, and heard asking for a gateway."""

import time

from maille.flashing.errors import BoardFailed
from maille.flashing.install import START_TIMEOUT_S
from maille.flashing.replink import BoardRepl
from maille_protocol import WireError
from maille_protocol.serial.frames import Kind, hello_problem, parse_board_frame, parse_hello
from maille_protocol.serial.framing import Damaged, FrameReader
from maille_protocol.serial.messages import SCHEMA

_LAST_BYTES = 500


def start_and_hear(board: BoardRepl, *, timeout_s: float = START_TIMEOUT_S) -> float:
    """Start the board's program and wait until it asks for a gateway; the seconds it took.

    Raises:
        BoardFailed: it did not in time, or it would not be understood; with what it said.
    """
    board.restart()
    started_s = time.monotonic()
    reader, said = FrameReader(), b""
    while time.monotonic() - started_s < timeout_s:
        data = board.heard()
        said = (said + data)[-_LAST_BYTES:]
        for found in reader.feed(data):
            if isinstance(found, Damaged):
                continue
            try:
                frame = parse_board_frame(found)
            except WireError:
                continue
            if frame.kind is Kind.HELLO:
                problem = hello_problem(parse_hello(frame.payload), SCHEMA)
                if problem:
                    raise BoardFailed(f"The board speaks, but {problem}.")
                return time.monotonic() - started_s
    raise BoardFailed(
        f"The board did not ask for a gateway within {timeout_s:.0f} s. Its last words:\n    "
        f"{said.decode('utf-8', 'backslashreplace') or 'nothing'}"
    )
