"""An MQTT client for the probes: it may stay silent, keep acknowledgements back and drop dead."""

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Sequence
from typing import Self

from maille_broker import packets
from maille_broker.endpoint import Endpoint
from maille_broker.packets import Message, Packet, Will

MAX_PACKET_BYTES = 4 * 1024 * 1024
READ_BYTES = 256 * 1024


class ProbeClient:
    """One connection without any behaviour of its own: no pings, no retries.

    Waiting methods raise TimeoutError by the caller's `asyncio.timeout` and ConnectionError
    when the broker closes or talks nonsense.
    """

    def __init__(self, endpoint: Endpoint, client_id: str, *, topic_prefix: str = "") -> None:
        self._endpoint = endpoint
        self._topic_prefix = topic_prefix
        self.client_id = client_id
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._decoder = packets.Decoder(MAX_PACKET_BYTES)
        self._waiting: deque[Packet] = deque()
        self._next_packet_id = 1
        self.acknowledges = True

    async def connect(
        self,
        *,
        clean: bool = True,
        keepalive_s: int = 60,
        will: Will | None = None,
        password: str | None = None,
    ) -> packets.ConnectAck:
        """Open the socket, send CONNECT and wait for the answer.

        `password` replaces the endpoint's.
        """
        self._reader, self._writer = await asyncio.open_connection(
            self._endpoint.host,
            self._endpoint.port,
            ssl=self._endpoint.tls_context(),
            limit=MAX_PACKET_BYTES,
        )
        raw = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._writer.write(
            packets.encode_connect(
                self.client_id,
                keepalive_s=keepalive_s,
                clean_session=clean,
                username=self._endpoint.username,
                password=self._endpoint.password if password is None else password,
                will=will,
            )
        )
        while True:
            packet = await self._next()
            if isinstance(packet, packets.ConnectAck):
                return packet

    async def subscribe(self, *subscriptions: tuple[str, int]) -> Sequence[int]:
        """Subscribe and wait; the granted QoS of each filter, 128 for refused."""
        packet_id = self._take_packet_id()
        self.write(packets.encode_subscribe(packet_id, subscriptions))
        kept: list[Packet] = []
        while True:
            packet = await self._next()
            if isinstance(packet, packets.SubscribeAck):
                self._waiting.extendleft(reversed(kept))
                return packet.codes
            kept.append(packet)

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """Send a publish without waiting for anything."""
        packet_id = self._take_packet_id() if qos else 0
        self.write(
            packets.encode_publish(topic, payload, qos=qos, retain=retain, packet_id=packet_id)
        )

    async def publish_and_wait(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False
    ) -> None:
        """Send a publish and wait until the broker has surely read it."""
        self.publish(topic, payload, qos=qos, retain=retain)
        if qos == 0:
            self.write(packets.PINGREQ)
        awaited = packets.PublishAck if qos else packets.PingAck
        kept: list[Packet] = []
        while True:
            packet = await self._next()
            if isinstance(packet, awaited):
                self._waiting.extendleft(reversed(kept))
                return
            kept.append(packet)

    async def receive(self) -> tuple[Message, int]:
        """The next message below the topic prefix with its QoS.

        It is acknowledged unless `acknowledges` is off.
        """
        while True:
            packet = await self._next()
            if isinstance(packet, Message):
                message, qos = packet, 0
            elif isinstance(packet, packets.Delivery):
                message, qos = packet.message, packet.qos
                if self.acknowledges and qos == 1:
                    self.write(packets.encode_puback(packet.packet_id))
            else:
                continue
            if message.topic.startswith(self._topic_prefix):
                return message, qos

    async def closed_by_broker(self) -> None:
        """Wait until the broker closes this connection."""
        with contextlib.suppress(ConnectionError):
            while True:
                await self._next()

    def write(self, data: bytes) -> None:
        """Send raw bytes."""
        if self._writer is None or self._writer.is_closing():
            raise ConnectionError("this client is not connected")
        self._writer.write(data)

    async def drain(self) -> None:
        """Wait while the socket takes no more bytes."""
        if self._writer is not None:
            await self._writer.drain()

    async def disconnect(self) -> None:
        """Say goodbye and close."""
        with contextlib.suppress(ConnectionError):
            self.write(packets.DISCONNECT)
        await self.drop()

    async def drop(self) -> None:
        """Close the socket without DISCONNECT."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await writer.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.disconnect()

    def _take_packet_id(self) -> int:
        packet_id = self._next_packet_id
        self._next_packet_id = packet_id % 65_535 + 1
        return packet_id

    async def _next(self) -> Packet:
        while not self._waiting:
            if self._reader is None:
                raise ConnectionError("this client is not connected")
            data = await self._reader.read(READ_BYTES)
            if not data:
                raise ConnectionError("the broker closed the connection")
            self._waiting.extend(self._decoder.feed(data))
        packet = self._waiting.popleft()
        if isinstance(packet, packets.Malformed):
            raise ConnectionError(f"the broker sent no valid MQTT: {packet.reason}")
        return packet
