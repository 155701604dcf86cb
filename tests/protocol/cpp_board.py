"""The board's link in C++, built for this machine, behind the interface of the Python twin."""

import ctypes
import subprocess
from collections import deque
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import ClassVar

from wire_files import PROTOCOL

from maille_protocol.serial import Hello, events
from maille_protocol.serial.events import CloseReason

ARDUINO = PROTOCOL.parent / "nodes" / "arduino"
SOURCES = ("link", "framing", "cbor")
FLAGS = ("-std=c++11", "-Wall", "-Wextra", "-Werror", "-fno-exceptions", "-fno-rtti")
_SENT, _CLOSED, _OPENED, _SEGMENT, _RATE = 1, 2, 4, 8, 16
_POLL_MS = 5.0


@cache
def library() -> ctypes.CDLL:
    """The library, built with the system's g++."""
    built = Path(mkdtemp(prefix="maille-link-")) / "link.so"
    sources = [str(ARDUINO / "extras" / "host" / "link_host.cpp")]
    sources += [str(ARDUINO / "src" / "maille" / f"{name}.cpp") for name in SOURCES]
    options = ("-O2", "-fsanitize=undefined", "-fno-sanitize-recover=undefined", "-shared", "-fPIC")
    include = f"-I{ARDUINO / 'src'}"
    subprocess.run(["g++", *FLAGS, *options, include, "-o", str(built), *sources], check=True)
    loaded = ctypes.CDLL(str(built))
    loaded.maille_board_new.restype = ctypes.c_void_p
    return loaded


def decode_frames(wire: bytes) -> list[bytes | None]:
    """Bodies of the frames in `wire`, None for what is damaged, by the C++ reader."""
    out = ctypes.create_string_buffer(3 * len(wire) + 64)
    size = library().maille_frames(wire, len(wire), out)
    data, found = out.raw[:size], list[bytes | None]()
    while data:
        length = int.from_bytes(data[:2], "little")
        body = None if length == 0xFFFF else data[2 : 2 + length]
        found.append(body)
        data = data[2 + (0 if body is None else length) :]
    return found


def encode_frame(body: bytes) -> bytes:
    """A body's bytes on the wire, by the C++ writer."""
    out = ctypes.create_string_buffer(80)
    size = library().maille_frame(body, len(body), out)
    return out.raw[:size]


def copy_cbor(data: bytes) -> bytes | None:
    """Read one item and write it again, by the C++ reader and writer; None: refused."""
    out = ctypes.create_string_buffer(2048)
    size = library().maille_cbor_copy(data, len(data), out, len(out))
    return None if size < 0 else out.raw[:size]


class CppBoard:
    """`BoardLink` on top of the C++ class: it holds one message, so a queue stands before it."""

    lives: ClassVar[list["CppBoard"]] = []

    def __init__(self, hello: Hello) -> None:
        self.hello = hello
        self._library = library()
        self._board: ctypes.c_void_p | None = None
        self._queue: deque[tuple[int, bytes]] = deque()
        self._under_way: int | None = None
        self._message = b""
        self._actions: list[events.Action] = []
        self._out = ctypes.create_string_buffer(4096)

    def __del__(self) -> None:
        if self._board is not None:
            self._library.maille_board_delete(self._board)

    @property
    def session(self) -> int:
        """1 while one is open."""
        return int(self._library.maille_board_open(self._board)) if self._board else 0

    @property
    def bad(self) -> int:
        """Frames thrown away."""
        return int(self._library.maille_board_bad(self._board))

    def handle(self, event: events.Event, now_ms: float) -> list[events.Action]:
        """See `BoardLink.handle`."""
        self._actions = []
        now = int(now_ms) & 0xFFFF
        match event:
            case events.PortOpened():
                hello = self.hello
                self._board = ctypes.c_void_p(
                    self._library.maille_board_new(
                        hello.boot,
                        hello.max_message_bytes,
                        hello.window_bytes,
                        hello.schema,
                        hello.rates,
                        hello.cause,
                        now,
                    )
                )
            case events.BytesReceived(data):
                for byte in data:
                    self._take(self._library.maille_board_receive(self._board, byte, now))
            case events.Send(token, message):
                self._queue.append((token, message))
                self._send(now)
            case events.SetBusy(busy):
                self._library.maille_board_busy(self._board, busy, now)
            case _:
                pass
        self._take(self._library.maille_board_poll(self._board, now))
        self._send(now)
        self._written()
        self._actions.append(events.WakeAt(now_ms + _POLL_MS))
        return self._actions

    def _send(self, now: int) -> None:
        if self._queue and self._under_way is None and self.session:
            token, message = self._queue[0]
            if self._library.maille_board_send(self._board, message, len(message), now):
                self._under_way = token
                self._queue.popleft()

    def _take(self, happened: int) -> None:
        # What was written before a change of speed belongs before it.
        self._written()
        parts: tuple[tuple[int, Callable[[], None]], ...] = (
            (_SENT, self._sent),
            (_CLOSED, self._closed),
            (_OPENED, self._opened),
            (_SEGMENT, self._segment),
            (_RATE, self._rate),
        )
        for bit, call in parts:
            if happened & bit:
                call()

    def _sent(self) -> None:
        if self._under_way is None:
            raise AssertionError("SENT, and nothing was under way")
        self._actions.append(events.Delivered(self._under_way))
        self._under_way = None

    def _closed(self) -> None:
        if self._under_way is not None:
            self._actions.append(events.Lost(self._under_way, never_sent=False))
            self._under_way = None
        self._actions += [events.Lost(token, never_sent=True) for token, _ in self._queue]
        self._queue.clear()
        self._actions.append(events.Closed(CloseReason.SILENCE))

    def _opened(self) -> None:
        self._message = b""
        self._actions.append(events.Opened(1, self.hello))

    def _segment(self) -> None:
        found = self._library.maille_board_segment(self._board, self._out)
        if found & 1 << 16:
            self._message = b""
        self._message += self._out.raw[: found & 0xFFFF]
        if found & 1 << 17:
            self._actions.append(events.Received(self._message))

    def _rate(self) -> None:
        self._actions.append(events.SetRate(self._library.maille_board_rate(self._board)))

    def _written(self) -> None:
        size = self._library.maille_board_written(self._board, self._out)
        if size:
            self._actions.append(events.Write(self._out.raw[:size]))
