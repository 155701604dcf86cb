"""A slice on disk: one safetensors file that holds weights and the ONNX graph that uses them.

One file is one artefact with one SHA-256. Weights lie in it as they are in memory. The tensor
`graph.onnx` holds the graph; its external initializers name places in this very file, so ONNX
Runtime maps them and nothing is parsed or copied. As the file is named by its SHA-256, which no
graph inside it can know, they name `LOCATION`, which a loader replaces by the file's name; the
length stays the same, as it must. Standard safetensors tools can list and read the file.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["GRAPH_TENSOR", "LOCATION", "METADATA_KEY", "Tensor", "write_container"]

GRAPH_TENSOR = "graph.onnx"
METADATA_KEY = "slice"
LOCATION = "0" * 64
_PAGE_BYTES = 4096
_TYPES = {"U8": 1, "F16": 2, "F32": 4}


class _Writable(Protocol):
    def write(self, data: bytes, /) -> int: ...


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor to write.

    Attributes:
        name: unique within the file.
        kind: `U8`, `F16` or `F32`.
        shape: its dimensions.
        chunks: makes its values in order, a few MiB at a time, each time it is called.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    chunks: Callable[[], Iterable[npt.NDArray[np.generic]]]

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole tensor."""
        return math.prod(self.shape) * _TYPES[self.kind]


def write_container(
    stream: _Writable,
    tensors: Sequence[Tensor],
    graph_at: Callable[[Mapping[str, int]], bytes],
    metadata: object,
) -> tuple[bytes, int]:
    """Write one file; the same arguments give the same bytes.

    Args:
        stream: an open file or buffer; written in order, never read or sought.
        tensors: the weights, in the order to write them.
        graph_at: makes the ONNX model from each tensor's place, in bytes from the file's start;
            of the same length whatever the places.
        metadata: JSON-like description, kept under `METADATA_KEY`.

    Returns:
        The SHA-256 of all bytes, and how many there are.
    """
    ends = list(itertools.accumulate((tensor.size_bytes for tensor in tensors), initial=0))
    places = dict(zip((tensor.name for tensor in tensors), ends, strict=False))
    graph_bytes = len(graph_at(places))
    entries: dict[str, object] = {
        "__metadata__": {
            "format": "maille-slice",
            METADATA_KEY: json.dumps(metadata, sort_keys=True, separators=(",", ":")),
        }
    }
    for tensor in tensors:
        start = places[tensor.name]
        entries[tensor.name] = {
            "dtype": tensor.kind,
            "shape": list(tensor.shape),
            "data_offsets": [start, start + tensor.size_bytes],
        }
    entries[GRAPH_TENSOR] = {
        "dtype": "U8",
        "shape": [graph_bytes],
        "data_offsets": [ends[-1], ends[-1] + graph_bytes],
    }
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-(len(header) + 8) % _PAGE_BYTES)
    base = 8 + len(header)
    graph = graph_at({name: base + place for name, place in places.items()})
    if len(graph) != graph_bytes:
        raise ValueError("the graph's length depends on where the weights lie")
    digest = hashlib.sha256()
    written = 0
    head = (len(header).to_bytes(8, "little"), header)
    for piece in itertools.chain(head, _weights(tensors), (graph,)):
        digest.update(piece)
        stream.write(piece)
        written += len(piece)
    return digest.digest(), written


def _weights(tensors: Sequence[Tensor]) -> Iterator[bytes]:
    for tensor in tensors:
        size = 0
        for chunk in tensor.chunks():
            piece = np.ascontiguousarray(chunk).tobytes()
            size += len(piece)
            yield piece
        if size != tensor.size_bytes:
            raise ValueError(f"{tensor.name} gave {size} bytes, not {tensor.size_bytes}")
