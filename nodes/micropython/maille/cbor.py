"""CBOR as Maille uses it: a reader that is led by a schema, and a writer into one buffer.

The reader never builds a value that the schema does not ask for, so nothing a peer sends can make
it reserve more memory than the message itself is long. Text is checked to be UTF-8.

Schemas are tuples, the kind first:

    (UINT, max)  (CODE, allowed codes as bytes)  (BYTES, min, max)  (TEXT, max characters)
    (ID,)  (FLAG,)  (OPTIONAL, schema)  (LIST, schema)  (ARRAY, schema, schema, ...)
    (CONTENT,)  bytes of at most 40960, or (sha256, size)
    (INT, max)  an integer from -max to max
    (MORE, schema, ..., schema)  an array that may end before its last element
"""

from micropython import const

from .errors import TooLarge, WireError

UINT = const(0)
CODE = const(1)
BYTES = const(2)
TEXT = const(3)
ID = const(4)
FLAG = const(5)
OPTIONAL = const(6)
LIST = const(7)
ARRAY = const(8)
CONTENT = const(9)
INT = const(10)
MORE = const(11)

_MAX_ITEMS = const(4096)
_MAX_INLINE = const(40960)
_FALSE = const(0xF4)
_TRUE = const(0xF5)
_NULL = const(0xF6)

ID_SCHEMA = (ID,)
MAX_ARTEFACT_BYTES = 1 << 36


class Reader:
    """A cursor over the bytes of one item.

    Args:
        data: bytes, bytearray or memoryview; not copied.
    """

    def __init__(self, data: "bytes | bytearray | memoryview") -> None:
        self.data = memoryview(data)
        self.at = 0
        self.value = 0

    def head(self) -> int:
        """Read one head: its major type; its number is left in `value`."""
        data = self.data
        at = self.at
        if at >= len(data):
            raise WireError("ends in the middle of an item")
        first = data[at]
        value = first & 31
        at += 1
        if value >= 24:
            if value > 27:
                raise WireError("indefinite or reserved length")
            size = 1 << (value - 24)
            if at + size > len(data):
                raise WireError("ends in the middle of a number")
            value = 0
            while size:
                value = value << 8 | data[at]
                at += 1
                size -= 1
        self.at = at
        self.value = value
        return first >> 5

    def number(self, maximum: int) -> int:
        """An integer from 0 to `maximum`."""
        if self.head() != 0 or self.value > maximum:
            raise WireError("number expected or out of range")
        return self.value

    def array(self, length: int) -> None:
        """The head of an array of just `length`."""
        if self.head() != 4 or self.value != length:
            raise WireError("array of another length expected")

    def count(self) -> int:
        """The head of an array of any length up to 4096 that can still be there."""
        if self.head() != 4 or self.value > _MAX_ITEMS or self.value > len(self.data) - self.at:
            raise WireError("array expected, or too long")
        return self.value

    def octets(self, major: int) -> memoryview:
        """The bytes of a byte string (2) or text (3), not copied."""
        if self.head() != major or self.value > len(self.data) - self.at:
            raise WireError("string expected, or longer than the message")
        start = self.at
        self.at = start + self.value
        return self.data[start : self.at]

    def text(self, maximum: int) -> str:
        """A text of at most `maximum` characters."""
        octets = self.octets(3)
        if len(octets) > 4 * maximum:
            raise WireError("text is too long")
        try:
            check_utf8(octets)
            text = str(octets, "utf-8")
        except UnicodeError:
            raise WireError("text is not UTF-8") from None
        if len(text) > maximum:
            raise WireError("text is too long")
        return text

    def null(self) -> bool:
        """Whether null comes next; it is taken if so."""
        if self.at < len(self.data) and self.data[self.at] == _NULL:
            self.at += 1
            return True
        return False

    def ended(self) -> None:
        """Refuse anything that follows."""
        if self.at != len(self.data):
            raise WireError("bytes follow the message")

    def read(self, schema: tuple):
        """The next item, which must be what `schema` says; WireError."""
        kind = schema[0]
        if kind == UINT:
            return self.number(schema[1])
        if kind == BYTES:
            octets = self.octets(2)
            if not schema[1] <= len(octets) <= schema[2]:
                raise WireError("byte string of another length expected")
            return bytes(octets)
        if kind == ARRAY:
            self.array(len(schema) - 1)
            return [self.read(schema[index]) for index in range(1, len(schema))]
        if kind == MORE:
            most = len(schema) - 1
            length = self.count()
            if most - 1 <= length <= most:
                return [self.read(schema[index + 1]) for index in range(length)]
            raise WireError("array of another length expected")
        if kind == CODE:
            value = self.number(255)
            if value not in schema[1]:
                raise WireError("unknown code")
            return value
        if kind == TEXT:
            return self.text(schema[1])
        if kind == LIST:
            item = schema[1]
            return [self.read(item) for _ in range(self.count())]
        if kind == OPTIONAL:
            return None if self.null() else self.read(schema[1])
        if kind == CONTENT:
            return self._content()
        if kind == ID:
            text = self.text(32)
            if not is_id(text):
                raise WireError("not an id")
            return text
        if kind == FLAG:
            at = self.at
            if at >= len(self.data) or not _FALSE <= self.data[at] <= _TRUE:
                raise WireError("true or false expected")
            self.at = at + 1
            return self.data[at] == _TRUE
        major = self.head()
        if major > 1 or self.value > schema[1] - major:
            raise WireError("number expected or out of range")
        return -1 - self.value if major else self.value

    def _content(self):
        if self.at < len(self.data) and self.data[self.at] >> 5 == 4:
            self.array(2)
            octets = self.octets(2)
            if len(octets) != 32:
                raise WireError("SHA-256 expected")
            return (bytes(octets), self.number(MAX_ARTEFACT_BYTES))
        octets = self.octets(2)
        if len(octets) > _MAX_INLINE:
            raise WireError("content is too long")
        return octets


class Writer:
    """Writes the deterministic encoding into one buffer that is taken once.

    Args:
        size: bytes of the buffer.
    """

    def __init__(self, size: int) -> None:
        self.buffer = bytearray(size)
        self.view = memoryview(self.buffer)
        self.at = 0

    def head(self, major: int, value: int) -> None:
        """A head in the fewest bytes; TooLarge."""
        buffer = self.buffer
        at = self.at
        if at + 9 > len(buffer):
            raise TooLarge("message")
        if value < 24:
            buffer[at] = major << 5 | value
            self.at = at + 1
            return
        size = 1 if value < 256 else 2 if value < 65536 else 4 if value < 1 << 32 else 8
        buffer[at] = major << 5 | (
            23 + (1 if size == 1 else 2 if size == 2 else 3 if size == 4 else 4)
        )
        self.at = at + 1 + size
        while size:
            buffer[at + size] = value & 255
            value >>= 8
            size -= 1

    def octets(self, octets: "bytes | bytearray | memoryview", major: int = 2) -> None:
        """A byte string (2) or the bytes of a text (3); TooLarge."""
        size = len(octets)
        self.head(major, size)
        at = self.at
        if at + size > len(self.buffer):
            raise TooLarge("message")
        self.view[at : at + size] = octets
        self.at = at + size

    def write(self, value) -> None:
        """Any value that stands on the wire; TooLarge."""
        if value is None or value is True or value is False:
            if self.at >= len(self.buffer):
                raise TooLarge("message")
            self.buffer[self.at] = _NULL if value is None else _TRUE if value else _FALSE
            self.at += 1
        elif isinstance(value, int):
            if value < 0:
                self.head(1, -1 - value)
            else:
                self.head(0, value)
        elif isinstance(value, str):
            self.octets(value.encode(), 3)
        elif isinstance(value, (list, tuple)):
            self.head(4, len(value))
            for item in value:
                self.write(item)
        else:
            self.octets(value)


def is_id(text: str) -> bool:
    """Whether `text` may name a mesh, node or coordinator."""
    if not 1 <= len(text) <= 32 or text[0] == "-" or text[-1] == "-":
        return False
    for character in text:
        if not ("a" <= character <= "z" or "0" <= character <= "9" or character == "-"):
            return False
    return True


def check_utf8(octets: "bytes | memoryview") -> None:
    """UnicodeError unless `octets` are UTF-8; the interpreter's own check lets some pass."""
    at = 0
    end = len(octets)
    while at < end:
        first = octets[at]
        at += 1
        if first < 0x80:
            continue
        low, high = 0x80, 0xBF
        if 0xC2 <= first <= 0xDF:
            more = 1
        elif 0xE0 <= first <= 0xEF:
            more = 2
            low = 0xA0 if first == 0xE0 else 0x80
            high = 0x9F if first == 0xED else 0xBF
        elif 0xF0 <= first <= 0xF4:
            more = 3
            low = 0x90 if first == 0xF0 else 0x80
            high = 0x8F if first == 0xF4 else 0xBF
        else:
            raise UnicodeError
        while more:
            if at >= end or not low <= octets[at] <= high:
                raise UnicodeError
            low, high = 0x80, 0xBF
            at += 1
            more -= 1
