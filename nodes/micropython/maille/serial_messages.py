"""Messages between a board and its gateway (protocol/serial.cddl): parsed and packed here."""

from micropython import const

from .cbor import BYTES, CODE, UINT, Reader, Writer
from .errors import WireError

OFFER = const(0)
CANCEL = const(1)
DEPLOY = const(2)
CHUNK = const(3)
EVICT = const(4)
SENSE = const(5)
STOP = const(6)
CALIBRATE = const(7)
REPORT = const(8)

INFO = const(12)
SENSOR = const(13)
MODEL = const(14)
RESULT = const(15)
WANT = const(16)
MODEL_STATE = const(17)
READING = const(18)
LOAD = const(19)
LOG = const(20)
REFUSED = const(21)

MAX_MESSAGE_BYTES = const(768)

_U8 = (UINT, 0xFF)
_U16 = (UINT, 0xFFFF)
_U32 = (UINT, 0xFFFFFFFF)
_DATA = (BYTES, 0, MAX_MESSAGE_BYTES)
_STRINGS = None

FIELDS = (
    (_U16, _U8, _U32, _STRINGS),
    (_U16,),
    (_U8, _U32, _U32, (BYTES, 32, 32)),
    (_U8, _U32, _DATA),
    (_U8,),
    (_U16, _U8, _U8, _U32, (CODE, b"\0\1")),
    (_U16,),
    (),
    (),
)
"""What a board takes in, by code; `_STRINGS` is a list of byte strings, given as it stands there."""


class Malformed(WireError):
    """What a gateway may not say; `code` is that of the message, or 255."""

    def __init__(self, text: str, code: int = 255) -> None:
        super().__init__(text)
        self.code = code


def unpack(data) -> list:
    """[code, field, ...] of a message to a board; Malformed. Offers' inputs are a view of `data`."""
    code = 255
    try:
        reader = Reader(data)
        count = reader.count()
        code = reader.number(0xFF)
        if code >= len(FIELDS):
            raise Malformed("unknown message", code)
        fields = FIELDS[code]
        if count != 1 + len(fields):
            raise Malformed("another number of fields", code)
        values = [code]
        for field in fields:
            values.append(_strings(reader) if field is _STRINGS else reader.read(field))
        reader.ended()
    except WireError as error:
        raise Malformed(str(error), code) from None
    return values


def _strings(reader: Reader):
    start = reader.at
    for _ in range(reader.count()):
        reader.octets(2)
    return reader.data[start : reader.at]


def pack(writer: Writer, message, content=None) -> memoryview:
    """The bytes of a message in the writer's buffer; TooLarge.

    Args:
        writer: with room for the longest message.
        message: code and fields.
        content: the last field as it is to stand there, if it was packed before.
    """
    writer.at = 0
    writer.head(4, len(message) + (content is not None))
    for field in message:
        writer.write(field)
    if content is not None:
        size = len(content)
        writer.view[writer.at : writer.at + size] = content
        writer.at += size
    return writer.view[: writer.at]


def short(text: str, limit: int) -> str:
    """A text cut to at most so many bytes of UTF-8, at a character."""
    while len(text.encode()) > limit:
        text = text[:-1]
    return text
