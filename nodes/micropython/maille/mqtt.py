"""MQTT 3.1.1 on asyncio: QoS 0 and 1, will, TLS, nothing that blocks but the name look-up.

Memory is taken once: one buffer to receive, one to send. A publish that does not fit the first is
drained from the socket in pieces and counted. Reconnecting is the caller's (`node.py`).
"""

import asyncio
import errno
import select
import socket
import time

from micropython import const

CONNACK = const(0x20)
PUBLISH = const(0x30)
PUBACK = const(0x40)
SUBACK = const(0x90)
PINGRESP = const(0xD0)

_MAX_UNACKNOWLEDGED = const(8)
_POLL_MS = const(10)
_CONNECT_MS = const(10000)


class MqttError(Exception):
    """The connection cannot be used (any more)."""


class Client:
    """One connection at a time to one broker.

    Args:
        host, port: where the broker is.
        client_id: the board's id.
        user, password: None without authentication.
        keepalive_s: at most so much silence before the broker takes the board for lost.
        receive_bytes: the largest packet that is taken, topic and header included.
        tls: None, or a dict: cafile (path of a PEM file) or cadata (DER bytes), server_hostname.
    """

    def __init__(
        self,
        host: str,
        port: int,
        client_id: str,
        user=None,
        password=None,
        keepalive_s: int = 15,
        receive_bytes: int = 1024,
        send_bytes: int = 1024,
        tls=None,
    ) -> None:
        self._host = host
        self._port = port
        self._client_id = client_id
        self._user = user
        self._password = password
        self._keepalive_s = keepalive_s
        self._tls = tls
        self._buffer = bytearray(receive_bytes)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._out = bytearray(send_bytes)
        self._out_view = memoryview(self._out)
        self._lock = asyncio.Lock()
        self._socket: socket.socket | None = None
        self._stream: socket.socket | None = None
        self._reader: asyncio.StreamReader | None = None
        self._packet_id = 0
        self._unacknowledged: list = []
        self._heard_ms = time.ticks_ms()
        self._pinged = False
        self.skipped = 0
        """Publishes that did not fit the buffer."""

    # --- connection ----------------------------------------------------------------------------

    async def connect(self, will_topic: bytes, will: "bytes | memoryview") -> None:
        """Open the connection; MqttError or OSError names why not.

        Args:
            will_topic, will: what the broker publishes, QoS 1 and retained, when it is lost.
        """
        self._start = self._end = 0
        self._unacknowledged = []
        address = socket.getaddrinfo(self._host, self._port, 0, socket.SOCK_STREAM)[0]
        raw = socket.socket(address[0], socket.SOCK_STREAM)
        self._socket = raw
        raw.setblocking(False)
        try:
            # 6, 1: IPPROTO_TCP, TCP_NODELAY; not every port has the names, or the option.
            raw.setsockopt(6, getattr(socket, "TCP_NODELAY", 1), 1)
        except (OSError, ValueError, NotImplementedError):
            pass
        try:
            raw.connect(address[-1])
        except OSError as error:
            if error.errno != errno.EINPROGRESS:
                raise
        await self._writable(raw)
        self._stream = raw
        if self._tls is not None:
            await self._wrap(raw)
        self._reader = asyncio.StreamReader(self._stream)
        self._heard_ms = time.ticks_ms()
        self._pinged = False
        await self._send_connect(will_topic, will)
        packet: tuple | None = await asyncio.wait_for_ms(self._packet(), _CONNECT_MS)
        if packet is None or packet[0] & 0xF0 != CONNACK or packet[2] - packet[1] < 2:
            raise MqttError("no broker answered there")
        code = self._buffer[packet[1] + 1]
        if code:
            raise MqttError(_REFUSALS.get(code, "the broker refused the connection"))

    async def _writable(self, raw) -> None:
        """Wait for the connection without holding up anyone."""
        poller = select.poll()
        poller.register(raw, select.POLLOUT)
        began = time.ticks_ms()
        while not poller.poll(0):
            if time.ticks_diff(time.ticks_ms(), began) > _CONNECT_MS:
                raise OSError(errno.ETIMEDOUT)
            await asyncio.sleep_ms(_POLL_MS)

    async def _wrap(self, raw) -> None:
        import tls

        wanted = self._tls
        context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
        if wanted.get("cadata") or wanted.get("cafile"):
            data = wanted.get("cadata")
            if not data:
                with open(wanted["cafile"], "rb") as file:
                    data = file.read()
            context.verify_mode = tls.CERT_REQUIRED  # type: ignore[attr-defined]
            for certificate in certificates(data):
                context.load_verify_locations(certificate)
        else:
            context.verify_mode = tls.CERT_NONE  # type: ignore[attr-defined]
        name = wanted.get("server_hostname", self._host)
        self._stream = context.wrap_socket(raw, server_hostname=name, do_handshake_on_connect=False)
        self._stream.setblocking(False)

    async def _send_connect(self, will_topic: bytes, will: "bytes | memoryview") -> None:
        flags = 0x02 | 0x04 | 0x08 | 0x20
        parts = [self._client_id.encode(), will_topic, will]
        if self._user is not None:
            flags |= 0x80
            parts.append(self._user.encode())
            if self._password is not None:
                flags |= 0x40
                parts.append(self._password.encode())
        length = 10 + sum([2 + len(part) for part in parts])
        async with self._lock:
            at = self._head(0x10, length)
            at = self._put(at, b"\0\x04MQTT\x04")
            out = self._out
            out[at] = flags
            out[at + 1] = self._keepalive_s >> 8
            out[at + 2] = self._keepalive_s & 255
            at += 3
            for part in parts:
                at = self._put_string(at, part)
            await self._flush(at)

    def close(self) -> None:
        """Close the connection at once."""
        for each in (self._stream, self._socket):
            if each is not None:
                try:
                    each.close()
                except OSError:
                    pass
        self._stream = self._socket = None

    async def disconnect(self) -> None:
        """Take leave, so that the broker does not publish the will."""
        try:
            async with self._lock:
                self._out[0] = 0xE0
                self._out[1] = 0
                await self._flush(2)
        except (OSError, MqttError):
            pass
        self.close()

    # --- sending -------------------------------------------------------------------------------

    def _head(self, first: int, length: int) -> int:
        """Begin a packet in the buffer; where its body goes."""
        if length + 5 > len(self._out):
            raise MqttError("a packet of {} bytes does not fit the send buffer".format(length))
        self._out[0] = first
        at = 1
        while True:
            byte = length & 127
            length >>= 7
            self._out[at] = byte | (128 if length else 0)
            at += 1
            if not length:
                return at

    def _put(self, at: int, octets: "bytes | memoryview") -> int:
        self._out_view[at : at + len(octets)] = octets
        return at + len(octets)

    def _put_string(self, at: int, octets: "bytes | memoryview") -> int:
        self._out[at] = len(octets) >> 8
        self._out[at + 1] = len(octets) & 255
        return self._put(at + 2, octets)

    async def _flush(self, length: int) -> None:
        """Give the buffer's first bytes to the socket."""
        stream = self._stream
        if stream is None:
            raise MqttError("the connection is closed")
        at = 0
        waited_ms = 0
        while True:
            sent = stream.write(self._out_view[at:length])
            if sent is None:
                # The socket is full, which is rare: waiting in steps needs no memory.
                if waited_ms > _CONNECT_MS:
                    raise MqttError("the broker takes nothing")
                await asyncio.sleep_ms(_POLL_MS)
                waited_ms += _POLL_MS
                if self._stream is not stream:
                    raise MqttError("the connection is closed")
                continue
            at += sent
            if at >= length:
                return

    async def publish(
        self, topic: bytes, payload: "bytes | memoryview", qos: int = 0, retain: bool = False
    ) -> None:
        """Send one message; MqttError or OSError if the connection is gone.

        At QoS 1 it returns at once too: what is not acknowledged in time ends the connection, and
        the births that follow the next one say everything again.
        """
        async with self._lock:
            if qos and len(self._unacknowledged) >= _MAX_UNACKNOWLEDGED:
                raise MqttError("the broker acknowledges nothing")
            length = 2 + len(topic) + len(payload) + (2 if qos else 0)
            at = self._head(PUBLISH | qos << 1 | (1 if retain else 0), length)
            at = self._put_string(at, topic)
            if qos:
                at = self._put_id(at)
                self._unacknowledged.append(self._packet_id)
            await self._flush(self._put(at, payload))

    def _put_id(self, at: int) -> int:
        self._packet_id = self._packet_id % 65535 + 1
        self._out[at] = self._packet_id >> 8
        self._out[at + 1] = self._packet_id & 255
        return at + 2

    async def subscribe(self, filters: tuple) -> None:
        """Subscribe to ((filter, QoS), ...) and wait for the acknowledgement."""
        async with self._lock:
            at = self._head(0x82, 2 + sum([3 + len(name) for name, _ in filters]))
            at = self._put_id(at)
            wanted = self._packet_id
            for name, qos in filters:
                at = self._put_string(at, name)
                self._out[at] = qos
                at += 1
            await self._flush(at)
        await asyncio.wait_for_ms(self._subscribed(wanted, len(filters)), _CONNECT_MS)

    async def _subscribed(self, wanted: int, count: int) -> None:
        while True:
            packet = await self._packet()
            if packet is None or packet[0] & 0xF0 != SUBACK or packet[2] - packet[1] < 2 + count:
                continue  # A retained message may overtake the acknowledgement; it comes again.
            _, start, _ = packet
            if self._buffer[start] << 8 | self._buffer[start + 1] == wanted:
                for index in range(count):
                    if self._buffer[start + 2 + index] > 2:
                        raise MqttError("the broker does not allow this id to listen")
                return

    async def keep_alive(self) -> None:
        """To be called about once a second: pings, and MqttError when nobody answers."""
        silent_ms = time.ticks_diff(time.ticks_ms(), self._heard_ms)
        if silent_ms > self._keepalive_s * 1000:
            raise MqttError("the broker was silent for {} s".format(silent_ms // 1000))
        if silent_ms > self._keepalive_s * 500 and not self._pinged:
            self._pinged = True
            async with self._lock:
                self._out[0] = 0xC0
                self._out[1] = 0
                await self._flush(2)

    # --- receiving -----------------------------------------------------------------------------

    async def receive(self):
        """The next publish as (topic, payload), views that hold until the next call.

        MqttError or OSError when the connection is gone.
        """
        while True:
            packet = await self._packet()
            if packet is None:
                continue
            first, start, end = packet
            kind = first & 0xF0
            if kind == PUBACK and end - start == 2:
                number = self._buffer[start] << 8 | self._buffer[start + 1]
                if number in self._unacknowledged:
                    self._unacknowledged.remove(number)
            elif kind == PUBLISH:
                publish = await self._published(first, start, end)
                if publish is not None:
                    return publish

    async def _published(self, first: int, start: int, end: int):
        buffer = self._buffer
        if end - start < 2:
            raise MqttError("the broker sent a damaged packet")
        topic = start + 2
        payload = topic + (buffer[start] << 8 | buffer[start + 1])
        qos = first >> 1 & 3
        if payload + (2 if qos else 0) > end or qos > 1:
            raise MqttError("the broker sent a damaged packet")
        topic_view = self._view[topic:payload]
        if qos:
            async with self._lock:
                self._out[0] = PUBACK
                self._out[1] = 2
                self._out[2] = buffer[payload]
                self._out[3] = buffer[payload + 1]
                await self._flush(4)
            payload += 2
        return topic_view, self._view[payload:end]

    async def _packet(self) -> "tuple | None":
        """(first byte, start, end) of the next packet's body in the buffer; None if skipped."""
        while True:
            head = self._head_length()
            if head:
                length, at = head
                if length > len(self._buffer) - 5:
                    await self._drain(at + length)
                    self.skipped += 1
                    return None
                if at + length <= self._end:
                    first = self._buffer[self._start]
                    self._start = at + length
                    return first, at, at + length
            await self._fill()

    def _head_length(self):
        """(length of the body, where it begins) once the head is here, else None."""
        value = shift = 0
        at = self._start + 1
        while at < self._end:
            byte = self._buffer[at]
            value |= (byte & 127) << shift
            at += 1
            if not byte & 128:
                return value, at
            shift += 7
            if shift > 21:
                raise MqttError("the broker sent a damaged packet")
        return None

    async def _fill(self) -> None:
        """Receive some more bytes."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start and self._end - self._start < len(self._buffer):
            rest = self._end - self._start
            self._view[:rest] = self._view[self._start : self._end]
            self._start = 0
            self._end = rest
        if self._stream is None:
            raise MqttError("the connection is closed")
        count = await self._reader.readinto(self._view[self._end :])
        if count == 0:
            raise MqttError("the broker closed the connection")
        if count is not None:
            self._end += count
            self._heard_ms = time.ticks_ms()
            self._pinged = False

    async def _drain(self, end: int) -> None:
        """Throw away everything up to `end`, counted from the buffer's begin."""
        missing = end - self._end
        self._start = self._end = 0
        if missing < 0:
            raise MqttError("the broker sent a damaged packet")
        while missing:
            count = await self._reader.readinto(self._view[: min(missing, len(self._buffer))])
            if count == 0:
                raise MqttError("the broker closed the connection")
            if count is not None:
                missing -= count
                self._heard_ms = time.ticks_ms()


def certificates(data: bytes) -> list:
    """The certificates in a file, DER or any number as PEM, which most ports cannot read, as DER."""
    from binascii import a2b_base64

    blocks = data.split(b"-----BEGIN CERTIFICATE-----")[1:]
    return [a2b_base64(block.split(b"-----")[0]) for block in blocks] or [data]


_REFUSALS = {
    1: "the broker does not speak MQTT 3.1.1",
    2: "the broker does not take this id",
    3: "the broker is not available now",
    4: "the broker does not know this user and password; check the configuration",
    5: "the broker does not allow this user; check the configuration",
}
