"""What every board does, however it is connected: its core, its models, its sensors, one job at a time."""

import asyncio
import gc
import os
import random
import sys
import time

from . import __version__, codes, core, forget, tensors
from .cbor import Writer
from .core import Core
from .errors import Refused, TooLarge, WireError
from .kernels import choose
from .store import Store
from .voice import BEGIN, EVICT, FINISH, MEASURE, NOTE, PUBLISH, RUN, SENSE, STOP
from .voice import STORE as STORE_CHUNK

HOLD_UP_MS = 5
"""A layer that took longer lets the connection have its turn before the next one."""


class Worker:
    """One board without its connection, which is a subclass's.

    Args:
        settings: as `config.load` gives them.
        boot_bytes: of the number of this start.
    """

    def __init__(self, settings: dict, boot_bytes: int) -> None:
        self._watchdog_s = settings["watchdog_s"]
        kernels = choose(settings["kernels"])
        self._kernels = kernels
        message_bytes = settings["max_message_bytes"]
        # All that lasts is taken here, before the heap is in pieces.
        self._store = Store(
            settings["folder"], settings["max_model_bytes"], settings["arena_bytes"], kernels
        )
        self._content = Writer(message_bytes - 160)
        self._sensors = _sensors(settings["sensors"])
        self._clock_ms = 0
        self._ticks = time.ticks_ms()
        from . import measure

        resets = measure.count_reset(settings["folder"] + "/resets")
        speeds = measure.kernel_speeds(kernels)
        memory = measure.memory()
        self._facts = [
            settings["name"] or settings["node"],
            "maille {} MicroPython {}.{}.{}".format(__version__, *sys.implementation.version[:3]),
            message_bytes,
            (1, memory, speeds[0][1], 0, measure.disk_free(), (measure.chip(),)),
            speeds,
            settings["max_model_bytes"],
            settings["arena_bytes"],
            resets,
            measure.reset_cause(),
        ]
        forget("measure")
        self.boot = int.from_bytes(os.urandom(boot_bytes), "big") or 1
        jitter = lambda: random.random() * 2 - 1  # noqa: E731
        self._core = Core(
            self.boot,
            self._facts,
            self._sensors.values if self._sensors else {},
            jitter,
            free_memory,
            self._now(),
        )
        self._todo: list = []
        self._doing = False
        self._job: tuple | None = None
        self._job_ready = asyncio.Event()
        self.stop_text = ""
        self._fatal: Exception | None = None
        gc.collect()

    def _now(self) -> int:
        """Milliseconds since the start; the ticks themselves wrap."""
        ticks = time.ticks_ms()
        self._clock_ms += time.ticks_diff(ticks, self._ticks)
        self._ticks = ticks
        return self._clock_ms

    # --- what a connection does ----------------------------------------------------------------

    async def _publish(self, action: tuple) -> None:
        """Say what the core wants said."""
        raise NotImplementedError

    def _note(self, text: str) -> None:
        """A line for people."""
        print("maille:", text)

    def _put_inputs(self, content) -> None:
        """Place the inputs of a task, as they came, in the model; WireError, Refused."""
        self._store.model.put_inputs(tensors.read(content))

    def _write_outputs(self, writer: Writer) -> None:
        """Write the outputs of the model as they are sent; TooLarge."""
        tensors.write(writer, self._store.model.take_outputs())

    def _begins(self, _kind: int) -> None:
        """A job begins: nothing else runs for as long as it does not wait."""

    def _ends(self, _run_us: int) -> None:
        """It is over; how long the model ran, 0 if it did not."""

    # --- life ----------------------------------------------------------------------------------

    async def _load(self) -> list:
        """Take the model in use into memory; the tasks that go on for ever."""
        held = self._store.load()
        for text in self._store.texts:
            self._note(text)
        self._core.handle(core.HOLDS, self._now(), held)
        others = [asyncio.create_task(self._guarded(self._work()))]
        if self._watchdog_s:
            others.append(asyncio.create_task(self._watch()))
        return others

    async def _guarded(self, work) -> None:
        """Run a task of the node; what nobody foresaw ends the node, never the task alone."""
        try:
            await work
        except Exception as error:  # noqa: BLE001
            self._fatal = error

    async def _watch(self) -> None:
        """Feed the watchdog for as long as the event loop turns and nothing is broken."""
        import machine

        watchdog = machine.WDT(timeout=1000 * self._watchdog_s)
        while self._fatal is None:
            watchdog.feed()
            await asyncio.sleep_ms(250)

    # --- actions -------------------------------------------------------------------------------

    async def _do(self, actions: list) -> None:
        """Carry out actions, after those that are under way."""
        self._todo.extend(actions)
        if self._doing:
            return
        self._doing = True
        try:
            while self._todo:
                await self._act(self._todo.pop(0))
        finally:
            self._doing = False

    async def _act(self, action: tuple) -> None:
        kind = action[0]
        if kind == PUBLISH:
            await self._publish(action)
        elif kind in (RUN, SENSE, FINISH, MEASURE):
            self._job = action
            self._job_ready.set()
        elif kind in (STORE_CHUNK, BEGIN):
            try:
                store = self._store
                offset = store.begin(action[1]) if kind == BEGIN else store.store(action[1])
                actions = self._core.handle(core.STORED, self._now(), offset)
            except Refused as error:
                self._store.discard()
                actions = self._core.handle(core.FAILED, self._now(), error.code, error.text, False)
            self._todo.extend(actions)
        elif kind == EVICT:
            self._store.evict(action[1])
        elif kind == NOTE:
            self._note(action[1])
        elif kind == STOP:
            self.stop_text = action[1]

    # --- the worker ----------------------------------------------------------------------------

    async def _work(self) -> None:
        """Tasks, senses, measurements and ends of deliveries, one at a time."""
        while True:
            await self._job_ready.wait()
            self._job_ready.clear()
            action = self._job
            kind = action[0]
            event: tuple
            run_us = 0
            self._begins(kind)
            if kind == RUN:
                code, content, run_us = await self._run(action[1].content(), None)
                event = (core.RAN, self._now(), action[1], code, content, run_us)
            elif kind == SENSE:
                event = await self._sense(action[1])
            elif kind == MEASURE:
                from .measure import kernel_speeds

                event = (core.MEASURED, self._now(), kernel_speeds(self._kernels))
                forget("measure")
            else:
                event = self._finish()
            self._ends(run_us)
            await self._do(self._core.handle(*event))

    def _finish(self) -> tuple:
        try:
            models, run_us = self._store.finish()
        except Refused as error:
            return (core.FAILED, self._now(), error.code, error.text, True)
        return (core.FINISHED, self._now(), models, run_us)

    async def _sense(self, sense) -> tuple:
        read_ms = self._now()
        try:
            values = self._sensors.read(sense.sensor, self._store.model.inputs[0].count)
            code, content, run_us = await self._run(None, values)
        # A user's function may raise anything, and must not end the node.
        except Exception as error:  # noqa: BLE001
            text = "sensor {}: {}".format(sense.sensor, error)
            code, content, run_us = codes.SENSOR_ERROR, text.encode()[:200], 0
        now_ms = self._now()
        return (core.SENSED, now_ms, sense, code, content, run_us, now_ms - read_ms)

    async def _run(self, content, values) -> tuple:
        """(code, outputs or cause, time in us) of the model in memory on inputs or readings."""
        model = self._store.model
        try:
            if values is None:
                self._put_inputs(content)
            else:
                model.put_reals(values)
            run_us = 0
            for index in range(len(model.steps)):
                began = time.ticks_us()
                model.step(index)
                took_us = time.ticks_diff(time.ticks_us(), began)
                run_us += took_us
                if took_us > 1000 * HOLD_UP_MS:
                    await asyncio.sleep_ms(0)
            writer = self._content
            writer.at = 0
            self._write_outputs(writer)
            return codes.NONE, bytes(writer.view[: writer.at]), run_us
        except WireError as error:
            return codes.INPUT_MALFORMED, str(error).encode(), 0
        except Refused as error:
            return error.code, error.text.encode(), 0
        except TooLarge:
            return codes.OUTPUT_TOO_LARGE, b"the outputs do not fit one message", 0
        except MemoryError:
            gc.collect()
            return codes.OUT_OF_MEMORY, b"no memory for the run", 0


def _sensors(wanted: dict):
    """The sensors that the settings name; None where there are none."""
    if not wanted:
        return None
    from .sensors import Sensors

    return Sensors(wanted)


def free_memory() -> int:
    """Bytes that are free once everything that is not needed is freed."""
    gc.collect()
    return gc.mem_free()
