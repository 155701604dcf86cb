"""The part of MQTT 3.1.1 that Maille speaks, as bytes: no socket, no clock.

Clean sessions at QoS 0 and 1. The same functions serve the connection (`link`) and the probes,
which need packets that a well-behaved client never sends.
Source: MQTT Version 3.1.1, OASIS Standard, sections 2 and 3.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

PINGREQ = b"\xc0\x00"
DISCONNECT = b"\xe0\x00"
MAX_TOPIC_BYTES = 65_535
MAX_REMAINING_BYTES = 268_435_455

# CONNACK return codes, section 3.2.2.3, with what to do about each.
CONNACK_REASONS = {
    1: "it does not speak MQTT 3.1.1; use another broker",
    2: "it rejected the client id; choose another node name",
    3: "it is not ready to serve; try again later",
    4: "user name or password are malformed or wrong; correct them",
    5: "the login is not authorised; correct user name and password or the broker's rules",
}
CONNACK_UNAVAILABLE = 3


@dataclass(frozen=True, slots=True)
class Message:
    """One received publish."""

    topic: str
    payload: bytes
    retain: bool


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes when this connection ends without a DISCONNECT."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False


class Delivery(NamedTuple):
    """A publish at QoS 1 or 2, which wants an acknowledgement of `packet_id`."""

    message: Message
    packet_id: int
    qos: int
    duplicate: bool


class ConnectAck(NamedTuple):
    """The answer to CONNECT; `code` 0 means accepted."""

    code: int
    session_present: bool


class SubscribeAck(NamedTuple):
    """The granted QoS of each filter, in order; 128 means refused."""

    packet_id: int
    codes: tuple[int, ...]


class PublishAck(NamedTuple):
    """The broker took responsibility for a QoS 1 publish."""

    packet_id: int


class PingAck(NamedTuple):
    """The broker is alive."""


class Oversized(NamedTuple):
    """A packet larger than the decoder's limit began; its bytes are skipped, not kept."""

    size_bytes: int


class Malformed(NamedTuple):
    """The bytes are not MQTT from here on; the connection cannot be used any longer."""

    reason: str


# A QoS 0 publish, by far the most frequent packet, is its bare message.
Packet = (
    Message | Delivery | ConnectAck | SubscribeAck | PublishAck | PingAck | Oversized | Malformed
)


def _length(size_bytes: int) -> bytes:
    if size_bytes < 128:
        return bytes((size_bytes,))
    if size_bytes > MAX_REMAINING_BYTES:
        raise ValueError(f"An MQTT packet of {size_bytes} bytes is too large.")
    encoded = bytearray()
    while size_bytes:
        size_bytes, digit = divmod(size_bytes, 128)
        encoded.append(digit | 0x80 if size_bytes else digit)
    return bytes(encoded)


def _text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    if len(data) > MAX_TOPIC_BYTES:
        raise ValueError(f"An MQTT string of {len(data)} bytes is too long (65,535 at most).")
    return struct.pack("!H", len(data)) + data


def encode_connect(
    client_id: str,
    *,
    keepalive_s: int,
    clean_session: bool = True,
    username: str | None = None,
    password: str | None = None,
    will: Will | None = None,
) -> bytes:
    """CONNECT for protocol level 4 (MQTT 3.1.1)."""
    flags = 0x02 if clean_session else 0
    payload = _text(client_id)
    if will is not None:
        flags |= 0x04 | (will.qos << 3) | (0x20 if will.retain else 0)
        payload += _text(will.topic) + _text(will.payload)
    if username is not None:
        flags |= 0x80
        payload += _text(username)
        if password is not None:
            flags |= 0x40
            payload += _text(password)
    body = b"\x00\x04MQTT\x04" + struct.pack("!BH", flags, keepalive_s) + payload
    return b"\x10" + _length(len(body)) + body


def encode_publish(
    topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, packet_id: int = 0
) -> bytes:
    """PUBLISH; `packet_id` (1 to 65,535) is needed above QoS 0."""
    name = topic.encode()
    head = 0x30 | (qos << 1) | (1 if retain else 0)
    if qos == 0:
        return b"%c%b%b%b%b" % (
            head,
            _length(2 + len(name) + len(payload)),
            len(name).to_bytes(2, "big"),
            name,
            payload,
        )
    return b"%c%b%b%b%b%b" % (
        head,
        _length(4 + len(name) + len(payload)),
        len(name).to_bytes(2, "big"),
        name,
        packet_id.to_bytes(2, "big"),
        payload,
    )


def encode_subscribe(packet_id: int, subscriptions: Sequence[tuple[str, int]]) -> bytes:
    """SUBSCRIBE to (filter, QoS) pairs; at least one."""
    body = struct.pack("!H", packet_id)
    for topic_filter, qos in subscriptions:
        body += _text(topic_filter) + bytes((qos,))
    return b"\x82" + _length(len(body)) + body


def encode_puback(packet_id: int) -> bytes:
    """PUBACK, the acknowledgement of a QoS 1 publish."""
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


class Decoder:
    """Bytes from a broker, cut anywhere, to packets.

    Never raises on wire data and never holds more than `max_packet_bytes` plus one read:
    a larger packet is reported once as `Oversized` and its bytes are thrown away as they come.
    After `Malformed` the decoder gives nothing more.
    """

    __slots__ = ("_buffer", "_dead", "_max_packet_bytes", "_skip_bytes")

    def __init__(self, max_packet_bytes: int) -> None:
        self._max_packet_bytes = max_packet_bytes
        self._buffer = b""
        self._skip_bytes = 0
        self._dead = False

    def feed(self, data: bytes) -> list[Packet]:
        """All packets that are complete with `data`."""
        packets: list[Packet] = []
        if self._dead:
            return packets
        if self._skip_bytes:
            skipped = min(self._skip_bytes, len(data))
            self._skip_bytes -= skipped
            data = data[skipped:]
        if self._buffer:
            data = self._buffer + data
        position, end = 0, len(data)
        while end - position >= 2:
            # The remaining length: one to four bytes of seven bits, least significant first.
            size = data[position + 1]
            body = position + 2
            if size >= 128:
                size &= 0x7F
                shift = 7
                while True:
                    if body == end:
                        self._buffer = data[position:]
                        return packets
                    digit = data[body]
                    body += 1
                    size |= (digit & 0x7F) << shift
                    shift += 7
                    if digit < 128:
                        break
                    if shift > 21:
                        return self._fail(packets, "a packet length has more than four bytes")
            if size > self._max_packet_bytes:
                packets.append(Oversized(size))
                if end - body < size:
                    self._skip_bytes = size - (end - body)
                    position = end
                    break
                position = body + size
                continue
            if end - body < size:
                break
            packet = _decode(data[position], data[body : body + size])
            packets.append(packet)
            if type(packet) is Malformed:
                self._dead = True
                self._buffer = b""
                return packets
            position = body + size
        self._buffer = data[position:]
        return packets

    def _fail(self, packets: list[Packet], reason: str) -> list[Packet]:
        self._dead = True
        self._buffer = b""
        packets.append(Malformed(reason))
        return packets


def _decode(head: int, body: bytes) -> Packet:
    kind = head >> 4
    size = len(body)
    if kind == 3:
        qos = (head >> 1) & 3
        at = 2 + int.from_bytes(body[:2], "big")
        if size < at + (2 if qos else 0) or size < 2 or qos == 3:
            return Malformed("a PUBLISH is cut short or has QoS 3")
        try:
            topic = str(body[2:at], "utf-8")
        except UnicodeDecodeError:
            return Malformed("a topic is not UTF-8")
        if qos == 0:
            return Message(topic, body[at:], bool(head & 1))
        packet_id = int.from_bytes(body[at : at + 2], "big")
        return Delivery(
            Message(topic, body[at + 2 :], bool(head & 1)), packet_id, qos, bool(head & 8)
        )
    if kind == 2 and size == 2:
        return ConnectAck(body[1], bool(body[0] & 1))
    if kind == 4 and size == 2:
        return PublishAck(int.from_bytes(body, "big"))
    if kind == 9 and size >= 3:
        return SubscribeAck(int.from_bytes(body[:2], "big"), tuple(body[2:]))
    if kind == 13 and size == 0:
        return PingAck()
    return Malformed(f"unexpected packet type {kind} of {size} bytes")
