"""A tiny model from the bytes of its container. Strict: one model has exactly one encoding."""

from collections.abc import Sequence
from math import prod

from maille_protocol import cbor, fields
from maille_protocol.errors import WireError
from maille_protocol.limits import MAX_DIMENSIONS, MAX_UINT64
from maille_protocol.tiny.check import check_model
from maille_protocol.tiny.codes import (
    FORMAT_VERSION,
    MAGIC,
    MAX_ARENA_BYTES,
    MAX_DOCUMENT_BYTES,
    MAX_LABELS,
    MAX_LAYERS,
    MAX_NAME_CHARACTERS,
    MAX_SIZE,
    MAX_TENSORS,
    ElementType,
    LayerKind,
)
from maille_protocol.tiny.encode import document
from maille_protocol.tiny.model import (
    Add,
    ArgMax,
    AveragePool,
    Conv2d,
    Dense,
    DepthwiseConv2d,
    Description,
    Forest,
    Layer,
    Lookup,
    MaxPool,
    Model,
    Quantisation,
    Requantisation,
    Softmax,
    Tensor,
    TensorDescription,
    Window,
)

_HEADER = (
    *("arena_bytes", "peak_layer", "largest_layer", "largest_layer_bytes"),
    *("layer_kinds", "multiply_accumulates"),
)
_FIELD_COUNTS = {
    LayerKind.DENSE: 11,
    LayerKind.CONV2D: 22,
    LayerKind.DEPTHWISE_CONV2D: 22,
    LayerKind.MAX_POOL: 16,
    LayerKind.AVERAGE_POOL: 21,
    LayerKind.ADD: 11,
    LayerKind.LOOKUP: 5,
    LayerKind.ARG_MAX: 5,
    LayerKind.SOFTMAX: 5,
    LayerKind.FOREST: 9,
}
_MAX_EXPONENT = 127
_MAX_MANTISSA = (1 << 31) - 1


def is_tiny(head: bytes) -> bool:
    """Whether a file that starts so (6 bytes are enough) is a tiny model of any version."""
    return len(head) >= 6 and head[0] >> 5 == 4 and head[1:6] == b"\x64tiny"


def decode_model(data: bytes) -> Model:
    """The model in a container.

    Raises:
        WireError: not a container of this version, breaks a rule of the format (the text names
            the layer), or is not in the one deterministic encoding.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise WireError(f"a tiny model of {len(data)} bytes, {MAX_DOCUMENT_BYTES} are allowed")
    if not is_tiny(data[:6]):
        raise WireError("not a tiny model: it does not start with its magic")
    value = cbor.decode(data)
    if type(value) is not list or len(value) < 2 or value[0] != MAGIC:
        raise WireError("not a tiny model: it does not start with its magic")
    version = fields.uint(value[1], MAX_UINT64, "format version")
    if version != FORMAT_VERSION:
        raise WireError(f"tiny format version {version}, this reader knows {FORMAT_VERSION}")
    fields.array(value, 13, "tiny model")
    header = [
        fields.uint(number, MAX_UINT64, name)
        for name, number in zip(_HEADER, value[2:8], strict=True)
    ]
    layers = _list(value[10], MAX_LAYERS, "layers")
    model = Model(
        tuple(_tensor(item, "input") for item in _list(value[8], MAX_TENSORS, "inputs")),
        tuple(_tensor(item, "output") for item in _list(value[9], MAX_TENSORS, "outputs")),
        tuple(_layer(item, index) for index, item in enumerate(layers)),
        _bytes(value[11], "self-tests"),
        _description(cbor.decode(_bytes(value[12], "description"))),
    )
    check_model(model)
    wanted = document(model)
    for name, given, made in zip(_HEADER, header, wanted[2:8], strict=True):
        if given != made:
            raise WireError(f"header: {name} is {given}, the layers make it {made!r}")
    if cbor.encode(wanted) != data:
        raise WireError("tiny model: not in the deterministic encoding")
    return model


def _layer(value: object, index: int) -> Layer:
    name = f"layer {index}"
    if type(value) is not list or not value:
        raise WireError(f"{name}: expected an array, got {fields.describe(value)}")
    kind = fields.code(value[0], LayerKind, f"{name} kind")
    name = f"layer {index} ({kind.name.lower()})"
    items = fields.array(value, _FIELD_COUNTS[kind], name)
    source = fields.uint(items[1], MAX_ARENA_BYTES, f"{name} input offset")
    target = fields.uint(items[2], MAX_ARENA_BYTES, f"{name} output offset")
    match kind:
        case LayerKind.DENSE:
            return Dense(
                source,
                target,
                fields.uint(items[3], 255, f"{name} flags"),
                _size(items[4], f"{name} inputs"),
                _size(items[5], f"{name} outputs"),
                _requantisation(items[6:10], name),
                _bytes(items[10], f"{name} weights"),
            )
        case LayerKind.ADD:
            return Add(
                source,
                target,
                fields.uint(items[3], MAX_ARENA_BYTES, f"{name} second input offset"),
                _size(items[4], f"{name} count"),
                fields.uint(items[5], MAX_SIZE, f"{name} weight"),
                fields.uint(items[6], MAX_SIZE, f"{name} second weight"),
                _requantisation(items[7:11], name),
            )
        case LayerKind.LOOKUP | LayerKind.SOFTMAX:
            build = Lookup if kind is LayerKind.LOOKUP else Softmax
            return build(
                source,
                target,
                _size(items[3], f"{name} count"),
                _bytes(items[4], f"{name} table"),
            )
        case LayerKind.ARG_MAX:
            return ArgMax(
                source,
                target,
                fields.code(items[3], ElementType, f"{name} element type"),
                _size(items[4], f"{name} count"),
            )
        case LayerKind.FOREST:
            return Forest(
                source,
                target,
                _size(items[3], f"{name} features"),
                _size(items[4], f"{name} outputs"),
                _bytes(items[5], f"{name} bases"),
                _bytes(items[6], f"{name} roots"),
                _bytes(items[7], f"{name} nodes"),
                _bytes(items[8], f"{name} leaves"),
            )
        case (
            LayerKind.CONV2D
            | LayerKind.DEPTHWISE_CONV2D
            | LayerKind.MAX_POOL
            | LayerKind.AVERAGE_POOL
        ):
            return _windowed(kind, items, name)


def _windowed(kind: LayerKind, items: Sequence[object], name: str) -> Layer:
    source = fields.uint(items[1], MAX_ARENA_BYTES, name)
    target = fields.uint(items[2], MAX_ARENA_BYTES, name)
    flags = fields.uint(items[3], 255, f"{name} flags")
    window = Window(
        *(_size(item, f"{name} window") for item in items[4:14]),
        *(fields.uint(item, MAX_SIZE, f"{name} padding") for item in items[14:16]),
    )
    if kind is LayerKind.MAX_POOL:
        return MaxPool(source, target, flags, window)
    pad_value = fields.uint(items[16], 255, f"{name} pad value")
    requantisation = _requantisation(items[17:21], name)
    if kind is LayerKind.AVERAGE_POOL:
        return AveragePool(source, target, flags, window, pad_value, requantisation)
    build = Conv2d if kind is LayerKind.CONV2D else DepthwiseConv2d
    weights = _bytes(items[21], f"{name} weights")
    return build(source, target, flags, window, pad_value, requantisation, weights)


def _requantisation(items: Sequence[object], name: str) -> Requantisation:
    return Requantisation(
        fields.uint(items[0], 255, f"{name} zero point"),
        fields.uint(items[1], 255, f"{name} low"),
        fields.uint(items[2], 255, f"{name} high"),
        _bytes(items[3], f"{name} channels"),
    )


def _tensor(value: object, name: str) -> Tensor:
    items = fields.array(value, 3, name)
    return Tensor(
        fields.code(items[0], ElementType, f"{name} element type"),
        _size(items[1], f"{name} count"),
        fields.uint(items[2], MAX_ARENA_BYTES, f"{name} offset"),
    )


def _description(value: object) -> Description:
    items = fields.array(value, 4, "description")
    return Description(
        fields.text(items[0], "name", MAX_NAME_CHARACTERS),
        _tensor_descriptions(items[1], "described inputs"),
        _tensor_descriptions(items[2], "described outputs"),
        tuple(
            fields.text(item, "layer name", MAX_NAME_CHARACTERS)
            for item in _list(items[3], MAX_LAYERS, "layer names")
        ),
    )


def _tensor_descriptions(value: object, name: str) -> tuple[TensorDescription, ...]:
    return tuple(_tensor_description(item, name) for item in _list(value, MAX_TENSORS, name))


def _tensor_description(value: object, name: str) -> TensorDescription:
    items = fields.array(value, 5, name)
    shape = tuple(_size(item, f"{name} shape") for item in _list(items[1], MAX_DIMENSIONS, name))
    if prod(shape) > MAX_SIZE:
        raise WireError(f"{name}: shape {list(shape)} has more than {MAX_SIZE} elements")
    order = tuple(
        fields.uint(item, MAX_DIMENSIONS, f"{name} order")
        for item in _list(items[2], MAX_DIMENSIONS, name)
    )
    return TensorDescription(
        fields.text(items[0], f"{name} name", MAX_NAME_CHARACTERS),
        shape,
        order,
        tuple(_quantisation(item, name) for item in _list(items[3], MAX_SIZE, name)),
        tuple(_label(item, name) for item in _list(items[4], MAX_LABELS, name)),
    )


def _quantisation(value: object, name: str) -> Quantisation:
    items = fields.array(value, 4, f"{name} quantisation")
    numbers = [
        _signed(item, maximum, f"{name} quantisation")
        for item, maximum in zip(items, (_MAX_MANTISSA, _MAX_EXPONENT) * 2, strict=True)
    ]
    return Quantisation(*numbers)


def _label(value: object, name: str) -> int | str:
    if type(value) is str:
        return fields.text(value, f"{name} label", MAX_NAME_CHARACTERS)
    return _signed(value, _MAX_MANTISSA, f"{name} label")


def _signed(value: object, maximum: int, name: str) -> int:
    if type(value) is not int or not -maximum <= value <= maximum:
        raise WireError(f"{name}: expected at most {maximum}, got {fields.describe(value)}")
    return value


def _size(value: object, name: str) -> int:
    size = fields.uint(value, MAX_SIZE, name)
    if size == 0:
        raise WireError(f"{name}: 0 is not possible")
    return size


def _list(value: object, maximum: int, name: str) -> list[object]:
    if type(value) is not list or len(value) > maximum:
        raise WireError(f"{name}: expected at most {maximum} items, got {fields.describe(value)}")
    return value


def _bytes(value: object, name: str) -> bytes:
    if type(value) is not bytes:
        raise WireError(f"{name}: expected a byte string, got {fields.describe(value)}")
    return value
