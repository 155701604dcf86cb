"""The envelope around every message: `[version, type, boot, seq, epoch, body]`.

`boot` is a random number drawn when the sender's process starts, `seq` counts its messages
from 1 (0 in a will), `epoch` is the coordinator's fencing number: its own in what it sends,
the newest it has obeyed in what a node sends, 0 where none is known yet.
"""

from dataclasses import dataclass

from maille_protocol import cbor, fields
from maille_protocol.codes import MessageType
from maille_protocol.errors import UsageError, WireError
from maille_protocol.limits import MAX_PUBLISH_BYTES, MAX_UINT64, PROTOCOL_VERSION
from maille_protocol.messages import MESSAGE_CLASSES, Message


@dataclass(frozen=True, slots=True)
class Envelope:
    """One received message and what its sender said about itself."""

    boot: int
    seq: int
    epoch: int
    message: Message


def pack(message: Message, *, boot: int, seq: int, epoch: int) -> bytes:
    """The bytes of one publish.

    Raises:
        UsageError: the result is larger than `MAX_PUBLISH_BYTES`; send less at once.
    """
    data = cbor.encode(
        [PROTOCOL_VERSION, int(message.TYPE), boot, seq, epoch, message.to_body()],
    )
    if len(data) > MAX_PUBLISH_BYTES:
        raise UsageError(
            f"{type(message).__name__} takes {len(data)} bytes, a publish holds {MAX_PUBLISH_BYTES}"
        )
    return data


def unpack(data: bytes, expected: frozenset[MessageType] | None = None) -> Envelope:
    """The message in `data`.

    Args:
        data: payload of one publish.
        expected: types that may stand on this topic; None allows all.

    Raises:
        WireError: too large, malformed, another protocol version, an unknown or unexpected type.
    """
    if len(data) > MAX_PUBLISH_BYTES:
        raise WireError(f"{len(data)} bytes in one publish, {MAX_PUBLISH_BYTES} are allowed")
    version, type_code, boot, seq, epoch, body = fields.array(cbor.decode(data), 6, "envelope")
    if type(version) is not int or version != PROTOCOL_VERSION:
        raise WireError(
            f"protocol version {fields.describe(version)}, this program speaks {PROTOCOL_VERSION}: update the older one"
        )
    message_class = MESSAGE_CLASSES.get(fields.uint(type_code, 255, "type"))
    if message_class is None:
        raise WireError(f"unknown message type {type_code}")
    if expected is not None and message_class.TYPE not in expected:
        raise WireError(f"{message_class.__name__} does not belong on this topic")
    return Envelope(
        fields.uint(boot, MAX_UINT64, "boot"),
        fields.uint(seq, MAX_UINT64, "seq"),
        fields.uint(epoch, MAX_UINT64, "epoch"),
        message_class.from_body(body),
    )
