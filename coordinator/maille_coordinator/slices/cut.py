"""Cutting a run of layers out of a model: the ONNX graph of one stage and the file that holds it.

Every graph is written fused by hand and is run with ONNX Runtime's optimiser off. So a layer runs
the same kernels whichever slice it is in, and any cut of a model gives the same bits. Two choices
serve that:

- A layer begins with a plain norm of an explicit sum, never with a fused "skip" norm, whose sum of
  squares has another order.
- Attention always sees one row more than there are tokens (a copy of the last; its result is cut
  off, its cache entry overwritten by the next step). A single row takes other kernels than several
  rows; with the copy no call has a single row, so a row's bits do not depend on how many tokens
  went through together. See docs/decisions/0005-language-model-number-formats.md.

Inputs of a slice with layers a..b, for T new tokens at positions P..P+T-1 of a cache with room for
C positions, C > P + T:

    tokens [T] int64, or hidden [T, H] float32      what comes in
    rows [R] int64                                  with the head: whose logits are wanted; only
                                                    they go on after the last layer's attention
    last_position [1] int32 = P + T                 (both count the copied row)
    length [] int32 = P + T + 1                     (likewise)
    cosine, sine [C, pairs] float32                 rotary tables
    past_key.i, past_value.i [1, G, C, D] float32   for each layer i

and outputs `hidden_out [T, H]` or `logits [R, V]`, and `present_key.i`, `present_value.i`, to be
bound to the same memory as the past ones.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from onnx import TensorProto, ValueInfoProto, helper

from maille_coordinator.slices.container import write_container
from maille_coordinator.slices.errors import SliceError
from maille_coordinator.slices.gguf_file import Matrix
from maille_coordinator.slices.model import LanguageModel
from maille_coordinator.slices.weights import GraphWriter, add_embedding, add_linear, same_format

__all__ = ["SLICE_VERSION", "SliceFile", "write_slice"]

SLICE_VERSION = 1
_OPSET = 18
_IR_VERSION = 8


@dataclass(frozen=True, slots=True)
class SliceFile:
    """A slice that was written.

    Attributes:
        path: the SHA-256 in hexadecimal, in the directory asked for; a loader needs this name.
        sha256: of the whole file.
        size_bytes: of the whole file.
        first_layer: first layer in it, counted from 0.
        last_layer: last layer in it.
        with_embedding: takes tokens instead of hidden values.
        with_head: gives logits instead of hidden values.
    """

    path: Path
    sha256: bytes
    size_bytes: int
    first_layer: int
    last_layer: int
    with_embedding: bool
    with_head: bool


def write_slice(
    model: LanguageModel,
    first_layer: int,
    last_layer: int,
    directory: Path,
    *,
    with_embedding: bool,
    with_head: bool,
) -> SliceFile:
    """Write the layers `first_layer` to `last_layer`, both included, as one slice file.

    The same model and layers give the same bytes, whatever the machine. A few MiB of weights are
    in memory at a time.

    Raises:
        SliceError: the model has no such layers, an embedding is asked for after the first layer
            or a head before the last, or the directory cannot be written.
    """
    if not 0 <= first_layer <= last_layer < model.layer_count:
        raise SliceError(
            f"{model.name} has the layers 0 to {model.layer_count - 1}, not {first_layer} to "
            f"{last_layer}; ask for layers in this range"
        )
    if with_embedding and first_layer != 0:
        raise SliceError("only a slice that starts at layer 0 can have the embedding")
    if with_head and last_layer != model.layer_count - 1:
        raise SliceError(f"only a slice that ends at layer {model.layer_count - 1} can have a head")
    writer = GraphWriter()
    graph_at = _graph(writer, model, range(first_layer, last_layer + 1), with_embedding, with_head)
    metadata = {
        "version": SLICE_VERSION,
        "model": model.name,
        "architecture": model.architecture,
        "layer_count": model.layer_count,
        "first_layer": first_layer,
        "last_layer": last_layer,
        "with_embedding": with_embedding,
        "with_head": with_head,
        "hidden_size": model.hidden_size,
        "vocabulary_size": model.vocabulary_size,
        "key_value_head_count": model.key_value_head_count,
        "head_size": model.head_size,
        "context_length": model.context_length,
        "inverse_frequencies": list(model.rope.inverse_frequencies),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory, suffix=".part", delete=False) as stream:
            part = Path(stream.name)
            try:
                sha256, size_bytes = write_container(
                    stream, list(writer.tensors.values()), graph_at, metadata
                )
            except BaseException:
                part.unlink()
                raise
        path = part.replace(directory / sha256.hex())
    except OSError as error:
        raise SliceError(
            f"cannot write a slice in {directory}: {error.strerror}; free some room or choose "
            "another directory"
        ) from error
    return SliceFile(path, sha256, size_bytes, first_layer, last_layer, with_embedding, with_head)


def _graph(
    writer: GraphWriter,
    model: LanguageModel,
    layers: range,
    with_embedding: bool,
    with_head: bool,
) -> Callable[[Mapping[str, int]], bytes]:
    inputs: list[ValueInfoProto] = []
    if with_embedding:
        inputs.append(_value("tokens", TensorProto.INT64, "T"))
        values = add_embedding(writer, "embedding", model.tensors["token_embd.weight"], "tokens")
    else:
        inputs.append(_value("hidden", TensorProto.FLOAT, "T", model.hidden_size))
        values = "hidden"
    if with_head:
        inputs.append(_value("rows", TensorProto.INT64, "R"))
    inputs += [
        _value("last_position", TensorProto.INT32, 1),
        _value("length", TensorProto.INT32),
        _value("cosine", TensorProto.FLOAT, "C", len(model.rope.inverse_frequencies)),
        _value("sine", TensorProto.FLOAT, "C", len(model.rope.inverse_frequencies)),
    ]
    outputs: list[ValueInfoProto] = []
    cache = (1, model.key_value_head_count, "C", model.head_size)
    for index in layers:
        last = index == layers[-1]
        values = _layer(
            writer,
            model,
            index,
            values,
            "hidden_out" if last and not with_head else f"out.{index}",
            rows="rows" if last and with_head else "",
        )
        inputs += [_value(f"past_{part}.{index}", TensorProto.FLOAT, *cache) for part in _PARTS]
        outputs += [_value(f"present_{part}.{index}", TensorProto.FLOAT, *cache) for part in _PARTS]
    if with_head:
        norm = writer.floats("output_norm", model.tensors["output_norm.weight"])
        normed = writer.node(
            "SimplifiedLayerNormalization",
            [values, norm],
            "normed",
            axis=-1,
            epsilon=model.norm_epsilon,
        )
        add_linear(
            writer, "logits", [model.head], normed, weights="embedding" if model.tied else "head"
        )
        outputs.insert(0, _value("logits", TensorProto.FLOAT, "R", model.vocabulary_size))
    else:
        outputs.insert(0, _value("hidden_out", TensorProto.FLOAT, "T", model.hidden_size))

    def graph_at(places: Mapping[str, int]) -> bytes:
        proto = helper.make_model(
            helper.make_graph(
                writer.nodes, "slice", inputs, outputs, writer.initializers_at(places)
            ),
            opset_imports=[
                helper.make_opsetid("", _OPSET),
                helper.make_opsetid("com.microsoft", 1),
            ],
            ir_version=_IR_VERSION,
            producer_name="maille",
        )
        return bytes(proto.SerializeToString(deterministic=True))

    return graph_at


_PARTS = ("key", "value")


def _value(name: str, kind: int, *shape: int | str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def _layer(
    writer: GraphWriter,
    model: LanguageModel,
    index: int,
    values: str,
    output: str,
    *,
    rows: str,
) -> str:
    """One transformer block: `values [T, H]` to `output [T, H]`.

    Where `rows [R]` is given, all T positions give keys and values, but only those rows go on:
    `output [R, H]`.
    """
    layer = model.layer(index)
    at = f"{index}."
    normed = writer.node(
        "SimplifiedLayerNormalization",
        [values, writer.floats(f"{at}attn_norm", layer["attn_norm.weight"])],
        f"{at}normed",
        axis=-1,
        epsilon=model.norm_epsilon,
    )
    attended = _attention(writer, model, index, layer, normed, rows)
    if rows:
        values = writer.node("Gather", [values, rows], f"{at}wanted", axis=0)
    summed = f"{at}summed"
    inner = writer.contributed(
        "SkipSimplifiedLayerNormalization",
        [values, attended, writer.floats(f"{at}ffn_norm", layer["ffn_norm.weight"])],
        [f"{at}inner", "", "", summed],
        epsilon=model.norm_epsilon,
    )
    gate, up = layer["ffn_gate.weight"], layer["ffn_up.weight"]
    if same_format([gate, up]):
        both = add_linear(writer, f"{at}gate_up", [gate, up], inner)
        gated, upped = f"{at}gate", f"{at}up"
        writer.node("Split", [both], [gated, upped], axis=1, num_outputs=2)
    else:
        gated = add_linear(writer, f"{at}gate", [gate], inner)
        upped = add_linear(writer, f"{at}up", [up], inner)
    activated = writer.contributed("QuickGelu", [gated], f"{at}activated", alpha=1.0)
    product = writer.node("Mul", [activated, upped], f"{at}product")
    down = add_linear(writer, f"{at}down", [layer["ffn_down.weight"]], product)
    return writer.node("Add", [summed, down], output)


def _attention(
    writer: GraphWriter,
    model: LanguageModel,
    index: int,
    layer: dict[str, Matrix],
    normed: str,
    rows: str,
) -> str:
    at = f"{index}."
    matrices = [layer[f"attn_{part}.weight"] for part in "qkv"]
    biases = [layer.get(f"attn_{part}.bias") for part in "qkv"]
    if same_format(matrices) and (None not in biases or biases == [None] * 3):
        present = [bias for bias in biases if bias is not None]
        joined = writer.joined_floats(f"{at}qkv_bias", present) if present else None
        packed = add_linear(writer, f"{at}qkv", matrices, normed, bias=joined)
    else:
        parts = [
            add_linear(
                writer,
                f"{at}{part}",
                [matrix],
                normed,
                bias=None if bias is None else writer.floats(f"{at}{part}_bias", bias),
            )
            for part, matrix, bias in zip("qkv", matrices, biases, strict=True)
        ]
        packed = writer.node("Concat", parts, f"{at}qkv", axis=1)
    last = writer.node("Gather", [packed, writer.whole_numbers(-1)], f"{at}copy", axis=0)
    with_copy = writer.node("Concat", [packed, last], f"{at}with_copy", axis=0)
    width = (model.head_count + 2 * model.key_value_head_count) * model.head_size
    query = writer.node("Reshape", [with_copy, writer.whole_numbers(1, -1, width)], f"{at}query")
    attended = writer.contributed(
        "GroupQueryAttention",
        [
            query,
            "",
            "",
            f"past_key.{index}",
            f"past_value.{index}",
            "last_position",
            "length",
            "cosine",
            "sine",
        ],
        [f"{at}attended", f"present_key.{index}", f"present_value.{index}"],
        num_heads=model.head_count,
        kv_num_heads=model.key_value_head_count,
        do_rotary=1,
        rotary_interleaved=int(model.rope.interleaved),
    )
    flat = writer.node(
        "Reshape",
        [attended, writer.whole_numbers(-1, model.head_count * model.head_size)],
        f"{at}flat",
    )
    if rows:
        chosen = writer.node("Gather", [flat, rows], f"{at}rows", axis=0)
    else:
        start, stop = writer.whole_numbers(0), writer.whole_numbers(-1)
        chosen = writer.node("Slice", [flat, start, stop, start], f"{at}rows")
    return add_linear(writer, f"{at}output", [layer["attn_output.weight"]], chosen)
