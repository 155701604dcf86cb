"""Names that the tables of vectors share."""

from typing import TypeAlias

Json: TypeAlias = "bool | int | str | list[Json] | dict[str, Json] | None"

APPENDIX_A = "RFC 8949, appendix A"
APPENDIX_F = "RFC 8949, appendix F"
RFC_8746 = "RFC 8746, section 3"
HAND = "by hand"
ENCODER = "encoder"

TASK = "00112233445566778899aabbccddeeff"
SHA256 = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
