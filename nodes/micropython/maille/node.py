"""A board with a network: MQTT in the place of what a `Worker` leaves open."""

import asyncio
import random

from . import codes, core, messages
from .cbor import Writer
from .errors import ConfigError, TooLarge, WireError
from .mqtt import Client, MqttError
from .worker import Worker

_STEP_MS = 25

_FIRST_DELAY_MS = 75
_MAX_DELAY_MS = 5000
_GOOD_CONNECTION_MS = 2000


class Node(Worker):
    """One board in one mesh.

    Args:
        settings: as `config.load` gives them.
    """

    def __init__(self, settings: dict) -> None:
        self._wifi = settings["wifi"]
        self._broker = settings["broker"]
        message_bytes = settings["max_message_bytes"]
        # Before the heap is in pieces.
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
        self._topics = messages.Topics(settings["mesh"], settings["node"])
        self._up = False
        self._skipped = 0
        self._listening: asyncio.Task | None = None
        self._broken = ""
        super().__init__(settings, 8)

    # --- life ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Be a node until told to stop; `stop_text` says why it stopped."""
        others = await self._load()
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
