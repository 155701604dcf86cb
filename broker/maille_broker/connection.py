"""One MQTT connection from TCP connect to loss, as an asyncio protocol: no retry in here.

Everything happens inside the event loop's callbacks, without a task per message: the packets of
one read become one call of `on_messages`, and the publishes of one loop iteration one write.
"""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

from maille_broker import packets
from maille_broker.counters import LinkCounters
from maille_broker.endpoint import Endpoint
from maille_broker.errors import BrokerError, BrokerRefused, BrokerUnavailable
from maille_broker.packets import Message

logger = logging.getLogger(__name__)

MAX_QUEUED_BYTES = 8 * 1024 * 1024
MAX_UNACKNOWLEDGED = 16_384
# Retained messages may come before the broker has confirmed the subscription.
MAX_EARLY_MESSAGES = 4_096
WRITE_CHUNK_BYTES = 128 * 1024
TOPIC_ALLOWANCE_BYTES = 4 + 65_535
SUBSCRIBE_PACKET_ID = 65_535


class Connection(asyncio.Protocol):
    """One TCP connection: logs in, subscribes, then passes messages both ways.

    Args:
        endpoint: where it goes and the credentials.
        connect_packet: the CONNECT to open with.
        subscriptions: (filter, QoS) pairs; may be empty.
        keepalive_s: a PINGREQ goes out after half of this without traffic either way, and one and a half
            times this without a byte from the broker ends the connection.
        max_payload_bytes: larger received publishes are skipped and counted.
        on_up: called once when the broker has confirmed the subscriptions.
        on_messages: called with all messages of one read, after `on_up`.
        counters: added to.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        connect_packet: bytes,
        *,
        subscriptions: Sequence[tuple[str, int]],
        keepalive_s: float,
        max_payload_bytes: int,
        on_up: Callable[[], None],
        on_messages: Callable[[list[Message]], None],
        counters: LinkCounters,
    ) -> None:
        self._endpoint = endpoint
        self._connect_packet = connect_packet
        self._subscriptions = subscriptions
        self._keepalive_s = keepalive_s
        self._on_up = on_up
        self._on_messages = on_messages
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._decoder = packets.Decoder(max_payload_bytes + TOPIC_ALLOWANCE_BYTES)
        self._transport: asyncio.Transport | None = None
        self._early: list[Message] = []
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._corked = False
        self._paused = False
        self._last_packet_id = 0
        self._unacknowledged: set[int] = set()
        self._acknowledged = asyncio.Event()
        self._pings: deque[asyncio.Future[None] | None] = deque()
        self._last_received_s = self._last_sent_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._error: BrokerError | None = None
        self._is_subscribed = False
        # Publishes are taken.
        self.is_up = False
        # Done with the reason when the connection is over; never an exception.
        self.lost: asyncio.Future[BrokerError] = self._loop.create_future()

    # --- asyncio.Protocol ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send CONNECT at once."""
        # create_connection's promise; uvloop's class is no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            # Without it a QoS 1 round trip waits 40 ms for a delayed acknowledgement.
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport.write(self._connect_packet)

    def data_received(self, data: bytes) -> None:
        """Handle every complete packet of one read."""
        self._last_received_s = self._loop.time()
        messages: list[Message] = []
        acknowledgements = b""
        for packet in self._decoder.feed(bytes(data)):
            match packet:
                case Message():
                    messages.append(packet)
                case packets.Delivery(message=message, packet_id=packet_id, qos=qos):
                    messages.append(message)
                    if qos == 1:
                        acknowledgements += packets.encode_puback(packet_id)
                case packets.PublishAck(packet_id=packet_id):
                    self._unacknowledged.discard(packet_id)
                    if not self._unacknowledged:
                        self._acknowledged.set()
                case packets.PingAck():
                    waiter = self._pings.popleft() if self._pings else None
                    if waiter is not None and not waiter.done():
                        waiter.set_result(None)
                case packets.ConnectAck(code=code):
                    self._handle_login(code)
                case packets.SubscribeAck(codes=codes):
                    self._handle_subscribed(codes)
                case packets.Oversized(size_bytes=size_bytes):
                    self._counters.oversized += 1
                    logger.warning("skipped a publish of %d bytes: over the limit", size_bytes)
                case packets.Malformed(reason=reason):
                    self._counters.malformed += 1
                    self.fail(BrokerUnavailable(f"The broker sent no valid MQTT: {reason}."))
        if acknowledgements and self._transport is not None:
            self._transport.write(acknowledgements)
        if not self._is_subscribed:
            self._keep_early(messages)
            return
        if self._early:
            messages = self._early + messages
            self._early = []
        if messages:
            self._deliver(messages)

    def connection_lost(self, exc: Exception | None) -> None:
        """Settle every waiter; `lost` gets the reason."""
        if self._timer is not None:
            self._timer.cancel()
        self.is_up = False
        self._transport = None
        self._counters.unacknowledged += len(self._unacknowledged)
        self._unacknowledged.clear()
        self._acknowledged.set()
        self._queue.clear()
        self._queued_bytes = 0
        for waiter in self._pings:
            if waiter is not None and not waiter.done():
                waiter.cancel()
        if not self.lost.done():
            cause = str(exc) if exc is not None else "the broker closed the connection"
            if not self._is_subscribed and exc is None:
                cause = "the broker closed the connection before it answered the login"
            self.lost.set_result(self._error or BrokerUnavailable(cause))

    def pause_writing(self) -> None:
        """The socket is full: keep what follows in the bounded queue."""
        self._paused = True

    def resume_writing(self) -> None:
        """The socket takes bytes again."""
        self._paused = False
        self._pump()

    # --- the link's side ----------------------------------------------------------------------

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool) -> bool:
        """Queue or write one publish; False when not up or a bound is reached."""
        if not self.is_up or self._queued_bytes > MAX_QUEUED_BYTES:
            return False
        packet_id = 0
        if qos:
            if len(self._unacknowledged) >= MAX_UNACKNOWLEDGED:
                return False
            packet_id = self._next_packet_id()
            self._unacknowledged.add(packet_id)
        self._write(
            packets.encode_publish(topic, payload, qos=qos, retain=retain, packet_id=packet_id)
        )
        return True

    async def flush(self) -> None:
        """Wait until the broker has read all that was published and acknowledged QoS 1.

        Returns early when the connection ends; without a bound of its own.
        """
        if not self.is_up:
            return
        # A broker reads a connection in order: its answer to a ping says all before was read.
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._pings.append(waiter)
        self._write(packets.PINGREQ)
        await asyncio.wait((waiter,))
        while self._unacknowledged:
            self._acknowledged.clear()
            await self._acknowledged.wait()

    def disconnect(self) -> None:
        """Say goodbye (the broker then publishes no will) and close."""
        if self._transport is None:
            return
        self.is_up = False
        while self._queue:
            self._transport.write(self._queue.popleft())
        self._queued_bytes = 0
        self._transport.write(packets.DISCONNECT)
        self._transport.close()

    def fail(self, error: BrokerError) -> None:
        """End the connection at once for this reason, without DISCONNECT."""
        self._error = self._error or error
        self.is_up = False
        if self._transport is not None:
            self._transport.abort()

    def fail_unless_up(self, error: BrokerError) -> None:
        """End a connection that has not come up."""
        if not self._is_subscribed:
            self.fail(error)

    # --- inside -------------------------------------------------------------------------------

    def _handle_login(self, code: int) -> None:
        if code == 0:
            if self._subscriptions:
                if self._transport is not None:
                    self._transport.write(
                        packets.encode_subscribe(SUBSCRIBE_PACKET_ID, self._subscriptions)
                    )
            else:
                self._become_up()
            return
        where = f"{self._endpoint.host}:{self._endpoint.port}"
        reason = packets.CONNACK_REASONS.get(code, f"it answered with the unknown code {code}")
        message = f"The broker at {where} refused the login: {reason}."
        if code == packets.CONNACK_UNAVAILABLE:
            self.fail(BrokerUnavailable(message))
        else:
            self.fail(BrokerRefused(message))

    def _handle_subscribed(self, codes: tuple[int, ...]) -> None:
        refused = [
            topic_filter
            for (topic_filter, _), code in zip(self._subscriptions, codes, strict=False)
            if code > 2
        ]
        if refused or len(codes) != len(self._subscriptions):
            names = ", ".join(refused) or "not all filters were answered"
            self.fail(
                BrokerRefused(
                    f"The broker at {self._endpoint.host}:{self._endpoint.port} refused the "
                    f"subscription to {names}. Give this login the right to read there."
                )
            )
        elif not self._is_subscribed:
            self._become_up()

    def _become_up(self) -> None:
        self.is_up = self._is_subscribed = True
        self._counters.connects += 1
        self._tick()
        try:
            self._on_up()
        except Exception:
            self._counters.handler_errors += 1
            logger.exception("the handler of a new connection failed")

    def _deliver(self, messages: list[Message]) -> None:
        self._counters.received += len(messages)
        self._counters.received_bytes += sum([len(message.payload) for message in messages])
        try:
            self._on_messages(messages)
        except Exception:
            # One message that breaks its handler must not end the connection of all others.
            self._counters.handler_errors += 1
            logger.exception("the message handler failed")

    def _keep_early(self, messages: list[Message]) -> None:
        room = MAX_EARLY_MESSAGES - len(self._early)
        self._early += messages[:room]
        self._counters.received_dropped += max(0, len(messages) - room)

    def _next_packet_id(self) -> int:
        # 65,535 stays free for the subscription; the bound on unacknowledged ends the loop.
        while True:
            self._last_packet_id = self._last_packet_id % (SUBSCRIBE_PACKET_ID - 1) + 1
            if self._last_packet_id not in self._unacknowledged:
                return self._last_packet_id

    def _write(self, packet: bytes) -> None:
        # The first packet of a loop iteration leaves at once (latency); those that follow in
        # the same iteration leave together (a system call costs more than the rest of a publish).
        if self._transport is not None and not (self._corked or self._paused or self._queue):
            self._transport.write(packet)
            self._corked = True
            self._loop.call_soon(self._uncork)
            return
        self._queue.append(packet)
        self._queued_bytes += len(packet)

    def _uncork(self) -> None:
        self._corked = False
        self._pump()

    def _pump(self) -> None:
        queue = self._queue
        while queue and not self._paused and self._transport is not None:
            chunk: list[bytes] = []
            size_bytes = 0
            while queue and size_bytes < WRITE_CHUNK_BYTES:
                packet = queue.popleft()
                chunk.append(packet)
                size_bytes += len(packet)
            self._queued_bytes -= size_bytes
            self._last_sent_s = self._loop.time()
            self._transport.write(b"".join(chunk))

    def _tick(self) -> None:
        silent_s = self._loop.time() - self._last_received_s
        if silent_s > 1.5 * self._keepalive_s:
            self.fail(BrokerUnavailable(f"the broker has been silent for {silent_s:.1f} s"))
            return
        # On inbound silence, whatever goes out: publishes into a dead socket succeed. And on outbound
        # silence, whatever comes in: the broker drops who sends nothing.
        silent_s = max(silent_s, self._loop.time() - self._last_sent_s)
        if silent_s >= 0.4 * self._keepalive_s:
            self._pings.append(None)
            self._write(packets.PINGREQ)
        self._timer = self._loop.call_later(self._keepalive_s / 4, self._tick)
