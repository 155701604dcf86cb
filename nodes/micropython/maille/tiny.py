"""A tiny model ready to run. `container.py` reads it and checks all that a kernel will touch."""

from . import codes
from .cbor import INT, Reader
from .errors import Refused

UINT8 = 0
INT16 = 1
INT32 = 2

_SIGNED = (INT, (1 << 31) - 1)
_TAGS = (64, 77, 78)


class Tensor:
    """Where an input or output lies, and what it is called on the mesh."""

    def __init__(self, kind: int, count: int, offset: int) -> None:
        self.kind = kind
        self.count = count
        self.offset = offset
        self.size_bytes = count << kind
        self.tag = _TAGS[kind]
        self.name = ""
        self.shape = [count]
        self.quantisations = 0


class Model:
    """A checked model; made by `container.read_model`.

    Args:
        data: the container; must stay as it is while the model is used.
        arena: memory for activations, of at least the bytes that the model asks for.
    """

    def __init__(self, data, arena: bytearray) -> None:
        self._data = data
        self._arena = arena
        self.steps: list = []
        """(kernel, parameters) of each layer."""
        self.inputs: list = []
        self.outputs: list = []
        self.tests_at = 0
        self.tests_bytes = 0
        self.test_bytes = 1

    # --- running -------------------------------------------------------------------------------

    def run(self) -> None:
        """Compute the outputs in the arena from the inputs in it."""
        arena, data = self._arena, self._data
        for kernel, parameters in self.steps:
            kernel(arena, data, parameters)

    def step(self, index: int) -> None:
        """Compute one layer; for callers that let others run in between."""
        kernel, parameters = self.steps[index]
        kernel(self._arena, self._data, parameters)

    def self_tests(self) -> int:
        """How many tests the model carries."""
        return self.tests_bytes // self.test_bytes

    def self_test(self, index: int) -> bool:
        """Whether one embedded test gives its outputs to the byte."""
        arena = memoryview(self._arena)
        data = memoryview(self._data)
        at = self.tests_at + index * self.test_bytes
        for tensor in self.inputs:
            arena[tensor.offset : tensor.offset + tensor.size_bytes] = data[
                at : at + tensor.size_bytes
            ]
            at += tensor.size_bytes
        self.run()
        for tensor in self.outputs:
            if (
                arena[tensor.offset : tensor.offset + tensor.size_bytes]
                != data[at : at + tensor.size_bytes]
            ):
                return False
            at += tensor.size_bytes
        return True

    def put_inputs(self, tensors: list) -> None:
        """Place (name, tag, shape, bytes) tensors in the arena; Refused names what does not fit."""
        if len(tensors) != len(self.inputs):
            raise Refused(
                codes.INPUT_NAME,
                "{} inputs, the model has {}".format(len(tensors), len(self.inputs)),
            )
        arena = memoryview(self._arena)
        for tensor in self.inputs:
            found = None
            for other in tensors:
                if other[0] == tensor.name:
                    found = other
            if found is None:
                raise Refused(codes.INPUT_NAME, "input {} is missing".format(tensor.name))
            _, tag, shape, octets = found
            if {68: 64}.get(tag, tag) != tensor.tag:
                wanted = ("uint8", "int16", "int32")[tensor.kind]
                raise Refused(codes.INPUT_TYPE, "input {} must be {}".format(tensor.name, wanted))
            if shape != tensor.shape:
                raise Refused(
                    codes.INPUT_SHAPE,
                    "input {} must have shape {}".format(tensor.name, tensor.shape),
                )
            arena[tensor.offset : tensor.offset + tensor.size_bytes] = octets

    def put_reals(self, values) -> None:
        """Quantise real numbers into the only input, as its description says."""
        tensor = self.inputs[0]
        reader = Reader(self._data)
        reader.at = tensor.quantisations
        several = reader.count() > 1
        scale = offset = 0.0
        low, high = (0, 255) if tensor.kind == UINT8 else (-32768, 32767)
        arena = self._arena
        at = tensor.offset
        for index in range(tensor.count):
            if several or index == 0:
                reader.array(4)
                scale = reader.read(_SIGNED) * 2.0 ** reader.read(_SIGNED)
                offset = reader.read(_SIGNED) * 2.0 ** reader.read(_SIGNED)
            value = min(max(round((values[index] - offset) / scale), low), high)
            arena[at] = value & 255
            if tensor.kind == INT16:
                arena[at + 1] = value >> 8 & 255
                at += 1
            at += 1

    def take_outputs(self) -> list:
        """(name, tag, shape, view of the arena) of the outputs."""
        arena = memoryview(self._arena)
        return [
            (t.name, t.tag, t.shape, arena[t.offset : t.offset + t.size_bytes])
            for t in self.outputs
        ]
