"""A GGUF file opened safely: typed fields, and tensors that say where their rows lie.

The `gguf` library maps the file; no tensor is read until its rows are asked for. Whatever is wrong
with the file becomes a `ModelFileError` that names the file and what to do.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, ReaderTensor

from maille_coordinator.slices.errors import ModelFileError, UnsupportedModelError
from maille_coordinator.slices.gguf_reader import QuickReader
from maille_coordinator.slices.quantisation import BLOCK_GROUP, DENSE_TYPES, block_format

__all__ = ["GgufFile", "Matrix", "open_gguf"]

_MAGIC = b"GGUF"
_CHUNK_WEIGHTS = 1 << 22


@dataclass(frozen=True, slots=True)
class Matrix:
    """One tensor of the file, seen as rows.

    Attributes:
        name: the tensor's name in the file.
        kind: how its weights are stored.
        rows: outputs of the product; 1 for a vector.
        columns: inputs of the product.
        data: the stored bytes, `uint8 [rows, bytes of a row]`, mapped from the file.
    """

    name: str
    kind: GGMLQuantizationType
    rows: int
    columns: int
    data: npt.NDArray[np.uint8]

    @property
    def dense(self) -> bool:
        """Whether the weights are plain floats."""
        return self.kind in DENSE_TYPES

    @property
    def stored_bytes(self) -> int:
        """Bytes in the GGUF file."""
        return self.data.nbytes

    def slice_bytes(self, *, filled: bool) -> int:
        """Bytes the weights take in a slice, as a planner counts them.

        Args:
            filled: whether rows are filled up to whole groups of blocks, as a layer's are.
        """
        if self.dense:
            return self.rows * self.columns * 4
        form = block_format(self.kind)
        blocks = own_blocks = self.columns // form.block
        if filled:
            blocks = -(-own_blocks // BLOCK_GROUP) * BLOCK_GROUP
        row = blocks * (form.block * form.bits // 8 + 4)
        if not form.symmetric:
            row += -(-blocks * form.bits // 8) + 4 * own_blocks
        return self.rows * row

    def chunks(self) -> Iterator[npt.NDArray[np.uint8]]:
        """The rows in order, a few MiB at a time."""
        step = max(1, _CHUNK_WEIGHTS // self.columns)
        for start in range(0, self.rows, step):
            yield self.data[start : start + step]


@dataclass(frozen=True, slots=True)
class GgufFile:
    """The fields and tensors of one file.

    Attributes:
        path: where the file lies.
        fields: scalars, strings and lists by their GGUF key.
        tensors: by name.
    """

    path: Path
    fields: Mapping[str, object]
    tensors: Mapping[str, Matrix]

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number above or equal to zero.

        Raises:
            ModelFileError: the key is missing and has no default, or is no such number.
        """
        value = self.fields.get(key, default)
        if isinstance(value, list) and value and len(set(value)) == 1:
            value = value[0]
        if value is None:
            raise self.fault(f"the key {key} is missing")
        if isinstance(value, list):
            raise UnsupportedModelError(
                f"{self.path.name} gives each layer its own {key}, which is not supported; "
                "choose a model whose layers are alike"
            )
        if not isinstance(value, int | np.integer) or value < 0:
            raise self.fault(f"the key {key} should be a whole number, it is {value!r}")
        return int(value)

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number.

        Raises:
            ModelFileError: the key is missing and has no default, or is no number.
        """
        value = self.fields.get(key, default)
        if not isinstance(value, int | float | np.number) or not math.isfinite(value):
            raise self.fault(f"the key {key} should be a number, it is {value!r}")
        return float(value)

    def text(self, key: str, default: str | None = None) -> str:
        """A string.

        Raises:
            ModelFileError: the key is missing and has no default, or is no string.
        """
        value = self.fields.get(key, default)
        if not isinstance(value, str):
            raise self.fault(f"the key {key} should be a text, it is {value!r}")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """A yes or no."""
        return bool(self.fields.get(key, default))

    def matrix(self, name: str) -> Matrix:
        """A tensor by name.

        Raises:
            ModelFileError: the file has no such tensor.
        """
        found = self.tensors.get(name)
        if found is None:
            raise self.fault(f"the tensor {name} is missing")
        return found

    def fault(self, what: str) -> ModelFileError:
        """An error about this file, with the next step."""
        return ModelFileError(f"{self.path}: {what}; the file is damaged, download it again")


def open_gguf(path: Path) -> GgufFile:
    """Map a GGUF file and check that all of it is there.

    Raises:
        ModelFileError: there is no such file, it is no GGUF, or it is cut short.
        UnsupportedModelError: it was written for big-endian machines.
    """
    try:
        with path.open("rb") as stream:
            magic = stream.read(len(_MAGIC))
        size_bytes = path.stat().st_size
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror}; check the path") from error
    if magic != _MAGIC:
        raise ModelFileError(
            f"{path} is not a GGUF file (it starts with {magic!r}); "
            "give the .gguf file of a language model"
        )
    cut_short = f"{path} is cut short or damaged ({size_bytes} bytes); download it again"
    try:
        reader = QuickReader(path)
        fields = {key: field.contents() for key, field in reader.fields.items()}
        tensors = {tensor.name: _matrix(tensor) for tensor in reader.tensors}
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise ModelFileError(f"{cut_short}: {error}") from error
    if reader.byte_order == "S":
        raise UnsupportedModelError(
            f"{path} was written for big-endian machines; download the little-endian file"
        )
    end = max((t.data_offset + int(t.n_bytes) for t in reader.tensors), default=0)
    if end > size_bytes:
        raise ModelFileError(f"{cut_short}: its tensors need {end} bytes")
    return GgufFile(path, fields, tensors)


def _matrix(tensor: ReaderTensor) -> Matrix:
    """One tensor's rows as bytes; GGUF lists the fastest dimension first."""
    columns = int(tensor.shape[0])
    rows = math.prod(int(size) for size in tensor.shape[1:])
    block_weights, block_bytes = GGML_QUANT_SIZES[tensor.tensor_type]
    row_bytes = columns // block_weights * block_bytes
    data = np.asarray(tensor.data).reshape(-1).view(np.uint8)
    if data.nbytes != rows * row_bytes:
        raise ValueError(f"the tensor {tensor.name} has {data.nbytes} bytes of {rows * row_bytes}")
    return Matrix(tensor.name, tensor.tensor_type, rows, columns, data.reshape(rows, row_bytes))
