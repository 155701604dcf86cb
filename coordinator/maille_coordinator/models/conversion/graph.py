"""An ONNX model as a plain list of nodes, simplified for one sample at a time.

onnxruntime does the simplifying (constants folded, identities and dropout gone, batch normalisation
in the convolution before it), with the batch fixed to 1 so that shapes are known.
"""

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from maille_coordinator.models.conversion.errors import UnsupportedModel
from maille_protocol.tensors import Array

_MAX_BYTES = 256 * 1024 * 1024
"""A model that ends on a microcontroller is far below."""
_NUMBERS = frozenset((onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.INT64))


@dataclass(frozen=True, slots=True)
class Node:
    """One operator. `op` has the domain in front where it is not the standard one."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, object]

    def __str__(self) -> str:
        """As errors name it."""
        return f"{self.op} ({self.name or self.outputs[0]!r})"


@dataclass(frozen=True, slots=True)
class Graph:
    """A simplified model; `serialized` is the same as ONNX with a batch of 1."""

    inputs: Mapping[str, tuple[int, ...]]
    """Shapes without the batch."""
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    consumers: Mapping[str, int]
    """How many nodes and outputs take each value."""
    serialized: bytes


def read_graph(data: bytes) -> Graph:
    """The graph in the bytes of an ONNX file.

    Raises:
        UnsupportedModel: not ONNX, not runnable, or inputs of open size or of no numbers.
    """
    if len(data) > _MAX_BYTES:
        raise UnsupportedModel(
            f"the model has {len(data)} bytes; one of more than {_MAX_BYTES} fits no microcontroller"
        )
    try:
        proto = onnx.load_model_from_string(data)
    except Exception as error:
        raise UnsupportedModel(
            "this is no ONNX file, or it is damaged: export the model again "
            "(torch.onnx.export, tf2onnx or skl2onnx.to_onnx)"
        ) from error
    _drop_zip_maps(proto)
    shapes = _fix_batch(proto)
    simplified = _simplify(proto)
    graph = simplified.graph
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    nodes: list[Node] = []
    for item in graph.node:
        if item.op_type == "Constant" and not item.domain:
            constants[item.output[0]] = _constant(item)
            continue
        op = f"{item.domain}.{item.op_type}" if item.domain else item.op_type
        attributes = {
            attribute.name: onnx.helper.get_attribute_value(attribute)
            for attribute in item.attribute
        }
        nodes.append(Node(op, item.name, tuple(item.input), tuple(item.output), attributes))
    outputs = tuple(item.name for item in graph.output)
    consumers = Counter(name for node in nodes for name in node.inputs)
    consumers.update(outputs)
    return Graph(
        shapes, outputs, tuple(nodes), constants, consumers, simplified.SerializeToString()
    )


def _drop_zip_maps(proto: onnx.ModelProto) -> None:
    """Classifiers of skl2onnx give their probabilities as a list of maps unless told otherwise."""
    for node in [node for node in proto.graph.node if node.op_type == "ZipMap"]:
        for index, output in enumerate(proto.graph.output):
            if output.name == node.output[0]:
                proto.graph.output[index].CopyFrom(onnx.ValueInfoProto(name=node.input[0]))
        proto.graph.node.remove(node)


def _fix_batch(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    constants = {item.name for item in proto.graph.initializer}
    shapes: dict[str, tuple[int, ...]] = {}
    for item in proto.graph.input:
        if item.name in constants:
            continue
        tensor = item.type.tensor_type
        if tensor.elem_type not in _NUMBERS:
            kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
            raise UnsupportedModel(
                f"input {item.name!r} is of type {kind}: a tiny model takes numbers; "
                "export the model with float32 inputs"
            )
        dimensions = tensor.shape.dim
        if not dimensions or len(dimensions) > 5:
            raise UnsupportedModel(
                f"input {item.name!r} has {len(dimensions)} dimensions, 2 to 5 are possible "
                "(the first is the batch)"
            )
        dimensions[0].Clear()
        dimensions[0].dim_value = 1
        sizes = [dimension.dim_value for dimension in dimensions[1:]]
        if any(size <= 0 for size in sizes):
            raise UnsupportedModel(
                f"input {item.name!r} has a dimension of open size besides the batch: "
                "export the model with a fixed input size"
            )
        shapes[item.name] = tuple(sizes) or (1,)
    # What they say about the old batch would contradict the new one.
    for output in proto.graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    del proto.graph.value_info[:]
    return shapes


def _simplify(proto: onnx.ModelProto) -> onnx.ModelProto:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory(prefix="maille-") as folder:
        path = Path(folder) / "simplified.onnx"
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        # onnxruntime's exceptions have no common base but this.
        except Exception as error:
            reason = str(error).splitlines()[0][:400]
            raise UnsupportedModel(
                f"onnxruntime cannot run the model ({reason}): check it with "
                "onnx.checker.check_model and export it again"
            ) from error
        return onnx.load_model(path)


def _constant(node: onnx.NodeProto) -> Array:
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if attribute.name == "value":
            return onnx.numpy_helper.to_array(value)
        if attribute.name in {"value_float", "value_floats"}:
            return np.asarray(value, np.float32)
        if attribute.name in {"value_int", "value_ints"}:
            return np.asarray(value, np.int64)
    raise UnsupportedModel(f"constant {node.output[0]!r} is neither a number nor a tensor of them")
