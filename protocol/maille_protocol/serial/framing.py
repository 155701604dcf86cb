"""Bytes of a serial line to checked frame bodies and back: COBS, delimiter, CRC."""

from dataclasses import dataclass

from maille_protocol.errors import UsageError, WireError
from maille_protocol.serial.crc16 import crc16
from maille_protocol.serial.limits import (
    CRC_BYTES,
    MAX_BODY_BYTES,
    MAX_FRAME_BYTES,
)


def cobs_encode(data: bytes) -> bytes:
    """`data` without any zero byte, one byte longer; at most 254 bytes."""
    if len(data) > 254:
        raise UsageError(f"{len(data)} bytes, one COBS block holds 254")
    return b"".join(bytes([len(block) + 1]) + block for block in data.split(b"\0"))


def cobs_decode(data: bytes) -> bytes:
    """The inverse of `cobs_encode`.

    Raises:
        WireError: a block reaches beyond the end, or a zero stands in `data`.
    """
    blocks: list[bytes] = []
    position = 0
    while position < len(data):
        end = position + data[position]
        if end == position or end > len(data):
            raise WireError("COBS: a block reaches beyond the frame")
        blocks.append(data[position + 1 : end])
        position = end
    decoded = b"\0".join(blocks)
    if 0 in data:
        raise WireError("COBS: a zero inside of a frame")
    return decoded


def encode_frame(body: bytes) -> bytes:
    """The bytes on the wire for header and payload: CRC added, COBS, delimiter.

    Raises:
        UsageError: longer than a frame may be.
    """
    if len(body) + CRC_BYTES > MAX_BODY_BYTES:
        raise UsageError(f"{len(body)} bytes of header and payload do not fit a frame")
    return cobs_encode(body + crc16(body).to_bytes(CRC_BYTES, "little")) + b"\0"


def decode_frame(data: bytes) -> bytes:
    """Header and payload of a frame as it stood on the wire, without its delimiter.

    Raises:
        WireError: too long, wrong COBS, or wrong CRC.
    """
    if len(data) >= MAX_FRAME_BYTES:
        raise WireError(f"a frame of more than {MAX_FRAME_BYTES} bytes")
    whole = cobs_decode(data)
    if len(whole) <= CRC_BYTES or crc16(whole) != 0:
        raise WireError("wrong CRC")
    return whole[:-CRC_BYTES]


@dataclass(frozen=True, slots=True)
class Damaged:
    """Bytes that are no frame, up to a delimiter."""

    size_bytes: int
    reason: str


class FrameReader:
    """Cuts what comes from a serial line into frames, whatever comes.

    Holds at most one frame's bytes. `pending_bytes` counts what came since the last delimiter,
    also what was thrown away because it is too long for a frame.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self.pending_bytes = 0

    def feed(self, data: bytes) -> list[bytes | Damaged]:
        """Bodies (header and payload) of the frames that end in `data`, and what was no frame."""
        found: list[bytes | Damaged] = []
        *ended, rest = data.split(b"\0")
        for part in ended:
            self._take(part)
            if self.pending_bytes:
                found.append(self._end())
        self._take(rest)
        return found

    def clear(self) -> None:
        """Forget half a frame, as after a change of speed."""
        self._held.clear()
        self.pending_bytes = 0

    def _take(self, part: bytes) -> None:
        self.pending_bytes += len(part)
        self._held += part[: MAX_FRAME_BYTES - len(self._held)]

    def _end(self) -> bytes | Damaged:
        size, data = self.pending_bytes, bytes(self._held)
        self.clear()
        try:
            return decode_frame(data)
        except WireError as error:
            return Damaged(size, str(error))
