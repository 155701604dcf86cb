"""A tiny model as the bytes of its container."""

from maille_protocol import cbor
from maille_protocol.errors import UsageError, WireError
from maille_protocol.tiny.check import check_model
from maille_protocol.tiny.codes import FORMAT_VERSION, MAGIC, MAX_DOCUMENT_BYTES
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
    Requantisation,
    Softmax,
    Tensor,
    TensorDescription,
    Window,
)


def encode_model(model: Model) -> bytes:
    """The container of a model.

    Raises:
        UsageError: the model breaks a rule of the format; the text names the layer.
    """
    try:
        check_model(model)
    except WireError as error:
        raise UsageError(str(error)) from error
    data = cbor.encode(document(model))
    if len(data) > MAX_DOCUMENT_BYTES:
        raise UsageError(f"the model takes {len(data)} bytes, {MAX_DOCUMENT_BYTES} are allowed")
    return data


def document(model: Model) -> list[cbor.Plain]:
    """The container as nested arrays, without any check."""
    largest_layer, largest_layer_bytes = largest(model)
    return [
        MAGIC,
        FORMAT_VERSION,
        model.arena_bytes,
        model.peak_layer,
        largest_layer,
        largest_layer_bytes,
        model.layer_kinds,
        model.multiply_accumulates,
        [_tensor(tensor) for tensor in model.inputs],
        [_tensor(tensor) for tensor in model.outputs],
        [layer_fields(layer) for layer in model.layers],
        model.self_tests,
        cbor.encode(_description(model.description)),
    ]


def largest(model: Model) -> tuple[int, int]:
    """Index and encoded bytes of the largest layer, the first of equals."""
    sizes = [len(cbor.encode(layer_fields(layer))) for layer in model.layers]
    size = max(sizes, default=0)
    return (sizes.index(size) if sizes else 0), size


def layer_fields(layer: Layer) -> list[cbor.Plain]:
    """The array of one layer."""
    head: list[cbor.Plain] = [int(layer.KIND), layer.input, layer.output]
    match layer:
        case Dense():
            return [
                *(*head, layer.flags, layer.input_count, layer.output_count),
                *(*_requantisation(layer.requantisation), layer.weights),
            ]
        case Conv2d() | DepthwiseConv2d():
            return [
                *(*head, layer.flags, *_window(layer.window), layer.pad_value),
                *(*_requantisation(layer.requantisation), layer.weights),
            ]
        case AveragePool():
            return [
                *(*head, layer.flags, *_window(layer.window), layer.pad_value),
                *_requantisation(layer.requantisation),
            ]
        case MaxPool():
            return [*head, layer.flags, *_window(layer.window)]
        case Add():
            return [
                *(*head, layer.second_input, layer.count, layer.weight, layer.second_weight),
                *_requantisation(layer.requantisation),
            ]
        case Lookup() | Softmax():
            return [*head, layer.count, layer.table]
        case ArgMax():
            return [*head, int(layer.element_type), layer.count]
        case Forest():
            return [
                *(*head, layer.feature_count, layer.output_count),
                *(layer.bases, layer.roots, layer.nodes, layer.leaves),
            ]


def _tensor(tensor: Tensor) -> cbor.Plain:
    return [int(tensor.element_type), tensor.count, tensor.offset]


def _requantisation(value: Requantisation) -> tuple[int, int, int, bytes]:
    return value.zero, value.low, value.high, value.channels


def _window(window: Window) -> tuple[int, ...]:
    return (
        *(window.input_height, window.input_width, window.input_channels),
        *(window.output_height, window.output_width, window.output_channels),
        *(window.kernel_height, window.kernel_width),
        *(window.stride_height, window.stride_width, window.pad_top, window.pad_left),
    )


def _description(description: Description) -> cbor.Plain:
    return [
        description.name,
        [_tensor_description(tensor) for tensor in description.inputs],
        [_tensor_description(tensor) for tensor in description.outputs],
        list(description.layer_names),
    ]


def _tensor_description(tensor: TensorDescription) -> cbor.Plain:
    return [
        tensor.name,
        list(tensor.shape),
        list(tensor.order),
        [
            [
                *(value.scale_mantissa, value.scale_exponent),
                *(value.offset_mantissa, value.offset_exponent),
            ]
            for value in tensor.quantisations
        ],
        list(tensor.labels),
    ]
