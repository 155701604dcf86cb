"""The shell of a board: turns what happens into the core's events and carries out its actions."""

import asyncio
import gc
import os
import random
import sys
import time

from . import __version__, codes, core, forget, messages, tensors
from .cbor import Writer
from .core import Core
from .errors import ConfigError, Refused, TooLarge, WireError
from .kernels import choose
from .mqtt import Client, MqttError
from .store import Store
from .voice import BEGIN, EVICT, FINISH, MEASURE, NOTE, PUBLISH, RUN, SENSE, STOP
from .voice import STORE as STORE_CHUNK

_STEP_MS = 25
_HOLD_UP_MS = 5
"""A layer that took longer lets the connection have its turn before the next one."""

_FIRST_DELAY_MS = 75
_MAX_DELAY_MS = 5000
_GOOD_CONNECTION_MS = 2000


class Node:
    """One board in one mesh.

    Args:
        settings: as `config.load` gives them.
    """

    def __init__(self, settings: dict) -> None:
        self._wifi = settings["wifi"]
        self._broker = settings["broker"]
        self._watchdog_s = settings["watchdog_s"]
        kernels = choose(settings["kernels"])
        self._kernels = kernels
        message_bytes = settings["max_message_bytes"]
        # All that lasts is taken here, before the heap is in pieces.
        self._store = Store(
            settings["folder"], settings["max_model_bytes"], settings["arena_bytes"], kernels
        )
        self._client = Client(
            settings["host"],
            settings["port"],
            settings["node"],
            settings["user"],
            settings["password"],
            settings["keepalive_s"],
            message_bytes + 96,  # the longest topic, and the heads
            message_bytes + 160,  # a will, with user and password
            settings["tls"],
        )
        self._writer = Writer(message_bytes)
        self._content = Writer(message_bytes - 160)
        self._topics = messages.Topics(settings["mesh"], settings["node"])
        self._sensors = _sensors(settings["sensors"])
        self._clock_ms = 0
        self._ticks = time.ticks_ms()
        from . import measure

        resets = measure.count_reset(settings["folder"] + "/resets")
        speeds = measure.kernel_speeds(kernels)
        memory = measure.memory()
        facts = [
            settings["name"] or settings["node"],
            "maille {} MicroPython {}.{}.{}".format(__version__, *sys.implementation.version[:3]),
            message_bytes,
            (1, memory, speeds[0][1], 0, measure.disk_free(), (_chip(),)),
            speeds,
            settings["max_model_bytes"],
            settings["arena_bytes"],
            resets,
            measure.reset_cause(),
        ]
        forget("measure")
        boot = int.from_bytes(os.urandom(8), "big") or 1
        jitter = lambda: random.random() * 2 - 1  # noqa: E731
        self._core = Core(
            boot,
            facts,
            self._sensors.values if self._sensors else {},
            jitter,
            _free_memory,
            self._now(),
        )
        self._todo: list = []
        self._doing = False
        self._job: tuple | None = None
        self._job_ready = asyncio.Event()
        self._up = False
        self._skipped = 0
        self._listening: asyncio.Task | None = None
        self._broken = ""
        self.stop_text = ""
        self._fatal: Exception | None = None
        gc.collect()

    def _now(self) -> int:
        """Milliseconds since the start; the ticks themselves wrap."""
        ticks = time.ticks_ms()
        self._clock_ms += time.ticks_diff(ticks, self._ticks)
        self._ticks = ticks
        return self._clock_ms

    # --- life ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Be a node until told to stop; `stop_text` says why it stopped."""
        held = self._store.load()
        for text in self._store.texts:
            print("maille:", text)
        self._core.handle(core.HOLDS, self._now(), held)
        others = [asyncio.create_task(self._guarded(self._work()))]
        if self._watchdog_s:
            others.append(asyncio.create_task(self._watch()))
        delay_ms = _FIRST_DELAY_MS
        while not self._core.stopped:
            began_ms = self._now()
            try:
                await self._join_network()
                await self._connect()
                began_ms = self._now()
                await self._session()
            except (OSError, ValueError, MqttError, asyncio.TimeoutError) as error:
                print("maille: no connection to {}: {}".format(self._broker, error))
            self._up = False
            self._client.close()
            await self._do(self._core.handle(core.LINK_DOWN, self._now()))
            if self._fatal is not None:
                raise self._fatal
            if self._now() - began_ms > _GOOD_CONNECTION_MS:
                # Shorter ones go on backing off: two boards with one id push each other out.
                delay_ms = _FIRST_DELAY_MS
            pause_ms = int(delay_ms * (0.5 + random.random()))
            delay_ms = min(2 * delay_ms, _MAX_DELAY_MS)
            while pause_ms > 0 and not self._core.stopped:
                await asyncio.sleep_ms(min(pause_ms, 250))
                pause_ms -= 250
                await self._do(self._core.handle(core.TICK, self._now()))
        for task in others:
            task.cancel()

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

    async def _join_network(self) -> None:
        wifi = self._wifi
        if wifi is None:
            return
        import network

        station = network.WLAN(network.STA_IF)
        if station.isconnected():
            return
        station.active(True)
        station.connect(wifi["ssid"], wifi["password"])
        for _ in range(200):
            if station.isconnected():
                return
            await asyncio.sleep_ms(100)
        station.disconnect()
        raise OSError("the Wi-Fi {} does not answer; check name and password".format(wifi["ssid"]))

    async def _connect(self) -> None:
        kind, boot, seq, epoch, body = self._core.will()
        will = messages.pack(self._writer, kind, boot, seq, epoch, body)
        await self._client.connect(self._topics.up[codes.NODE_STATUS], will)
        await self._client.subscribe(self._topics.subscriptions)

    async def _session(self) -> None:
        """From birth to the loss of the connection."""
        self._up = True
        self._broken = ""
        print("maille: connected to", self._broker)
        await self._do(self._core.handle(core.LINK_UP, self._now()))
        self._listening = asyncio.create_task(self._guarded(self._listen()))
        try:
            await self._keep_time()
        finally:
            self._listening.cancel()
        if self._core.stopped and self._up:
            await self._client.disconnect()

    async def _keep_time(self) -> None:
        """Ticks, pings and the watchdog; MqttError when the connection is of no use any more."""
        ping_at_ms = 0
        while not self._core.stopped:
            now_ms = self._now()
            if self._fatal is not None:
                raise MqttError("the node failed")
            if self._broken:
                raise MqttError(self._broken)
            if now_ms >= ping_at_ms:
                ping_at_ms = now_ms + 500
                await self._client.keep_alive()
            wait_ms = self._core.wake_at_ms() - now_ms
            if wait_ms <= 0:
                await self._do(self._core.handle(core.TICK, now_ms))
                wait_ms = 1
            await asyncio.sleep_ms(min(wait_ms, _STEP_MS))

    async def _listen(self) -> None:
        client, topics = self._client, self._topics
        try:
            while True:
                topic, payload = await client.receive()
                if client.skipped != self._skipped:
                    self._skipped = client.skipped
                    self._core.handle(core.FAULT, self._now())
                kind = topics.type_of(topic)
                if not kind:
                    continue
                try:
                    envelope = messages.unpack(kind, payload)
                except (WireError, MemoryError):
                    self._core.handle(core.FAULT, self._now())
                    continue
                await self._do(self._core.handle(core.HEARD, self._now(), kind, envelope))
        except (OSError, MqttError) as error:
            self._broken = str(error) or "the connection is lost"

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
            print("maille:", action[1])
        elif kind == STOP:
            self.stop_text = action[1]

    async def _publish(self, action: tuple) -> None:
        _, kind, seq, epoch, body = action
        if not self._up:
            return
        try:
            payload = messages.pack(self._writer, kind, self._core.boot, seq, epoch, body)
            retained = kind in messages.RETAINED
            topic = self._topics.up[kind]
            await self._client.publish(topic, payload, 1 if retained else 0, retained)
        except TooLarge:
            self._core.handle(core.FAULT, self._now())
            print("maille: a message of type {} is too large to be sent".format(kind))
        except (OSError, MqttError) as error:
            self._broken = str(error) or "the connection is lost"

    async def leave(self, reason: str) -> None:
        """Finish what is held, then stop."""
        await self._do(self._core.handle(core.LEAVE, self._now(), reason))

    # --- the worker ----------------------------------------------------------------------------

    async def _work(self) -> None:
        """Tasks, senses, measurements and ends of deliveries, one at a time."""
        while True:
            await self._job_ready.wait()
            self._job_ready.clear()
            action = self._job
            kind = action[0]
            event: tuple
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
                model.put_inputs(tensors.read(content))
            else:
                model.put_reals(values)
            run_us = 0
            for index in range(len(model.steps)):
                began = time.ticks_us()
                model.step(index)
                took_us = time.ticks_diff(time.ticks_us(), began)
                run_us += took_us
                if took_us > 1000 * _HOLD_UP_MS:
                    await asyncio.sleep_ms(0)
            writer = self._content
            writer.at = 0
            tensors.write(writer, model.take_outputs())
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


def _free_memory() -> int:
    """Bytes that are free once everything that is not needed is freed."""
    gc.collect()
    return gc.mem_free()


def _chip() -> str:
    return getattr(sys.implementation, "_machine", sys.platform)[:64]


def run(settings: dict) -> str:
    """Be a node until told to stop; why it stopped."""
    try:
        node = Node(settings)
    except ConfigError as error:
        print("maille:", error)
        return str(error)
    asyncio.run(node.run())
    print("maille: stopped:", node.stop_text)
    return node.stop_text
