"""A board without a network: a gateway's serial link in the place of what a `Worker` leaves open."""

import asyncio
import time

from micropython import const

from . import codes, core
from .cbor import Reader, Writer
from .errors import Refused, TooLarge
from .serial_board import SerialBoard
from .serial_link import Link
from .serial_messages import MAX_MESSAGE_BYTES
from .serial_port import Escape, Uart, Usb
from .voice import NOTE, PUBLISH, RUN
from .worker import Worker, free_memory

_WINDOW_BYTES = const(255)
_MOST_AT_ONCE = const(512)
_STEP_MS = const(1)
_LONG_RUN_US = const(30000)
"""Runs that may take longer are announced, so that the gateway waits."""

_DESERTED_MS = const(1000)
"""A gateway that is there says something at least every 500 ms."""


class SerialNode(Worker):
    """One board behind a gateway.

    Args:
        settings: as `config.load` gives them.
    """

    def __init__(self, settings: dict) -> None:
        message_bytes = min(settings["max_message_bytes"], MAX_MESSAGE_BYTES)
        # Before the heap is in pieces.
        self._writer = Writer(message_bytes)
        wanted = settings["serial"]
        self._port = Usb() if wanted == "usb" else Uart(wanted)
        self._escape = Escape() if wanted == "usb" else None
        super().__init__(settings, 4)
        from . import measure

        facts = self._facts
        now_ms = self._now()
        rates = self._port.rates
        self._link = Link(self, self.boot, _WINDOW_BYTES, message_bytes, rates, facts[8], now_ms)
        chip = (
            measure.clock_hz(),
            measure.flash_bytes(),
            measure.chip(),
            measure.identity(settings["folder"] + "/identity"),
        )
        del measure
        sensors = self._sensors.values if self._sensors else {}
        self._board = SerialBoard(self._core, facts, sensors, chip, self._link, free_memory)
        self._run_us = 0
        self._announced = False
        self._actions: list = []

    # --- life ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Be a board until told to stop, or asked for the REPL: KeyboardInterrupt."""
        others = await self._load()
        models = self._core.models
        self._run_us = models[0].run_us if models else 0
        # Ends whatever stood on the line before.
        self._port.write(b"\0")
        try:
            while not self._core.stopped and self._fatal is None:
                now_ms = self._now()
                self._take_in(now_ms)
                self._link.poll(now_ms)
                if now_ms >= self._core.wake_at_ms():
                    self._actions += self._core.handle(core.TICK, now_ms)
                await self._carry_out()
                self._say_next(now_ms)
                await asyncio.sleep_ms(_STEP_MS)
        finally:
            self._port.close()
            for task in others:
                task.cancel()
        if self._fatal is not None:
            raise self._fatal

    def _take_in(self, now_ms: int) -> None:
        """Read what the line holds, for a credit above 0 says that nothing is left."""
        port, link = self._port, self._link
        left = _MOST_AT_ONCE
        while left and port.any():
            left -= 1
            byte = port.read()
            link.receive(byte, now_ms)
            asked = self._escape is not None and self._escape.seen(byte, now_ms)
            if asked and (link.session == 0 or now_ms - link.heard_ms >= _DESERTED_MS):
                raise KeyboardInterrupt

    async def _carry_out(self) -> None:
        while self._actions:
            actions = self._actions
            self._actions = []
            await self._do(actions)

    def _say_next(self, now_ms: int) -> None:
        if self._board.waiting and self._link.free:
            try:
                message = self._board.next(self._writer)
            except TooLarge:
                self._core.handle(core.FAULT, now_ms)
                return
            if message is not None:
                self._link.send(message)
                self._link.poll(now_ms)

    # --- the link's owner ----------------------------------------------------------------------

    def link_write(self, view) -> None:
        """Put bytes on the line."""
        self._port.write(view)

    def link_opened(self) -> None:
        """A session begins."""
        self._actions += self._board.opened(self._now())

    def link_closed(self) -> None:
        """It is over."""
        # What the core wanted said was for this session.
        actions = [action for action in self._actions if action[0] != PUBLISH]
        self._actions = actions + self._board.closed(self._now())

    def link_heard(self, view) -> None:
        """A message came."""
        self._actions += self._board.hear(view, self._now())

    def link_sent(self) -> None:
        """The next message can go."""

    def link_rate(self, rate: int) -> None:
        """Change the speed."""
        self._port.set_rate(rate)

    # --- what a connection does ----------------------------------------------------------------

    async def _publish(self, action: tuple) -> None:
        self._board.says(action)

    def _note(self, text: str) -> None:
        self._board.says((NOTE, text))

    def _put_inputs(self, content) -> None:
        model = self._store.model
        reader = Reader(content)
        if reader.count() != len(model.inputs):
            text = "{} inputs, the model has {}".format(reader.value, len(model.inputs))
            raise Refused(codes.INPUT_SHAPE, text)
        arena = memoryview(self._store.arena)
        for tensor in model.inputs:
            octets = reader.octets(2)
            if len(octets) != tensor.size_bytes:
                text = "{} bytes of input, the model takes {}".format(
                    len(octets), tensor.size_bytes
                )
                raise Refused(codes.INPUT_SHAPE, text)
            arena[tensor.offset : tensor.offset + tensor.size_bytes] = octets

    def _write_outputs(self, writer: Writer) -> None:
        writer.write([item[3] for item in self._store.model.take_outputs()])

    def _begins(self, kind: int) -> None:
        # A sensor may be a function of the user's, which may take any time.
        self._announced = kind != RUN or self._run_us >= _LONG_RUN_US
        if self._announced:
            self._link.set_busy(True, self._now())

    def _ends(self, run_us: int) -> None:
        if run_us:
            self._run_us = run_us
        if self._announced:
            now_ms = self._now()
            self._take_in(now_ms)
            self._link.set_busy(False, now_ms)


def pause(seconds: int) -> None:
    """Wait; KeyboardInterrupt when somebody asks for the REPL meanwhile."""
    port, escape = Usb(), Escape()
    begin_ms = time.ticks_ms()
    passed_ms = 0
    while passed_ms < 1000 * seconds:
        passed_ms = time.ticks_diff(time.ticks_ms(), begin_ms)
        if port.any() and escape.seen(port.read(), passed_ms):
            port.close()
            raise KeyboardInterrupt
        time.sleep_ms(_STEP_MS)


def run(settings: dict) -> str:
    """Be a board until told to stop; why it stopped."""
    node = SerialNode(settings)
    asyncio.run(node.run())
    return node.stop_text
