"""Topics and messages of a board: what it takes in is parsed here, what it says is packed here."""

from . import codes
from .cbor import (
    ARRAY,
    BYTES,
    CODE,
    CONTENT,
    FLAG,
    LIST,
    MAX_ARTEFACT_BYTES,
    MORE,
    OPTIONAL,
    TEXT,
    UINT,
    Reader,
    Writer,
    is_id,
)
from .errors import WireError

_UINT32 = (UINT, (1 << 32) - 1)
_UINT64 = (UINT, (1 << 64) - 1)
_TASK_ID = (BYTES, 16, 16)
_SHA256 = (BYTES, 32, 32)
_NAME = (TEXT, 64)
_FREE = (TEXT, 2000)
_MODEL = (ARRAY, _NAME, _UINT32, _SHA256, (UINT, MAX_ARTEFACT_BYTES), (CODE, b"\1\2\3\4"))

BODIES = {
    codes.OFFERS: (
        ARRAY,
        _MODEL,
        (LIST, (MORE, _TASK_ID, _UINT32, _UINT64, (UINT, 255), (CONTENT,), _UINT64)),
    ),
    codes.CANCEL: (LIST, (ARRAY, _TASK_ID, _UINT32)),
    codes.CONTROL: (ARRAY, (CODE, b"\1\2\3\4"), _UINT64, _FREE),
    codes.COORDINATOR_STATE: (ARRAY, (FLAG,), (TEXT, 200)),
    codes.MODEL_ORDER: (ARRAY, (CODE, b"\1\2\3\4"), (OPTIONAL, _MODEL), _UINT32),
    codes.CHUNK: (ARRAY, _SHA256, (UINT, MAX_ARTEFACT_BYTES), (BYTES, 0, codes.MAX_CHUNK_BYTES)),
    codes.SENSE_ORDER: (
        ARRAY,
        (CODE, b"\1\2"),
        _UINT32,
        (OPTIONAL, _SHA256),
        (TEXT, 32),
        _UINT32,
        (CODE, b"\0\1"),
    ),
}
"""What a board takes in: by message type, the schema of the body."""

_DOWN = {
    b"task": codes.OFFERS,
    b"cancel": codes.CANCEL,
    b"ctl": codes.CONTROL,
    b"model": codes.MODEL_ORDER,
    b"blob": codes.CHUNK,
    b"sense": codes.SENSE_ORDER,
}

_UP = {
    codes.NODE_STATUS: "/state",
    codes.NODE_INFO: "/info",
    codes.HEARTBEAT: "/up/hb",
    codes.RESULTS: "/up/res",
    codes.LOG: "/up/log",
    codes.MODEL_REPORT: "/up/model",
    codes.READINGS: "/up/sense",
    codes.BOARD_STATE: "/up/board",
}

RETAINED = (codes.NODE_STATUS, codes.NODE_INFO)
"""Types that are published at QoS 1 and kept by the broker; all others at QoS 0 and not."""


class Topics:
    """The topics of one board, built once.

    Args:
        mesh: id of the mesh.
        node: id of this board.
    """

    def __init__(self, mesh: str, node: str) -> None:
        if not is_id(mesh) or not is_id(node):
            raise ValueError("mesh and id: 1 to 32 of a-z, 0-9 and inner hyphens")
        root = "maille/{}/{}".format(codes.PROTOCOL_VERSION, mesh)
        own = "{}/n/{}".format(root, node)
        self.up = {kind: (own + suffix).encode() for kind, suffix in _UP.items()}
        self._down = (own + "/dn/").encode()
        self._coordinators = (root + "/c/").encode()
        self.subscriptions = ((self._down + b"#", 0), (self._coordinators + b"+", 1))

    def type_of(self, topic: "bytes | memoryview") -> int:
        """The message type that belongs on a topic; 0 if this board hears nothing there."""
        length = len(self._down)
        if topic[:length] == self._down:
            return _DOWN.get(bytes(topic[length:]), 0)
        length = len(self._coordinators)
        if topic[:length] == self._coordinators and len(topic) <= length + 32:
            try:
                name = str(topic[length:], "utf-8")
            except UnicodeError:
                return 0
            return codes.COORDINATOR_STATE if is_id(name) else 0
        return 0


def unpack(expected: int, data: "bytes | memoryview"):
    """(boot, seq, epoch, body) of a publish that must be of the `expected` type; WireError.

    Contents in the body are views of `data`.
    """
    reader = Reader(data)
    reader.array(6)
    if reader.number(255) != codes.PROTOCOL_VERSION:
        raise WireError("another protocol version")
    if reader.number(255) != expected:
        raise WireError("a message that does not belong on this topic")
    boot = reader.read(_UINT64)
    seq = reader.read(_UINT64)
    epoch = reader.read(_UINT64)
    body = reader.read(BODIES[expected])
    reader.ended()
    if expected == codes.OFFERS:
        for offer in body[1]:
            # Offers of tasks that run at most once, and only they, name a process.
            if len(offer) != 5 + (offer[3] & codes.AT_MOST_ONCE) or (
                len(offer) > 5 and not offer[5]
            ):
                raise WireError("at-most-once offers, and no others, have a boot")
    return boot, seq, epoch, body


def pack(writer: Writer, kind: int, boot: int, seq: int, epoch: int, body) -> memoryview:
    """The bytes of one publish, in the writer's buffer; TooLarge."""
    writer.at = 0
    writer.write((codes.PROTOCOL_VERSION, kind, boot, seq, epoch, body))
    return writer.view[: writer.at]
