"""The tiny models of `tiny` and `tiny_bad` as records of `vectors/tiny.json`."""

import numpy as np

from maille_protocol.tensors import Array
from maille_protocol.tiny import Model, encode_model, run
from vector_sources.common import ENCODER, HAND, Json
from vector_sources.tiny import ALL_CASES, TinyCase
from vector_sources.tiny_bad import TINY_BAD


def tiny_vectors() -> dict[str, Json]:
    """Containers to run, and containers to refuse."""
    good: list[Json] = [_good(case) for case in ALL_CASES]
    bad: list[Json] = [
        {"name": bad.name, "why": bad.why, "hex": bad.data.hex(), "board": bad.board}
        for bad in TINY_BAD
    ]
    return {
        "about": "Tiny models (TINY.md). hex: the container; runs: bytes of all inputs in order,"
        " then of all outputs. origin by hand: the outputs were worked out by hand. board: a board"
        " must refuse it too; else it may run it, and must survive that.",
        "good": good,
        "bad": bad,
    }


def _good(case: TinyCase) -> Json:
    runs: list[Json] = []
    for index, given in enumerate(case.inputs):
        outputs = output_bytes(case.model, given)
        if case.wanted and case.wanted[index] != outputs:
            raise ValueError(f"{case.name}: {outputs.hex()}, by hand {case.wanted[index].hex()}")
        runs.append({"inputs": given.hex(), "outputs": outputs.hex()})
    return {
        "name": case.name,
        "origin": HAND if case.wanted else ENCODER,
        "hex": encode_model(case.model).hex(),
        "runs": runs,
    }


def output_bytes(model: Model, given: bytes) -> bytes:
    """What the reference interpreter makes of the bytes of all inputs."""
    inputs: list[Array] = []
    start = 0
    for tensor in model.inputs:
        dtype = np.dtype(tensor.element_type.dtype).newbyteorder("<")
        part = np.frombuffer(given, dtype, tensor.count, start)
        inputs.append(part.astype(tensor.element_type.dtype))
        start += tensor.size_bytes
    if start != len(given):
        raise ValueError(f"{len(given)} bytes of inputs, the model takes {start}")
    little = [
        output.astype(output.dtype.newbyteorder("<"), copy=False) for output in run(model, inputs)
    ]
    return b"".join(output.tobytes() for output in little)
