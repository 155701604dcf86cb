"""A tiny model from its container, checked and made ready to run.

The container's bytes stay where they are: weights are read in place. Everything that a kernel
will touch is checked here, so that no model, however made, leads beyond the arena or the model or
into a loop without end. A board needs this module only while it takes a model, and forgets it then.
"""

from array import array

from . import codes
from .cbor import Reader
from .errors import Refused, WireError
from .kernels import choose
from .tiny import Model, Tensor

MAX_LAYERS = 255
MAX_OPERATIONS = 1 << 28
"""Inner steps of one run; more would hold up the board for minutes."""

_MAX_SIZE = 65535

DENSE = 1
CONV2D = 2
DEPTHWISE = 3
MAX_POOL = 4
AVERAGE_POOL = 5
ADD = 6
LOOKUP = 7
ARG_MAX = 8
SOFTMAX = 9
FOREST = 10

_FIELDS = b"\0\x0b\x16\x16\x10\x15\x0b\x05\x05\x05\x09"
"""Elements of a layer's array, by its kind."""


def read_model(data, arena: bytearray, kernels=None) -> Model:
    """A model that can be run in `arena`.

    Args:
        data: the container; must stay as it is while the model is used.
        arena: memory for activations.
        kernels: the module of kernels; the fastest that works if left out.

    Raises:
        Refused: it is none, or asks for more than this board has; the text names the layer.
    """
    try:
        return _Loader(data, arena, kernels or choose()).model
    except WireError as error:
        raise Refused(codes.MODEL_INVALID, "the model is damaged: {}".format(error)) from None


class _Loader:
    def __init__(self, data, arena: bytearray, kernels) -> None:
        self._data = data
        self._arena = arena
        self._kernels = kernels
        self._operations = 0
        self.model = Model(data, arena)
        self._load()

    def _load(self) -> None:
        reader = Reader(self._data)
        self._reader = reader
        if reader.head() != 4 or reader.value < 2 or bytes(reader.octets(3)) != b"tiny":
            raise WireError("no tiny model")
        version = reader.number(0xFFFFFFFF)
        if version != codes.TINY_FORMAT_VERSION:
            raise Refused(
                codes.UNSUPPORTED_FORMAT,
                "the model has version {} of the tiny format, this board knows {}".format(
                    version, codes.TINY_FORMAT_VERSION
                ),
            )
        reader.at = 0
        reader.array(13)
        reader.octets(3)
        reader.head()
        self.arena_bytes = reader.number(0xFFFFFFFF)
        peak = reader.number(0xFFFFFFFF)
        if self.arena_bytes > len(self._arena):
            raise Refused(
                codes.MODEL_TOO_LARGE,
                "layer {} needs an arena of {} bytes, this board has {}".format(
                    peak, self.arena_bytes, len(self._arena)
                ),
            )
        for _ in range(4):
            reader.number(0xFFFFFFFF)
        model = self.model
        model.inputs = self._tensors()
        model.outputs = self._tensors()
        layers = reader.count()
        if not 1 <= layers <= MAX_LAYERS:
            raise WireError("number of layers")
        for index in range(layers):
            try:
                self._layer()
            except WireError as error:
                raise WireError("layer {}: {}".format(index, error)) from None
        model.tests_at = self._place()
        model.tests_bytes = reader.value
        model.test_bytes = sum([t.size_bytes for t in model.inputs + model.outputs])
        if not model.tests_bytes or model.tests_bytes % model.test_bytes:
            raise WireError("self-tests of another length")
        start = self._place()
        reader.ended()
        self._describe(Reader(memoryview(self._data)[start:]), start)

    def _tensors(self) -> list:
        reader = self._reader
        count = reader.count()
        if not 1 <= count <= 8:
            raise WireError("number of tensors")
        tensors = []
        for _ in range(count):
            reader.array(3)
            kind = reader.number(2)
            tensor = Tensor(kind, self._size(), reader.number(self.arena_bytes))
            if tensor.offset + tensor.size_bytes > self.arena_bytes:
                raise WireError("a tensor beyond the arena")
            if tensor.offset & ((1 << kind) - 1):
                raise WireError("a tensor that is not aligned")
            tensors.append(tensor)
        return tensors

    def _describe(self, reader: Reader, start: int) -> None:
        """Take the names and shapes that tensors have on the mesh, and where their scales stand."""
        reader.array(4)
        reader.text(64)
        for tensors in (self.model.inputs, self.model.outputs):
            reader.array(len(tensors))
            for tensor in tensors:
                reader.array(5)
                tensor.name = reader.text(64)
                shape = [reader.number(_MAX_SIZE) for _ in range(reader.count())]
                order = [reader.number(len(shape)) for _ in range(reader.count())]
                count = 1
                for size in shape:
                    count *= size
                if count != tensor.count or sorted(order) != list(range(len(shape))):
                    raise WireError("a described shape does not fit its tensor")
                tensor.shape = [shape[axis] for axis in order]
                tensor.quantisations = start + reader.at
                skip(reader, 2)

    def _size(self) -> int:
        value = self._reader.number(_MAX_SIZE)
        if value == 0:
            raise WireError("a size of 0")
        return value

    def _place(self, wanted: int = -1) -> int:
        """Offset of a byte string of `wanted` bytes; its length is left in the reader's value."""
        reader = self._reader
        reader.octets(2)
        if wanted >= 0 and reader.value != wanted:
            raise WireError("{} bytes where {} belong".format(reader.value, wanted))
        return reader.at - reader.value

    def _fits(self, offset: int, size_bytes: int) -> int:
        if offset + size_bytes > self.arena_bytes:
            raise WireError("beyond the arena")
        return offset

    def _work(self, operations: int) -> None:
        self._operations += operations
        if self._operations > MAX_OPERATIONS:
            raise WireError("more than {} steps in one run".format(MAX_OPERATIONS))

    def _requantisation(self, records: int) -> list:
        """zero, low, high, offset of the channels' records."""
        number = self._reader.number
        values = [number(255), number(255), number(255), self._place(7 * records)]
        data = self._data
        if values[1] > values[2]:
            raise WireError("low is above high")
        for at in range(values[3], values[3] + 7 * records, 7):
            if data[at + 4] | data[at + 5] << 8 > 32768 or data[at + 6] > 31:
                raise WireError("a multiplier or shift out of range")
        return values

    def _layer(self) -> None:
        reader = self._reader
        number = reader.number
        if reader.head() != 4:
            raise WireError("no array")
        length = reader.value
        kind = number(255)
        if not DENSE <= kind <= FOREST:
            raise Refused(codes.UNSUPPORTED_FORMAT, "unknown kind of layer {}".format(kind))
        if length != _FIELDS[kind]:
            raise WireError("another number of fields")
        source = number(self.arena_bytes)
        target = number(self.arena_bytes)
        if kind == DENSE:
            number(255)
            inputs, outputs = self._size(), self._size()
            self._fits(source, inputs)
            self._fits(target, outputs)
            self._work(inputs * outputs)
            values = self._requantisation(outputs)
            parameters = (
                [source, target, inputs, outputs] + values + [self._place(inputs * outputs)]
            )
        elif kind <= AVERAGE_POOL:
            parameters = self._windowed(kind, source, target)
        elif kind == ADD:
            second = number(self.arena_bytes)
            count = self._size()
            for offset in (source, second, target):
                self._fits(offset, count)
            parameters = [source, target, second, count, number(_MAX_SIZE), number(_MAX_SIZE)]
            parameters += self._requantisation(1)
        elif kind == LOOKUP:
            count = self._size()
            self._fits(source, count)
            parameters = [source, self._fits(target, count), count, self._place(256)]
        elif kind == ARG_MAX:
            element = number(2)
            count = self._size()
            if count > 256:
                raise WireError("more than 256 classes")
            self._fits(source, count << element)
            parameters = [source, self._fits(target, 1), element, count]
        elif kind == SOFTMAX:
            count = self._size()
            if count > 256:
                raise WireError("more than 256 classes")
            self._fits(source, count)
            table = self._place()
            size = reader.value
            data = self._data
            if size % 2 or not 2 <= size <= 512 or not (data[table] or data[table + 1]):
                raise WireError("table")
            parameters = [source, self._fits(target, count), count, table, size // 2]
        else:
            parameters = self._forest(source, target)
        self.model.steps.append((getattr(self._kernels, _KERNELS[kind]), array("i", parameters)))

    def _windowed(self, kind: int, source: int, target: int) -> list:
        reader = self._reader
        reader.number(255)
        window = [self._size() for _ in range(10)] + [reader.number(_MAX_SIZE) for _ in range(2)]
        channels, made = window[2], window[5]
        for axis in (0, 1):
            size, kernel, pad = window[axis], window[6 + axis], window[10 + axis]
            if pad >= kernel or (window[3 + axis] - 1) * window[8 + axis] - pad >= size:
                raise WireError("a window outside its input")
        outputs = window[3] * window[4] * made
        if window[0] * window[1] * channels > _MAX_SIZE or outputs > _MAX_SIZE:
            raise WireError("a tensor is too large")
        self._fits(source, window[0] * window[1] * channels)
        self._fits(target, outputs)
        places = window[6] * window[7]
        self._work(outputs * places * (channels if kind == CONV2D else 1))
        parameters = [source, target] + window
        if kind in (MAX_POOL, AVERAGE_POOL):
            if channels != made:
                raise WireError("a pool changes the channels")
        elif kind == DEPTHWISE and made % channels:
            raise WireError("outputs are no multiple of the inputs")
        if kind == MAX_POOL:
            return parameters
        parameters.append(reader.number(255))
        if kind == AVERAGE_POOL:
            return parameters + self._requantisation(1)
        parameters += self._requantisation(made)
        parameters.append(self._place(made * places * (channels if kind == CONV2D else 1)))
        return parameters

    def _forest(self, source: int, target: int) -> list:
        reader = self._reader
        data = self._data
        features, outputs = self._size(), self._size()
        if features > 255 or outputs > 256:
            raise WireError("too many features or outputs")
        self._fits(source, 2 * features)
        self._fits(target, 4 * outputs)
        if source & 1 or target & 3:
            raise WireError("a tensor that is not aligned")
        bases = self._place(4 * outputs)
        roots = self._place()
        trees = reader.value // 2
        if reader.value % 2 or not 1 <= trees <= 1024:
            raise WireError("roots")
        nodes = self._place()
        count = reader.value // 5
        if reader.value % 5 or not count:
            raise WireError("nodes")
        leaves = self._place()
        rows = reader.value // (2 * outputs)
        if reader.value % (2 * outputs) or not rows:
            raise WireError("leaves")
        for tree in range(trees):
            if (data[roots + 2 * tree] | data[roots + 2 * tree + 1] << 8) >= count:
                raise WireError("a root beyond the nodes")
        for index in range(count):
            at = nodes + 5 * index
            jump = data[at + 3] | data[at + 4] << 8
            if data[at] == 255:
                if (data[at + 1] | data[at + 2] << 8) >= rows:
                    raise WireError("a leaf beyond the rows")
            elif data[at] >= features or not jump or max(jump, 1) + index >= count:
                # Walks go only forward and every one of them meets a leaf.
                raise WireError("a node leads outside")
        if data[nodes + 5 * (count - 1)] != 255:
            raise WireError("the last node is no leaf")
        self._work(trees * (count + outputs))
        return [source, target, outputs, bases, roots, trees, nodes, leaves]


_KERNELS: tuple = ("", "dense", "conv2d", "depthwise", "max_pool", "average_pool", "add", "lookup")
_KERNELS += ("arg_max", "softmax", "forest")


def skip(reader: Reader, count: int) -> None:
    """Step over `count` items of any kind but tags, floats and what has no length."""
    while count:
        count -= 1
        major = reader.head()
        if major == 4:
            count += reader.value
        elif major == 2 or major == 3:
            reader.at += reader.value
        elif major > 1:
            raise WireError("an item that is not allowed")
        if reader.at + count > len(reader.data):
            raise WireError("ends in the middle of an item")
