"""A board on a pseudo terminal, its link and messages in Python: what a gateway meets on a port.

    python -m maille_simulator.boards.serial_board MODEL.tiny ...

prints the port's path; a line on standard input resets the board.
"""

import asyncio
import contextlib
import hashlib
import os
import pty
import secrets
import sys
import time
import tty
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from maille_protocol import ErrorCode, NodeKind, ResultStatus, WireError
from maille_protocol.codes import Kernel, ModelState
from maille_protocol.serial import BoardLink, Hello, events
from maille_protocol.serial import messages as board
from maille_protocol.tiny import Model, decode_model, run


@dataclass
class Plan:
    """What the board is and how it behaves."""

    name: str = "uno"
    identity: bytes = b"\x01\x02\x03\x04\x05\x06\x07\x08"
    window_bytes: int = 63
    ring_bytes: int | None = None
    """What its receive buffer really holds, where it lies about its window."""
    max_message_bytes: int = 200
    schema: bytes = board.SCHEMA
    rates: int = 7
    max_models: int = 1
    built_in: tuple[bytes, ...] = ()
    """Containers."""
    run_s: float = 0.0
    """How long a task takes; nothing is read meanwhile."""
    answers: bool = True
    """False: it takes tasks and never ends them."""
    refusals: int = 0
    """So many tasks it refuses as BUSY before it takes one."""
    sensors: tuple[str, ...] = ("a0",)


@dataclass
class _Sensing:
    order: board.Sense
    counter: int = 0
    next_s: float = 0.0


@dataclass
class SerialBoard:
    """Runs in the event loop from `start` until `close`."""

    plan: Plan = field(default_factory=Plan)
    hushed: bool = False
    """It hangs: neither reads nor writes."""
    offers: list[int] = field(default_factory=list)
    cancels: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.path = os.ttyname(self._slave)
        os.set_blocking(self._master, False)
        self.eeprom: dict[int, bytes] = {}
        self.starts = 0
        self._busy_until_s = 0.0
        self._pending = bytearray()
        self._closed = False

    def start(self) -> None:
        """Power on."""
        asyncio.get_running_loop().add_reader(self._master, self._readable)
        self.reset()
        self._ticking = asyncio.get_running_loop().create_task(self._tick())

    def reset(self) -> None:
        """As the button does: a new boot number, everything in memory gone."""
        self.starts += 1
        plan = self.plan
        self.link = BoardLink(
            Hello(
                1,
                secrets.randbits(32) | 1,
                plan.window_bytes,
                plan.max_message_bytes,
                plan.schema,
                plan.rates,
            )
        )
        self._token = 0
        self._senses: dict[int, _Sensing] = {}
        self._deploying: tuple[board.Deploy, bytearray] | None = None
        self._models: dict[int, bytes] = dict(enumerate(plan.built_in)) | self.eeprom
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._busy_until_s = 0.0
        self._pending.clear()
        self._handle(events.PortOpened())

    def close(self) -> None:
        """Unplug it."""
        if not self._closed:
            self._closed = True
            self._ticking.cancel()
            asyncio.get_running_loop().remove_reader(self._master)
            os.close(self._master)
            os.close(self._slave)

    def write_raw(self, data: bytes) -> None:
        """Noise on the line."""
        with contextlib.suppress(OSError):
            os.write(self._master, data)

    # --- the link --------------------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            data = os.read(self._master, 4096)
        except OSError:
            return
        if not self.hushed:
            ring = self.plan.ring_bytes
            self._pending += data if ring is None else data[: max(0, ring - len(self._pending))]
            self._take()

    def _take(self) -> None:
        if self._pending and time.monotonic() >= self._busy_until_s:
            data = bytes(self._pending)
            self._pending.clear()
            self._handle(events.BytesReceived(data))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.005)
            now_s = time.monotonic()
            if self.hushed or now_s < self._busy_until_s:
                continue
            self._take()
            due = [call for at_s, call in self._later if at_s <= now_s]
            self._later = [(at_s, call) for at_s, call in self._later if at_s > now_s]
            for call in due:
                call()
            self._sense(now_s)
            self._handle(events.Tick())

    def _handle(self, event: events.Event) -> None:
        for action in self.link.handle(event, time.monotonic() * 1000):
            match action:
                case events.Write(data):
                    self.write_raw(data)
                case events.Opened():
                    self._report()
                case events.Closed():
                    self._senses.clear()
                    self._later.clear()
                case events.Received(message):
                    self._message(message)
                case _:
                    pass

    def say(self, message: board.FromBoard) -> None:
        """Send a message, if there is a session."""
        self._token += 1
        self._handle(events.Send(self._token, board.encode_board_message(message)))

    # --- what it does ----------------------------------------------------------------------------

    def _report(self) -> None:
        plan = self.plan
        self.say(
            board.Info(
                kind=NodeKind.ARDUINO,
                name=plan.name,
                software="fake 1",
                mcu="atmega328p",
                clock_hz=16_000_000,
                flash_bytes=32_256,
                flash_free=10_000,
                ram_bytes=2048,
                ram_free=900,
                slots=1,
                format_version=1,
                max_models=plan.max_models,
                max_model_bytes=4096,
                arena_bytes=2048,
                identity=plan.identity,
                resets=self.starts,
                kernels=((Kernel.DENSE, 1150),),
                sensors=len(plan.sensors),
                models=len(self._models),
            )
        )
        for number, name in enumerate(plan.sensors):
            self.say(board.SensorRecord(number, name, 0))
        for slot, data in self._models.items():
            digest = hashlib.sha256(data).digest()
            removable = slot >= len(plan.built_in)
            self.say(board.ModelRecord(slot, len(data), digest, removable))

    def _message(self, data: bytes) -> None:
        match board.decode_board_message(data):
            case board.OfferTask() as offer:
                self.offers.append(offer.task)
                if self.plan.refusals:
                    self.plan.refusals -= 1
                    refused = ResultStatus.REFUSED
                    self.say(board.TaskResult(offer.task, refused, ErrorCode.BUSY, 0, ()))
                    return
                self._busy_until_s = time.monotonic() + self.plan.run_s
                if self.plan.answers:
                    self._later.append((self._busy_until_s, lambda: self._run(offer)))
            case board.CancelTask(task):
                self.cancels.append(task)
                self.say(board.TaskResult(task, ResultStatus.CANCELLED, ErrorCode.NONE, 0, ()))
            case board.Deploy() as order:
                self._deploying = (order, bytearray())
                self.say(board.Want(order.model, 0, 64))
            case board.ModelChunk() as chunk:
                self._chunk(chunk)
            case board.Evict(slot):
                self.eeprom.pop(slot, None)
                self._models.pop(slot, None)
                self.say(board.ModelStateReport(slot, ModelState.GONE, ErrorCode.NONE, 0))
            case board.Sense() as order:
                self._senses[order.sense] = _Sensing(order)
            case board.StopSense(sense):
                self._senses.pop(sense, None)
            case board.Calibrate() | board.Report():
                self._report()
            case other:
                raise AssertionError(other)

    def _outputs(self, data: bytes, inputs: tuple[bytes, ...]) -> tuple[bytes, ...]:
        model = decode_model(data)
        return tuple(np.asarray(array).tobytes() for array in run(model, _arrays(model, inputs)))

    def _run(self, offer: board.OfferTask) -> None:
        data = self._models.get(offer.model)
        if data is None:
            code = ErrorCode.MODEL_NOT_HELD
            self.say(board.TaskResult(offer.task, ResultStatus.REFUSED, code, 0, ()))
            return
        outputs = self._outputs(data, offer.inputs)
        self.say(board.TaskResult(offer.task, ResultStatus.DONE, ErrorCode.NONE, 2900, outputs))

    def _chunk(self, chunk: board.ModelChunk) -> None:
        if self._deploying is None:
            return
        order, stored = self._deploying
        if chunk.offset != len(stored):
            return
        stored += chunk.data
        if len(stored) < order.size_bytes:
            self.say(board.Want(order.model, len(stored), 64))
            return
        self._deploying = None
        state, code = ModelState.READY, ErrorCode.NONE
        try:
            decode_model(bytes(stored))
        except WireError:
            state, code = ModelState.FAILED, ErrorCode.MODEL_INVALID
        if zlib.crc32(stored) != order.crc32:
            state, code = ModelState.FAILED, ErrorCode.ARTEFACT_CORRUPT
        if state is ModelState.READY:
            self.eeprom[order.model] = self._models[order.model] = bytes(stored)
        self.say(board.ModelStateReport(order.model, state, code, 2900))

    def _sense(self, now_s: float) -> None:
        for sensing in list(self._senses.values()):
            if now_s < sensing.next_s:
                continue
            sensing.next_s = now_s + sensing.order.interval_ms / 1000
            sensing.counter += 1
            data = self._models[sensing.order.model]
            sizes = [tensor.size_bytes for tensor in decode_model(data).inputs]
            outputs = self._outputs(data, tuple(bytes(size) for size in sizes))
            sense = sensing.order.sense
            self.say(board.SenseReading(sense, sensing.counter, 1, ErrorCode.NONE, 2900, outputs))


def _arrays(model: Model, inputs: tuple[bytes, ...]) -> list[np.typing.NDArray[np.generic]]:
    return [
        np.frombuffer(data, tensor.element_type.dtype)
        for data, tensor in zip(inputs, model.inputs, strict=True)
    ]


async def _main(models: list[str]) -> None:
    built_in = tuple([await asyncio.to_thread(Path(model).read_bytes) for model in models])
    board = SerialBoard(Plan(built_in=built_in))
    board.start()
    print(board.path, flush=True)  # noqa: T201 - for whoever started it
    try:
        while await asyncio.to_thread(sys.stdin.readline):
            board.reset()
    finally:
        board.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1:]))
