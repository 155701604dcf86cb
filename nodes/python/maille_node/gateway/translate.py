"""Tensors of the mesh to a board's bytes and back."""

from collections.abc import Sequence

import numpy as np

from maille_node.errors import TaskProblem
from maille_protocol import ErrorCode, WireError
from maille_protocol.contents import Content
from maille_protocol.signature import check_inputs
from maille_protocol.tensors import Array, decode_tensors, encode_tensors
from maille_protocol.tiny import Model, signature


def board_inputs(model: Model, content: Content) -> tuple[bytes, ...]:
    """The elements of each input, in the model's order.

    Raises:
        TaskProblem: the content is not what the model takes.
    """
    if not isinstance(content, bytes):
        text = "the inputs are an artefact, a board takes them in the offer only"
        raise TaskProblem(ErrorCode.INPUT_TOO_LARGE, text)
    try:
        tensors = decode_tensors(content)
    except WireError as error:
        raise TaskProblem(ErrorCode.INPUT_MALFORMED, str(error)) from error
    specs, _ = signature(model)
    mismatch = check_inputs(specs, tensors)
    if mismatch is not None:
        raise TaskProblem(mismatch.code, mismatch.text)
    return tuple(
        np.ascontiguousarray(tensors[spec.name], np.dtype(spec.dtype).newbyteorder("<")).tobytes()
        for spec in specs
    )


def mesh_outputs(model: Model, outputs: Sequence[bytes]) -> bytes:
    """Encoded tensors of what a board's run gave.

    Raises:
        TaskProblem: the bytes are not what the model gives.
    """
    _, specs = signature(model)
    if len(outputs) != len(specs):
        text = f"the board gave {len(outputs)} outputs, the model has {len(specs)}"
        raise TaskProblem(ErrorCode.NODE_ERROR, text)
    arrays: dict[str, Array] = {}
    for spec, data in zip(specs, outputs, strict=True):
        dtype = np.dtype(spec.dtype)
        shape = tuple(size for size in spec.shape if isinstance(size, int))
        if len(data) != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
            text = f"output {spec.name!r} of the board has {len(data)} bytes, not those of {spec}"
            raise TaskProblem(ErrorCode.NODE_ERROR, text)
        arrays[spec.name] = (
            np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(shape)
        )
    return encode_tensors(arrays)
