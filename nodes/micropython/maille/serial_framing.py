"""Frames of a serial line in place: COBS, delimiter, CRC-16 (protocol/SERIAL.md, section 1)."""

from micropython import const

MAX_FRAME_BYTES = const(64)
CRC_BYTES = const(2)


def crc16(buffer, start: int, size: int) -> int:
    """CRC-16/CCITT as avr-libc computes it, of `size` bytes from `start` on; 0 over a whole frame."""
    crc = 0xFFFF
    for index in range(start, start + size):
        byte = (buffer[index] ^ crc) & 0xFF
        byte ^= byte << 4 & 0xFF
        crc = (byte << 8 | crc >> 8) ^ byte >> 4 ^ byte << 3
    return crc


def decode(buffer: bytearray, size: int) -> int:
    """Undo COBS in place and check; bytes of header and payload, -1: no frame.

    Args:
        buffer: what stood before the delimiter, without zeros.
        size: how many bytes of it; more than `buffer` holds is no frame.
    """
    if size >= MAX_FRAME_BYTES:
        return -1
    at = out = 0
    while at < size:
        end = at + buffer[at]
        if end > size:
            return -1
        at += 1
        while at < end:
            buffer[out] = buffer[at]
            out += 1
            at += 1
        if end < size:
            buffer[out] = 0
            out += 1
    if out <= CRC_BYTES or crc16(buffer, 0, out):
        return -1
    return out - CRC_BYTES


def encode(buffer: bytearray, size: int) -> int:
    """Make a frame of `size` bytes of header and payload from buffer[1] on; its bytes on the wire."""
    crc = crc16(buffer, 1, size)
    buffer[1 + size] = crc & 0xFF
    buffer[2 + size] = crc >> 8
    end = 1 + size + CRC_BYTES
    block = 0
    for index in range(1, end):
        if buffer[index] == 0:
            buffer[block] = index - block
            block = index
    buffer[block] = end - block
    buffer[end] = 0
    return end + 1
