"""Model files, good and broken, for the tests of bad input."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import GraphProto, OperatorSetIdProto, TensorProto, helper, numpy_helper


def write_sum_model(path: Path, *, weights: int = 1) -> Path:
    """`values`: float32[N] -> `total`: float32[1]; `weights` numbers make the file larger."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["values"], ["sum"], keepdims=1),
            helper.make_node("ReduceSum", ["zeros"], ["nothing"], keepdims=1),
            helper.make_node("Add", ["sum", "nothing"], ["total"]),
        ],
        "sum",
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("total", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.zeros(weights, np.float32), "zeros")],
    )
    return _write(path, [helper.make_opsetid("", 17)], graph)


def write_model_with_an_unknown_operator(path: Path) -> Path:
    """An ONNX file that is well-formed, with an operator that onnxruntime does not have."""
    graph = helper.make_graph(
        [helper.make_node("Levitate", ["values"], ["total"], domain="example.invalid")],
        "unknown operator",
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("total", TensorProto.FLOAT, [1])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("example.invalid", 1)]
    return _write(path, opsets, graph)


def _write(path: Path, opsets: Sequence[OperatorSetIdProto], graph: GraphProto) -> Path:
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path
