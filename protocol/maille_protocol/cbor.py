"""CBOR as Maille uses it: a strict reader and a deterministic writer.

Only unsigned and negative integers up to 64 bits, byte and text strings, arrays, booleans,
null and the tensor tags of RFC 8746 ever stand on the wire, in definite length. Maps,
indefinite lengths, and the tags that a library would turn into objects (bignums, dates, shared
references, ...) are refused here, because a reader on a microcontroller could not take them and an
attacker could use them; floats and simple values are refused by the checks in `fields`.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, TypeAlias

import cbor2

from maille_protocol.errors import UsageError, WireError
from maille_protocol.limits import MAX_DEPTH

Plain: TypeAlias = "int | bytes | str | bool | Sequence[Plain] | cbor2.CBORTag | None"
"""What may be written: mappings and floats are left out on purpose."""


def _refuse(*_arguments: object) -> NoReturn:
    raise ValueError("this tag is not allowed here")


# cbor2 decodes these tags into objects (dates, patterns, cyclic lists, ...) unless told otherwise.
_BUILT_IN_TAGS = (
    *(0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261),
    *(1004, 43000, 52, 54, 55799),
)
_REFUSED: Mapping[int, Callable[..., NoReturn]] = dict.fromkeys(_BUILT_IN_TAGS, _refuse)


def encode(value: Plain) -> bytes:
    """The deterministic encoding (RFC 8949 section 4.2) of `value`.

    Raises:
        UsageError: `value` holds something that the wire does not carry.
    """
    try:
        return cbor2.dumps(value)
    except (cbor2.CBOREncodeError, OverflowError, UnicodeEncodeError) as error:
        raise UsageError(f"not encodable: {error}") from error


def decode(data: bytes) -> object:
    """The one item that `data` encodes; tags the reader does not know stay `CBORTag`.

    Raises:
        WireError: not well-formed, more than one item, too deep, or a construct not allowed.
    """
    stream = io.BytesIO(data)
    try:
        value: object = cbor2.CBORDecoder(
            stream,
            max_depth=MAX_DEPTH,
            allow_indefinite=False,
            object_hook=_refuse,
            semantic_decoders=_REFUSED,
        ).decode()
    # Whatever a hostile input provokes in the library is the peer's fault.
    except Exception as error:
        raise WireError(f"not valid CBOR: {error}") from error
    if stream.tell() != len(data):
        raise WireError(f"{len(data) - stream.tell()} bytes follow the message")
    return value
