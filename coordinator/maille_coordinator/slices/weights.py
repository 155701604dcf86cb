"""Linear maps of a slice: which tensors they are written as and which nodes compute them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType
from onnx import NodeProto, TensorProto, helper, numpy_helper

from maille_coordinator.slices.container import LOCATION, Tensor
from maille_coordinator.slices.gguf_file import Matrix
from maille_coordinator.slices.quantisation import (
    BLOCK_GROUP,
    BlockFormat,
    block_format,
    dense_rows,
)

__all__ = ["GraphWriter", "add_embedding", "add_linear", "same_format"]

_MICROSOFT = "com.microsoft"
# Inputs as 8-bit integers with one scale a block, as llama.cpp does it: the fast kernels.
_ACCURACY_LEVEL = 4
_ONNX_TYPES = {
    "U8": TensorProto.UINT8,
    "F16": TensorProto.FLOAT16,
    "F32": TensorProto.FLOAT,
}

Array = npt.NDArray[np.generic]
Bytes = npt.NDArray[np.uint8]


class GraphWriter:
    """Collects the nodes, constants and weight tensors of one slice.

    Attributes:
        nodes: in the order they run.
        constants: initializers inside the graph.
        tensors: weights outside it by name, in file order.
    """

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.tensors: dict[str, Tensor] = {}
        self._external: dict[str, tuple[TensorProto, Tensor]] = {}
        self._constant_names: set[str] = set()
        self._block_sums: dict[tuple[str, int], str] = {}
        self._filled: dict[tuple[str, int], str] = {}

    def node(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: str | Sequence[str],
        *,
        domain: str = "",
        **attributes: float | str,
    ) -> str:
        """Add a node named after its first output, and return that output's name."""
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        self.nodes.append(
            _with_attributes(
                helper.make_node(kind, list(inputs), names, names[0], domain=domain), attributes
            )
        )
        return names[0]

    def contributed(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: str | Sequence[str],
        **attributes: float | str,
    ) -> str:
        """Add a node of ONNX Runtime's own operators."""
        return self.node(kind, inputs, outputs, domain=_MICROSOFT, **attributes)

    def whole_numbers(self, *values: int) -> str:
        """The name of a constant vector of int64."""
        name = "whole:" + ",".join(map(str, values))
        self._constant(name, np.array(values, np.int64))
        return name

    def floats(self, name: str, matrix: Matrix) -> str:
        """The name of a constant vector of float32, from a norm or a bias."""
        self._constant(name, dense_rows(matrix.kind, matrix.data)[0])
        return name

    def joined_floats(self, name: str, matrices: Sequence[Matrix]) -> str:
        """The name of a constant vector of float32, from biases put one after the other."""
        values = [dense_rows(matrix.kind, matrix.data)[0] for matrix in matrices]
        self._constant(name, np.concatenate(values))
        return name

    def _constant(self, name: str, values: Array) -> None:
        if name not in self._constant_names:
            self._constant_names.add(name)
            self.constants.append(numpy_helper.from_array(values, name))

    def weight(self, tensor: Tensor) -> Tensor:
        """Add a weight tensor, or find the one already there under its name."""
        return self.tensors.setdefault(tensor.name, tensor)

    def view(self, tensor: Tensor, name: str = "", shape: tuple[int, ...] = ()) -> str:
        """The name of an initializer that sees a tensor, in a name and shape of its own or not."""
        name = name or tensor.name
        if name not in self._external:
            proto = TensorProto(
                name=name, data_type=_ONNX_TYPES[tensor.kind], dims=shape or tensor.shape
            )
            proto.data_location = TensorProto.EXTERNAL
            self._external[name] = (proto, tensor)
        return name

    def initializers_at(self, places: Mapping[str, int]) -> list[TensorProto]:
        """All initializers, the external ones at their tensors' places in the file."""
        for proto, tensor in self._external.values():
            del proto.external_data[:]
            for key, value in (
                ("location", LOCATION),
                # Of fixed width, so that the graph's length does not depend on it.
                ("offset", f"{places[tensor.name]:016d}"),
                ("length", str(tensor.size_bytes)),
            ):
                proto.external_data.add(key=key, value=value)
        return [*self.constants, *(proto for proto, _ in self._external.values())]

    def block_sums(self, values: str, columns: int, block: int) -> str:
        """Sums of each `block` neighbours of `values [T, columns]`: `[T, columns / block]`."""
        key = (values, block)
        if key not in self._block_sums:
            shape = self.whole_numbers(-1, columns // block, block)
            blocks = self.node("Reshape", [values, shape], f"{values}.blocks{block}")
            self._block_sums[key] = self.node(
                "ReduceSum", [blocks, self.whole_numbers(2)], f"{values}.sums{block}", keepdims=0
            )
        return self._block_sums[key]

    def filled(self, values: str, zeros: int) -> str:
        """`values [T, columns]` with so many zeros after each row."""
        key = (values, zeros)
        if zeros and key not in self._filled:
            pads = self.whole_numbers(0, 0, 0, zeros)
            self._filled[key] = self.node("Pad", [values, pads], f"{values}.filled{zeros}")
        return self._filled[key] if zeros else values


def _with_attributes(node: NodeProto, attributes: dict[str, float | str]) -> NodeProto:
    node.attribute.extend(
        helper.make_attribute(name, value) for name, value in sorted(attributes.items())
    )
    return node


def same_format(matrices: Sequence[Matrix]) -> bool:
    """Whether the matrices can be one: all floats, or all of one quantised type."""
    return all(matrix.dense for matrix in matrices) or (
        len({matrix.kind for matrix in matrices}) == 1
    )


def _rows_of(
    matrices: Sequence[Matrix], encode: Callable[[Bytes], Array], length: int = 0
) -> Callable[[], Iterator[Array]]:
    """Makes the encoded rows, with zeros up to `length` along their second axis."""

    def chunks() -> Iterator[Array]:
        for matrix in matrices:
            for rows in matrix.chunks():
                encoded = encode(rows)
                missing = max(0, length - encoded.shape[1])
                if missing:
                    fill = np.zeros((len(encoded), missing, *encoded.shape[2:]), encoded.dtype)
                    encoded = np.concatenate([encoded, fill], axis=1)
                yield encoded

    return chunks


@dataclass(frozen=True, slots=True)
class _Blocks:
    """A quantised matrix in the file; `blocks` of a row, of which the last may be filling."""

    form: BlockFormat
    blocks: int
    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    offsets: Tensor | None


def _add_blocks(
    writer: GraphWriter, name: str, matrices: Sequence[Matrix], *, fill: bool
) -> _Blocks:
    form = block_format(matrices[0].kind)
    rows = sum(matrix.rows for matrix in matrices)
    own_blocks = matrices[0].columns // form.block
    blocks = -(-own_blocks // BLOCK_GROUP) * BLOCK_GROUP if fill else own_blocks

    def add(
        part: str, kind: str, shape: tuple[int, ...], encode: Callable[[Bytes], Array]
    ) -> Tensor:
        chunks = _rows_of(matrices, encode, shape[0])
        return writer.weight(Tensor(f"{name}.{part}", kind, (rows, *shape), chunks))

    codes = add("codes", "U8", (blocks, form.block * form.bits // 8), form.packed_codes)
    scales = add("scales", "F32", (blocks,), form.block_scales)
    if form.symmetric:
        return _Blocks(form, blocks, codes, scales, None, None)
    zeros = add("zeros", "U8", (-(-blocks * form.bits // 8),), form.packed_zeros)
    offsets = add("offsets", "F32", (own_blocks,), form.block_offsets)
    return _Blocks(form, blocks, codes, scales, zeros, offsets)


def _add_floats(writer: GraphWriter, name: str, matrices: Sequence[Matrix]) -> Tensor:
    def encode(matrix: Matrix) -> Callable[[Bytes], Array]:
        return lambda rows: dense_rows(matrix.kind, rows)

    def chunks() -> Iterator[Array]:
        for matrix in matrices:
            yield from _rows_of([matrix], encode(matrix))()

    rows = sum(matrix.rows for matrix in matrices)
    return writer.weight(Tensor(f"{name}.weight", "F32", (rows, matrices[0].columns), chunks))


def add_linear(
    writer: GraphWriter,
    name: str,
    matrices: Sequence[Matrix],
    values: str,
    *,
    bias: str | None = None,
    weights: str = "",
) -> str:
    """Multiply `values [T, columns]` by matrices laid one after the other: `[T, all rows]`.

    Args:
        writer: where it goes.
        name: of the output.
        matrices: of one format (`same_format`) and of equal columns.
        values: the input.
        bias: a constant vector to add.
        weights: name of the weights, where it is not that of the output; weights already written
            under it are shared. Such weights are not filled up to whole groups of blocks, so that an
            embedding can share them.
    """
    if matrices[0].dense:
        weight = writer.view(_add_floats(writer, weights or name, matrices))
        return writer.node("Gemm", [values, weight, *([bias] if bias else [])], name, transB=1)
    columns = matrices[0].columns
    blocks = _add_blocks(writer, weights or name, matrices, fill=not weights)
    width = blocks.blocks * blocks.form.block
    product = writer.contributed(
        "MatMulNBits",
        [
            writer.filled(values, width - columns),
            writer.view(blocks.codes),
            writer.view(blocks.scales),
            "" if blocks.zeros is None else writer.view(blocks.zeros),
            "",
            bias or "",
        ],
        name if blocks.offsets is None else f"{name}.centred",
        K=width,
        N=sum(matrix.rows for matrix in matrices),
        bits=blocks.form.bits,
        block_size=blocks.form.block,
        accuracy_level=_ACCURACY_LEVEL,
    )
    if blocks.offsets is None:
        return product
    sums = writer.block_sums(values, columns, blocks.form.block)
    return writer.node("Gemm", [sums, writer.view(blocks.offsets), product], name, transB=1)


def add_embedding(writer: GraphWriter, name: str, matrix: Matrix, tokens: str) -> str:
    """Look up rows of the embedding: `tokens [T]` to `[T, columns]`.

    Only the rows looked up are read; the rest of the table stays on disk. A tied head can give
    `name` as its `weights`, and shares them unless they are F16.
    """
    if matrix.kind is GGMLQuantizationType.F16:
        table = Tensor(
            f"{name}.half",
            "F16",
            (matrix.rows, matrix.columns),
            _rows_of([matrix], lambda rows: np.ascontiguousarray(rows).view(np.float16)),
        )
        rows = writer.node(
            "Gather", [writer.view(writer.weight(table)), tokens], f"{name}.rows", axis=0
        )
        return writer.node("Cast", [rows], name, to=TensorProto.FLOAT)
    if matrix.dense:
        weight = writer.view(_add_floats(writer, name, [matrix]))
        return writer.node("Gather", [weight, tokens], name, axis=0)
    blocks = _add_blocks(writer, name, [matrix], fill=False)
    form = blocks.form
    found = writer.contributed(
        "GatherBlockQuantized",
        [
            writer.view(
                blocks.codes, f"{name}.table", (matrix.rows, matrix.columns * form.bits // 8)
            ),
            tokens,
            writer.view(blocks.scales),
            *([] if blocks.zeros is None else [writer.view(blocks.zeros)]),
        ],
        name if blocks.offsets is None else f"{name}.centred",
        bits=form.bits,
        block_size=form.block,
        gather_axis=0,
        quantize_axis=1,
    )
    if blocks.offsets is None:
        return found
    count = matrix.columns // form.block
    offsets = writer.view(blocks.offsets, f"{name}.offset_column", (matrix.rows, count, 1))
    offset = writer.node("Gather", [offsets, tokens], f"{name}.offset", axis=0)
    by_block = writer.whole_numbers(-1, count, form.block)
    centred = writer.node("Reshape", [found, by_block], f"{name}.centred_blocks")
    summed = writer.node("Add", [centred, offset], f"{name}.blocks")
    return writer.node("Reshape", [summed, writer.whole_numbers(-1, matrix.columns)], name)
