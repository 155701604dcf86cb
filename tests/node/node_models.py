"""Real ONNX models, small enough to make in a test."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17

Shape = Sequence[int | str | None] | None


def value(name: str, dtype: int, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto] = (),
    *,
    extra_domains: Sequence[str] = (),
) -> bytes:
    graph = helper.make_graph(list(nodes), "test", list(inputs), list(outputs), list(weights))
    opsets = [helper.make_opsetid("", OPSET)]
    opsets += [helper.make_opsetid(domain, 1) for domain in extra_domains]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


def identity(dtype: int, shape: Shape) -> bytes:
    return build(
        [helper.make_node("Identity", ["x"], ["y"])],
        [value("x", dtype, shape)],
        [value("y", dtype, shape)],
    )


def digits_mlp(seed: int = 1) -> bytes:
    """64 inputs, 32 hidden units, 10 classes, as a digits classifier has: label, probabilities."""
    random = np.random.default_rng(seed)
    weights = {
        "w1": random.normal(size=(64, 32)).astype(np.float32) * 0.1,
        "b1": random.normal(size=32).astype(np.float32),
        "w2": random.normal(size=(32, 10)).astype(np.float32) * 0.3,
        "b2": random.normal(size=10).astype(np.float32),
    }
    return build(
        [
            helper.make_node("Gemm", ["X", "w1", "b1"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "w2", "b2"], ["z"]),
            helper.make_node("Softmax", ["z"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["z"], ["label"], axis=1, keepdims=0),
        ],
        [value("X", TensorProto.FLOAT, ["batch", 64])],
        [
            value("label", TensorProto.INT64, ["batch"]),
            value("probabilities", TensorProto.FLOAT, ["batch", 10]),
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )


def square(size: int = 256) -> bytes:
    """One matrix product; its input and output are too large for a message."""
    weight = np.eye(size, dtype=np.float32) * 2
    return build(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", TensorProto.FLOAT, [size, size])],
        [value("y", TensorProto.FLOAT, [size, size])],
        [numpy_helper.from_array(weight, "w")],
    )


def busy() -> bytes:
    """As many matrix products as its input says (about 0.1 ms each); stops when told to."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["v", "w"], ["v_next"]),
            helper.make_node("Identity", ["go_on"], ["go_on_next"]),
        ],
        "body",
        [
            value("number", TensorProto.INT64, []),
            value("go_on", TensorProto.BOOL, []),
            value("v", TensorProto.FLOAT, [128, 128]),
        ],
        [value("go_on_next", TensorProto.BOOL, []), value("v_next", TensorProto.FLOAT, [128, 128])],
    )
    return build(
        [
            helper.make_node("Squeeze", ["products"], ["count"]),
            helper.make_node("Loop", ["count", "yes", "w"], ["last"], body=body),
            helper.make_node("ReduceMax", ["last"], ["y"], keepdims=0),
        ],
        [value("products", TensorProto.INT64, [1])],
        [value("y", TensorProto.FLOAT, [])],
        [
            numpy_helper.from_array(np.eye(128, dtype=np.float32), "w"),
            numpy_helper.from_array(np.array(True), "yes"),
        ],
    )
