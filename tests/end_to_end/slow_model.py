"""An ONNX model that takes milliseconds and whose answer tells which question it was."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

ROUNDS = 40
WIDTH = 512


def write_slow_model(path: Path) -> Path:
    """`number`: float32[1] -> `answer`: float32[1], number times two, after `ROUNDS` products.

    Its batch is fixed at one, so that a node runs 2,000 tasks as 2,000 runs.
    """
    identity = numpy_helper.from_array(np.eye(WIDTH, dtype=np.float32), "identity")
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["row", "identity"], ["row_out"]),
            helper.make_node("Identity", ["going"], ["going_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("row", TensorProto.FLOAT, [1, WIDTH]),
        ],
        [
            helper.make_tensor_value_info("going_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("row_out", TensorProto.FLOAT, [1, WIDTH]),
        ],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Expand", ["number", "shape"], ["row0"]),
            helper.make_node("Loop", ["rounds", "yes", "row0"], ["row1"], body=body),
            helper.make_node("Gather", ["row1", "zero"], ["first"], axis=1),
            helper.make_node("Reshape", ["first", "one"], ["flat"]),
            helper.make_node("Add", ["flat", "flat"], ["answer"]),
        ],
        "slow",
        [helper.make_tensor_value_info("number", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [1])],
        [
            identity,
            numpy_helper.from_array(np.array([1, WIDTH], np.int64), "shape"),
            numpy_helper.from_array(np.array(ROUNDS, np.int64), "rounds"),
            numpy_helper.from_array(np.array(True), "yes"),
            numpy_helper.from_array(np.array(0, np.int64), "zero"),
            numpy_helper.from_array(np.array([1], np.int64), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path
