"""CRC-16/CCITT as avr-libc computes it: reflected, start 0xFFFF (CRC-16/MCRF4XX)."""


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x8408 if byte & 1 else 0)
    return byte


_TABLE = tuple(_entry(byte) for byte in range(256))


def crc16(data: bytes, start: int = 0xFFFF) -> int:
    """The checksum of `data`; going on from `start`, the checksum of what came before."""
    crc = start
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc
