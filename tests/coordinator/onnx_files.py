"""Small ONNX files, good and bad, for the tests of models and of the HTTP API."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper


def value(
    name: str, element: int = TensorProto.FLOAT, shape: Sequence[str | int | None] = ("N", 4)
) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


def model_bytes(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    *,
    opset: int = 17,
    initializers: Sequence[TensorProto] = (),
    domains: Sequence[str] = (),
) -> bytes:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, list(initializers))
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="tests")
    model.metadata_props.append(onnx.StringStringEntryProto(key="author", value="me"))
    data: bytes = model.SerializeToString()
    return data


def relu() -> bytes:
    """X: float32[N, 4] to Y: float32[N, 4]."""
    return model_bytes([helper.make_node("Relu", ["X"], ["Y"])], [value("X")], [value("Y")])


def add_bias(bias: float) -> bytes:
    """Like `relu`, but other bytes for every bias."""
    tensor = onnx.numpy_helper.from_array(np.full(4, bias, np.float32), "B")
    return model_bytes(
        [helper.make_node("Add", ["X", "B"], ["Y"])],
        [value("X")],
        [value("Y")],
        initializers=[tensor],
    )


def external_data(folder: Path) -> Path:
    """A model whose weights are in another file, which is lost."""
    tensor = onnx.numpy_helper.from_array(np.ones((4, 4), np.float32), "W")
    data = model_bytes(
        [helper.make_node("MatMul", ["X", "W"], ["Y"])],
        [value("X")],
        [value("Y")],
        initializers=[tensor],
    )
    path = folder / "model.onnx"
    onnx.save(
        onnx.load_from_string(data),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    (folder / "weights.bin").unlink()
    return path


def _sequence_output() -> bytes:
    output = helper.make_tensor_sequence_value_info("Y", TensorProto.FLOAT, None)
    return model_bytes(
        [helper.make_node("SequenceConstruct", ["X"], ["Y"])], [value("X")], [output]
    )


BAD_FILES: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", "not_onnx", "file is empty"),
    "text": (b"hello, this is a text\n" * 20, "not_onnx", "export the model to ONNX"),
    "zeros": (bytes(1000), "not_onnx", "export the model to ONNX"),
    "PyTorch checkpoint": (b"PK\x03\x04" + bytes(100), "not_onnx", "torch.onnx.export"),
    "pickle": (b"\x80\x05\x95" + bytes(100), "not_onnx", "skl2onnx"),
    "TensorFlow Lite": (b"\x1c\x00\x00\x00TFL3" + bytes(50), "not_onnx", "tf2onnx"),
    "cut in the graph": (relu()[:-20], "truncated", "cut off"),
    "cut in the weights": (add_bias(1.0)[:70], "truncated", "cut off"),
    "operator of another domain": (
        model_bytes(
            [helper.make_node("Frob", ["X"], ["Y"], domain="com.acme")],
            [value("X")],
            [value("Y")],
            domains=["com.acme"],
        ),
        "operator",
        "'Frob' of the domain 'com.acme' in opset 1",
    ),
    "operator that does not exist": (
        model_bytes([helper.make_node("Frob", ["X"], ["Y"])], [value("X")], [value("Y")]),
        "operator",
        "'Frob' in opset 17",
    ),
    "operator without this type": (
        model_bytes(
            [helper.make_node("Relu", ["X"], ["Y"])],
            [value("X", TensorProto.INT16)],
            [value("Y", TensorProto.INT16)],
        ),
        "operator",
        "'Relu' in opset 17",
    ),
    "operator that refuses the type": (
        model_bytes(
            [helper.make_node("Acosh", ["X"], ["Y"])],
            [value("X", TensorProto.BFLOAT16)],
            [value("Y", TensorProto.BFLOAT16)],
        ),
        "operator",
        "'Acosh' of opset 17 does not take tensor(bfloat16)",
    ),
    "opset of the future": (
        model_bytes([helper.make_node("Relu", ["X"], ["Y"])], [value("X")], [value("Y")], opset=99),
        "opset",
        "opset 99",
    ),
    "node without its input": (
        model_bytes([helper.make_node("Add", ["X", "Q"], ["Y"])], [value("X")], [value("Y")]),
        "invalid",
        "'Q'",
    ),
    "sequence output": (_sequence_output(), "type", "only tensors can travel"),
    "type that cannot travel": (
        model_bytes(
            [helper.make_node("Identity", ["X"], ["Y"])],
            [value("X", TensorProto.BFLOAT16)],
            [value("Y", TensorProto.BFLOAT16)],
        ),
        "type",
        "bfloat16",
    ),
}
"""Bytes, the error's code, and a part of its text."""
