"""Named tensors (RFC 8746): read without a copy, written into a buffer."""

from .cbor import Reader, Writer, check_utf8
from .errors import WireError

MAX_TENSORS = 256
_MAX_ELEMENTS = 1 << 40
_MULTI_DIMENSIONAL = 40

UINT8 = 64
INT16 = 77
INT32 = 78

_ITEM_BYTES = {
    64: 1, 65: 2, 66: 4, 67: 8, 68: 1, 69: 2, 70: 4, 71: 8, 72: 1, 73: 2, 74: 4, 75: 8,
    77: 2, 78: 4, 79: 8, 80: 2, 81: 4, 82: 8, 84: 2, 85: 4, 86: 8,
}  # fmt: skip
"""Bytes of one element, by the tag of its typed array."""


def read(data: "bytes | memoryview") -> list:
    """[(name, tag, shape, bytes)] of an array of named tensors; WireError.

    The tag is that of the typed array, 0 for truth values and texts, whose bytes are None.
    """
    reader = Reader(data)
    count = reader.count()
    if count > MAX_TENSORS:
        raise WireError("too many tensors")
    tensors: list = []
    for _ in range(count):
        reader.array(2)
        name = reader.text(256)
        for other in tensors:
            if other[0] == name:
                raise WireError("two tensors of one name")
        tensors.append(_tensor(reader, name))
    reader.ended()
    return tensors


def _tensor(reader: Reader, name: str) -> tuple:
    if reader.head() != 6 or reader.value != _MULTI_DIMENSIONAL:
        raise WireError("not a tensor")
    reader.array(2)
    dimensions = reader.count()
    if dimensions > 8:
        raise WireError("too many dimensions")
    shape = []
    elements = bound = 1
    for _ in range(dimensions):
        size = reader.number(_MAX_ELEMENTS)
        shape.append(size)
        elements *= size
        bound *= size or 1
    if bound > _MAX_ELEMENTS:
        raise WireError("shape is too large")
    major = reader.head()
    tag = reader.value
    if major == 6:
        item_bytes = _ITEM_BYTES.get(tag)
        octets = reader.octets(2)
        if item_bytes is None or len(octets) != elements * item_bytes:
            raise WireError("elements do not fill the shape")
        return (name, tag, shape, octets)
    if major != 4 or tag != elements:
        raise WireError("elements do not fill the shape")
    _check_plain(reader, elements)
    return (name, 0, shape, None)


def _check_plain(reader: Reader, elements: int) -> None:
    """All true or false, or all texts."""
    texts = False
    for index in range(elements):
        major = reader.head()
        if index == 0:
            texts = major == 3
        if texts:
            end = reader.at + reader.value
            if major != 3 or end > len(reader.data):
                raise WireError("elements are not of one type")
            try:
                check_utf8(reader.data[reader.at : end])
            except UnicodeError:
                raise WireError("text is not UTF-8") from None
            reader.at = end
        elif not 0xF4 <= reader.data[reader.at - 1] <= 0xF5 or major != 7 or reader.value > 21:
            raise WireError("elements are neither truth values nor texts")


def write(writer: Writer, tensors: list) -> None:
    """An array of (name, tag, shape, bytes); TooLarge."""
    writer.head(4, len(tensors))
    for name, tag, shape, octets in tensors:
        writer.head(4, 2)
        writer.write(name)
        writer.head(6, _MULTI_DIMENSIONAL)
        writer.head(4, 2)
        writer.write(shape)
        writer.head(6, tag)
        writer.octets(octets)
