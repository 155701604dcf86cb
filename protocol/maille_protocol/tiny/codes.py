"""Codes and limits of the tiny format. `make_constants.py` writes them for MicroPython and C++."""

from enum import IntEnum

MAGIC = "tiny"
FORMAT_VERSION = 1

MAX_DOCUMENT_BYTES = 1024 * 1024
MAX_ARENA_BYTES = 1 << 20
MAX_LAYERS = 255
MAX_TENSORS = 8
"""Inputs, and outputs, of one model."""

MAX_SIZE = 65535
"""Any height, width, channel or element count; fits 16 bits unsigned."""

MAX_POOL_ELEMENTS = 32768
"""Elements under one window of an average pool: their sum always fits 24 bits."""

MAX_CLASSES = 256
"""Elements of an arg-max or softmax: an index fits one byte."""

MIN_SELF_TESTS = 8
"""What the converter embeds; a reader takes one or more."""

MAX_SELF_TESTS_BYTES = 64 * 1024
MAX_NAME_CHARACTERS = 64
MAX_LABELS = MAX_CLASSES

WEIGHT_OFFSET = 128
"""A stored weight is the weight plus this."""

CHANNEL_BYTES = 7
"""Bias int32, multiplier uint16, shift uint8; all little-endian."""

MAX_MULTIPLIER = 32768
MAX_SHIFT = 31
LOOKUP_BYTES = 256
MAX_SOFTMAX_ENTRIES = 256

TREE_NODE_BYTES = 5
"""Feature uint8, threshold int16, jump uint16; all little-endian."""

TREE_LEAF = 255
"""A feature of this value marks a leaf."""

MAX_FEATURES = 255
MAX_TREE_NODES = 65535
MAX_TREES = 1024

FLAG_ACCUMULATOR_24 = 1
"""Set exactly where no input can take an accumulator of the layer out of 24 signed bits."""


class ElementType(IntEnum):
    """What a tensor in the arena consists of; wider ones little-endian, at aligned offsets."""

    UINT8 = 0
    INT16 = 1
    INT32 = 2

    @property
    def size_bytes(self) -> int:
        """Bytes of one element."""
        return 1 << self

    @property
    def dtype(self) -> str:
        """NumPy's name of it, which is also that of a signature."""
        return self.name.lower()


class LayerKind(IntEnum):
    """First element of a layer."""

    DENSE = 1
    CONV2D = 2
    DEPTHWISE_CONV2D = 3
    MAX_POOL = 4
    AVERAGE_POOL = 5
    ADD = 6
    LOOKUP = 7
    ARG_MAX = 8
    SOFTMAX = 9
    FOREST = 10
