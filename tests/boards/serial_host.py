"""A gateway of a few lines: the host's end of the link, on a board's port."""

import hashlib
import os
import secrets
import select
import time
import zlib
from collections.abc import Callable
from typing import Self, TypeVar

from maille_protocol.serial import HostLink, Phase, events
from maille_protocol.serial import messages as board
from maille_protocol.serial.messages import FromBoard, ToBoard

Found = TypeVar("Found", bound=FromBoard)


class SerialHost:
    """Speaks with the board on a port; use it in a `with` block."""

    def __init__(self, path: str) -> None:
        self._port = os.open(path, os.O_RDWR | os.O_NOCTTY)
        self.link = HostLink(board.SCHEMA, lambda: secrets.randbits(32))
        self.said: list[FromBoard] = []
        self.sessions = 0
        self.serve: Callable[[FromBoard], None] = lambda _message: None
        """Called with every message."""
        self._token = 0
        self._wake_s = 0.0
        self._do(events.PortOpened())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._do(events.Leave())
        os.close(self._port)

    def _do(self, event: events.Event) -> None:
        for action in self.link.handle(event, time.monotonic() * 1000):
            match action:
                case events.Write(data):
                    os.write(self._port, data)
                case events.WakeAt(time_ms):
                    self._wake_s = time_ms / 1000
                case events.Opened():
                    self.sessions += 1
                case events.Received(data):
                    message = board.decode_from_board(data)
                    self.said.append(message)
                    self.serve(message)
                case _:
                    pass

    def tell(self, message: ToBoard) -> None:
        self.tell_raw(board.encode_board_message(message))

    def tell_raw(self, data: bytes) -> None:
        """Any bytes as a message."""
        self._token += 1
        self._do(events.Send(self._token, data))

    def until(self, condition: Callable[[], object], timeout_s: float = 15.0) -> None:
        end_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end_s, self.said[-5:]
            wait_s = min(0.05, max(0.0, self._wake_s - time.monotonic()))
            if select.select([self._port], [], [], wait_s)[0]:
                self._do(events.BytesReceived(os.read(self._port, 4096)))
            elif time.monotonic() >= self._wake_s:
                self._do(events.Tick())

    def all(self, kind: type[Found]) -> list[Found]:
        """All messages of one class, oldest first."""
        return [message for message in self.said if isinstance(message, kind)]

    def joined(self, sessions: int = 1) -> board.Info:
        """Wait for a session and what the board is."""
        self.until(lambda: self.sessions >= sessions and self.link.phase is Phase.OPEN)
        self.until(lambda: len(self.all(board.Info)) >= sessions)
        return self.all(board.Info)[-1]

    def deployed(self, container: bytes, *, spoil: int | None = None) -> board.ModelStateReport:
        """Deliver a model; `spoil`: the offset of a byte that arrives as another one."""
        before = len(self.all(board.ModelStateReport))
        sent = bytearray(container)
        if spoil is not None:
            sent[spoil] ^= 1

        def serve(message: FromBoard) -> None:
            if isinstance(message, board.Want):
                data = bytes(sent[message.offset : message.offset + message.length])
                self.tell(board.ModelChunk(message.model, message.offset, data))

        self.serve = serve
        digest = hashlib.sha256(container).digest()
        self.tell(board.Deploy(0, len(container), zlib.crc32(container), digest))
        self.until(lambda: len(self.all(board.ModelStateReport)) > before)
        return self.all(board.ModelStateReport)[-1]

    def result(self, task: int) -> board.TaskResult:
        """Wait for the end of a task."""
        self.until(lambda: any(found.task == task for found in self.all(board.TaskResult)))
        return next(found for found in self.all(board.TaskResult) if found.task == task)

    def run(self, task: int, *inputs: bytes) -> board.TaskResult:
        self.tell(board.OfferTask(task, 0, 60_000, inputs))
        return self.result(task)
