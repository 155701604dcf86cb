"""A gateway's messages as events of the board's core, and what the core says as board messages.

The gateway keeps what a mesh has (epochs, attempts, hashes) and gives short handles instead: here a
handle is the core's task id, the epoch is always 0. No I/O, no clock.
"""

from micropython import const

from . import codes, core
from . import serial_messages as wire
from .delivery import MAX_MODELS
from .serial_messages import short
from .tasks import SLOTS
from .voice import NOTE

_MAX_WAITING = const(32)
_MAX_WAITING_READINGS = const(8)
_ATTEMPT = const(1)
_SLOT = const(0)
"""One model at a time, and none is built in."""

_LOG_LEVEL_INFO = const(20)
_TO_MODEL_STATE = (codes.READY, codes.MODEL_FAILED, codes.GONE)


class SerialBoard:
    """What waits to be said to the gateway, and what its messages mean.

    Args:
        board: the core.
        facts: of the core.
        sensors: numbers in one reading, by the sensor's name.
        chip: clock_hz, bytes of flash, its name and number.
        link: to look at its counters.
        free_memory: gives the bytes that are free now.
    """

    def __init__(self, board, facts: list, sensors: dict, chip: tuple, link, free_memory) -> None:
        self._core = board
        self._facts = facts
        self._sensors = sensors
        self._names = list(sensors)
        self._clock_hz, self._flash_bytes, self._mcu, self._identity = chip
        self._link = link
        self._free_memory = free_memory
        self._coming = b""
        self._waiting: list = []
        self.dropped = 0
        """Messages that were not said because too many waited."""

    # --- sessions ------------------------------------------------------------------------------

    def opened(self, now_ms: int) -> list:
        """A session begins; the core's actions. The first thing said is what the board is."""
        self._waiting = []
        return self._core.handle(core.LINK_UP, now_ms)

    def closed(self, now_ms: int) -> list:
        """The session is over, and with it all its tasks and senses; the core's actions."""
        self._waiting = []
        actions = self._core.handle(core.LINK_DOWN, now_ms)
        return actions + self._core.handle(core.FORGET, now_ms)

    # --- from the gateway ----------------------------------------------------------------------

    def hear(self, data, now_ms: int) -> list:
        """Take in a message; the core's actions."""
        try:
            message = wire.unpack(data)
        except wire.Malformed as error:
            self._say(wire.REFUSED, error.code, 0, codes.INPUT_MALFORMED)
            return self._core.handle(core.FAULT, now_ms)
        kind = message[0]
        if kind == wire.OFFER:
            _, task, slot, remaining_ms, inputs = message
            offer = (task, _ATTEMPT, remaining_ms, 0, inputs)
            return self._feed(codes.OFFERS, (self._reference(self._held(slot)), (offer,)), now_ms)
        if kind == wire.CANCEL:
            return self._cancel(message[1], now_ms)
        if kind == wire.DEPLOY:
            return self._deploy(message, now_ms)
        if kind == wire.CHUNK:
            body = (self._coming if message[1] == _SLOT else b"", message[2], message[3])
            return self._feed(codes.CHUNK, body, now_ms)
        if kind == wire.EVICT:
            sha256 = self._held(message[1])
            if not sha256:
                self._say(wire.MODEL_STATE, message[1], codes.GONE, 0, 0)
                return []
            order = (codes.EVICT, self._reference(sha256), 0)
            return self._feed(codes.MODEL_ORDER, order, now_ms)
        if kind == wire.SENSE:
            _, sense, slot, sensor, interval_ms, mode = message
            name = self._names[sensor] if sensor < len(self._names) else ""
            start = (codes.SENSE_START, sense, self._held(slot), name, interval_ms, mode)
            return self._feed(codes.SENSE_ORDER, start, now_ms)
        if kind == wire.STOP:
            stop = (codes.SENSE_STOP, message[1], None, "", 0, 0)
            return self._feed(codes.SENSE_ORDER, stop, now_ms)
        if kind == wire.CALIBRATE:
            return self._feed(codes.MODEL_ORDER, (codes.CALIBRATE, None, 0), now_ms)
        self._report()
        return []

    def _feed(self, kind: int, body, now_ms: int) -> list:
        return self._core.handle(core.HEARD, now_ms, kind, (0, 0, 0, body))

    def _held(self, slot: int) -> bytes:
        """SHA-256 of the model in a slot, empty if there is none."""
        return self._core.models[0].sha256 if slot == _SLOT and self._core.models else b""

    def _reference(self, sha256: bytes, size_bytes: int = 0) -> tuple:
        name = "".join(["{:02x}".format(byte) for byte in sha256[:6]])
        return (name, 0, sha256, size_bytes, codes.FORMAT_TINY)

    def _cancel(self, task: int, now_ms: int) -> list:
        ended = not self._core.holds(task)
        actions = self._feed(codes.CANCEL, ((task, _ATTEMPT),), now_ms)
        if not ended:
            self._say(wire.RESULT, task, codes.CANCELLED, 0, 0, ())
        return actions

    def _deploy(self, message: list, now_ms: int) -> list:
        _, slot, size_bytes, _, sha256 = message
        if slot != _SLOT:
            self._say(wire.MODEL_STATE, slot, codes.MODEL_FAILED, codes.NO_SPACE, 0)
            return []
        # Its SHA-256 is verified on flash, which says more than the CRC-32 would.
        self._coming = sha256
        order = (codes.DEPLOY, self._reference(sha256, size_bytes), 0)
        return self._feed(codes.MODEL_ORDER, order, now_ms)

    # --- to the gateway ------------------------------------------------------------------------

    def says(self, action: tuple) -> None:
        """Queue what an action of the core, PUBLISH or NOTE, means to the gateway."""
        if action[0] == NOTE:
            self._say(wire.LOG, _LOG_LEVEL_INFO, short(action[1], 200))
            return
        kind, body = action[1], action[4]
        if kind == codes.RESULTS:
            task, _, _, status, code, content, run_us, _ = body[0]
            self._say(wire.RESULT, task, status, code, run_us, _outputs(code, status, content))
        elif kind == codes.READINGS:
            self._reading(*body[0])
        elif kind == codes.MODEL_REPORT:
            self._model_report(body)
        elif kind == codes.HEARTBEAT:
            link = self._link
            load = (body[0] & 0xFFFFFFFF, body[1], body[2], min(body[3], 0xFFFFFFFF))
            self._say(wire.LOAD, *load, self._free_memory(), link.bad & 0xFFFFFFFF, 0)
        elif kind == codes.NODE_INFO:
            self._report()

    def _reading(
        self, sense: int, counter: int, age_ms: int, code: int, content: bytes, run_us: int
    ) -> None:
        if code and not counter:
            self._say(wire.REFUSED, wire.SENSE, sense, code)
        else:
            outputs = _outputs(code, codes.DONE, content)
            age_ms = min(age_ms, 0xFFFFFFFF)
            self._say(wire.READING, sense, counter & 0xFFFFFFFF, age_ms, code, run_us, outputs)

    def _model_report(self, body: tuple) -> None:
        state, _, _, offset, length, code, _, run_us = body
        if state == codes.WANT:
            self._say(wire.WANT, _SLOT, offset, length)
        elif state in _TO_MODEL_STATE:
            self._say(wire.MODEL_STATE, _SLOT, state, code, run_us)
        else:
            self._say(wire.INFO)

    def _report(self) -> None:
        self._say(wire.INFO)
        for number in range(len(self._names)):
            self._say(wire.SENSOR, number)
        if self._core.models:
            self._say(wire.MODEL)

    def _say(self, *message) -> None:
        waiting = self._waiting
        kind = message[0]
        if kind in (wire.READING, wire.LOG, wire.LOAD):
            # A slow line gets the newest of these.
            alike = [other for other in waiting if other[0] == kind]
            if len(alike) >= (1 if kind == wire.LOAD else _MAX_WAITING_READINGS):
                waiting.remove(alike[0])
                self.dropped += kind != wire.LOAD
        if len(waiting) >= _MAX_WAITING:
            self.dropped += 1
            return
        waiting.append(message)

    @property
    def waiting(self) -> int:
        """Messages that wait to be said."""
        return len(self._waiting)

    def next(self, writer):
        """The bytes of the next message, in the writer's buffer; None if nothing waits; TooLarge."""
        if not self._waiting:
            return None
        message = self._waiting.pop(0)
        kind = message[0]
        if kind == wire.INFO:
            message = self._info()
        elif kind == wire.SENSOR:
            name = self._names[message[1]]
            message = (wire.SENSOR, message[1], short(name, 32), self._sensors[name])
        elif kind == wire.MODEL:
            if not self._core.models:
                return self.next(writer)
            held = self._core.models[0]
            message = (wire.MODEL, _SLOT, held.size_bytes, held.sha256, True)
        elif kind in (wire.RESULT, wire.READING) and type(message[-1]) is bytes:
            # Packed outputs, as the run left them.
            return wire.pack(writer, message[:-1], message[-1])
        return wire.pack(writer, message)

    def _info(self) -> tuple:
        name, software, _, measured, speeds, max_model_bytes, arena_bytes, resets, _ = self._facts
        clock_hz = self._clock_hz
        kernels = [
            (kernel, min(max(100 * clock_hz // max(speed, 1), 1), 0xFFFFFFFF))
            for kernel, speed in speeds
        ]
        return (
            wire.INFO,
            codes.KIND_MICROPYTHON,
            short(name, 32),
            short(software, 32),
            short(self._mcu, 16),
            clock_hz,
            min(self._flash_bytes, 0xFFFFFFFF),
            min(measured[4], 0xFFFFFFFF),
            min(measured[1], 0xFFFFFFFF),
            min(self._free_memory(), 0xFFFFFFFF),
            SLOTS,
            codes.TINY_FORMAT_VERSION,
            MAX_MODELS,
            max_model_bytes,
            arena_bytes,
            self._identity,
            resets,
            kernels,
            len(self._names),
            len(self._core.models),
        )


def _outputs(code: int, status: int, content: bytes):
    """Outputs as a run packed them, or a list of the text that says why there are none."""
    if code or status != codes.DONE:
        return (content,) if content else ()
    return content
