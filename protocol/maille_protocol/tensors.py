"""Named tensors as bytes: `[[name, tensor], ...]`, each tensor as RFC 8746 writes it.

A tensor is tag 40 over `[shape, elements]`. Elements of a numeric type are a typed array
(little-endian when written, either order when read); booleans and texts are a plain CBOR array.
"""

from collections.abc import Mapping
from math import prod
from typing import TypeAlias

import cbor2
import numpy as np
import numpy.typing as npt

from maille_protocol import cbor, fields
from maille_protocol.errors import UsageError, WireError
from maille_protocol.limits import MAX_DIMENSIONS, MAX_TENSORS

Array: TypeAlias = npt.NDArray[np.generic]

_MULTI_DIMENSIONAL = 40
_TAG_OF_TYPE = {
    "|u1": 64,
    "<u2": 69,
    "<u4": 70,
    "<u8": 71,
    "|i1": 72,
    "<i2": 77,
    "<i4": 78,
    "<i8": 79,
    "<f2": 84,
    "<f4": 85,
    "<f8": 86,
}
_TYPE_OF_TAG = {
    **{tag: np.dtype(name) for name, tag in _TAG_OF_TYPE.items()},
    65: np.dtype(">u2"),
    66: np.dtype(">u4"),
    67: np.dtype(">u8"),
    68: np.dtype("|u1"),
    73: np.dtype(">i2"),
    74: np.dtype(">i4"),
    75: np.dtype(">i8"),
    80: np.dtype(">f2"),
    81: np.dtype(">f4"),
    82: np.dtype(">f8"),
}
_MAX_NAME_CHARACTERS = 256
_MAX_ELEMENTS = 1 << 40
"""Of one tensor, counting dimensions of size 0 as 1: NumPy refuses what overflows an address."""


def encode_tensors(tensors: Mapping[str, Array]) -> bytes:
    """The bytes of `tensors`, in the mapping's order.

    Raises:
        UsageError: a type that the wire cannot carry (complex, date, structured, ...), or too
            many tensors, dimensions or characters in a name.
    """
    if len(tensors) > MAX_TENSORS:
        raise UsageError(f"{len(tensors)} tensors, {MAX_TENSORS} are allowed in one task")
    return cbor.encode([[name, _encode(name, array)] for name, array in tensors.items()])


def decode_tensors(data: bytes) -> dict[str, Array]:
    """The tensors in `data`; numeric arrays are read-only views of it.

    Raises:
        WireError: malformed, too many, twice the same name, or elements that do not fill the shape.
    """
    value = cbor.decode(data)
    if type(value) is not list or len(value) > MAX_TENSORS:
        raise WireError(f"tensors: expected at most {MAX_TENSORS}, got {fields.describe(value)}")
    tensors: dict[str, Array] = {}
    for item in value:
        name, tensor = fields.array(item, 2, "named tensor")
        key = fields.text(name, "tensor name", _MAX_NAME_CHARACTERS)
        if key in tensors:
            raise WireError(f"tensors: {key!r} twice")
        tensors[key] = _decode(key, tensor)
    return tensors


def _encode(name: str, array: Array) -> cbor2.CBORTag:
    if len(name) > _MAX_NAME_CHARACTERS:
        raise UsageError(f"tensor name of {len(name)} characters, at most {_MAX_NAME_CHARACTERS}")
    if array.ndim > MAX_DIMENSIONS:
        raise UsageError(f"{name}: {array.ndim} dimensions, {MAX_DIMENSIONS} are allowed")
    dtype = array.dtype
    tag = _TAG_OF_TYPE.get(dtype.newbyteorder("<").str)
    if tag is not None:
        little = np.ascontiguousarray(array, dtype=dtype.newbyteorder("<"))
        elements: cbor.Plain = cbor2.CBORTag(tag, little.tobytes())
    elif dtype.kind == "b" or _is_text(array):
        elements = array.ravel().tolist()
    else:
        raise UsageError(f"{name}: type {dtype} cannot be sent; use a number, bool or text type")
    return cbor2.CBORTag(_MULTI_DIMENSIONAL, [list(array.shape), elements])


def _is_text(array: Array) -> bool:
    return array.dtype.kind == "U" or (
        array.dtype.kind == "O" and all(isinstance(item, str) for item in array.ravel().tolist())
    )


def _decode(name: str, value: object) -> Array:
    if type(value) is not cbor2.CBORTag or value.tag != _MULTI_DIMENSIONAL:
        raise WireError(f"{name}: not a tensor (RFC 8746 tag 40)")
    shape_field, elements = fields.array(value.value, 2, name)
    if not isinstance(shape_field, list | tuple) or len(shape_field) > MAX_DIMENSIONS:
        raise WireError(f"{name}: shape has more than {MAX_DIMENSIONS} dimensions or is no array")
    shape = tuple([fields.uint(size, _MAX_ELEMENTS, f"{name} shape") for size in shape_field])
    if prod([max(size, 1) for size in shape]) > _MAX_ELEMENTS:
        raise WireError(f"{name}: shape {list(shape)} is too large")
    count = prod(shape)
    if type(elements) is cbor2.CBORTag:
        dtype = _TYPE_OF_TAG.get(elements.tag)
        data = elements.value
        if dtype is None or type(data) is not bytes:
            raise WireError(f"{name}: tag {elements.tag} is not a typed array")
        if len(data) != count * dtype.itemsize:
            raise WireError(
                f"{name}: {len(data)} bytes do not fill shape {list(shape)} of {dtype.name}"
            )
        array: Array = np.frombuffer(data, dtype=dtype).reshape(shape)
        return array if dtype.isnative else array.astype(dtype.newbyteorder("="))
    if not isinstance(elements, list | tuple) or len(elements) != count:
        raise WireError(f"{name}: elements do not fill shape {list(shape)}")
    kinds = {type(element) for element in elements}
    if kinds <= {bool}:
        return np.array(elements, dtype=np.bool_).reshape(shape)
    if kinds == {str}:
        return np.array(elements, dtype=np.object_).reshape(shape)
    raise WireError(f"{name}: elements are neither all true/false nor all text")
