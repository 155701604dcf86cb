"""From ONNX operators to the program that becomes layers."""

from collections.abc import Mapping

from maille_coordinator.models.conversion import (
    lower_classes,
    lower_functions,
    lower_linear,
    lower_shapes,
    lower_trees,
)
from maille_coordinator.models.conversion.builder import Builder, Handler
from maille_coordinator.models.conversion.errors import UnsupportedModel
from maille_coordinator.models.conversion.graph import Graph, Node
from maille_coordinator.models.conversion.operations import Program

HANDLERS: Mapping[str, Handler] = {
    **lower_classes.HANDLERS,
    **lower_functions.HANDLERS,
    **lower_shapes.HANDLERS,
    "Gemm": lower_linear.gemm,
    "MatMul": lower_linear.matmul,
    "Conv": lower_linear.conv,
    "MaxPool": lower_linear.max_pool,
    "AveragePool": lower_linear.average_pool,
    "GlobalAveragePool": lower_linear.global_average_pool,
    "ReduceMean": lower_linear.reduce_mean,
    "ai.onnx.ml.LinearClassifier": lower_linear.linear_classifier,
    "ai.onnx.ml.TreeEnsembleClassifier": lower_trees.tree_ensemble_classifier,
    "ai.onnx.ml.TreeEnsembleRegressor": lower_trees.tree_ensemble_regressor,
}
_ADVICE = {
    "LSTM": "recurrent layers have no tiny counterpart: use a 1-D convolution over a window of time",
    "GRU": "recurrent layers have no tiny counterpart: use a 1-D convolution over a window of time",
    "RNN": "recurrent layers have no tiny counterpart: use a 1-D convolution over a window of time",
    "ConvTranspose": "upsampling has no tiny counterpart: end the model before it",
    "Resize": "resizing has no tiny counterpart: do it before the model",
    "LayerNormalization": "use batch normalisation, which is folded into the layer before it",
    "InstanceNormalization": "use batch normalisation, which is folded into the layer before it",
    "QuantizeLinear": "give the float model, this conversion quantises by itself",
    "DynamicQuantizeLinear": "give the float model, this conversion quantises by itself",
    "DequantizeLinear": "give the float model, this conversion quantises by itself",
    "ConvInteger": "give the float model, this conversion quantises by itself",
    "QLinearConv": "give the float model, this conversion quantises by itself",
    "Pad": "put the padding into the convolution or pool that follows (its pads)",
    "ai.onnx.ml.SVMClassifier": "use a forest, a small network or a linear model",
    "ai.onnx.ml.SVMRegressor": "use a forest or a small network",
    "ai.onnx.ml.TreeEnsemble": "export with target_opset={'': 17, 'ai.onnx.ml': 3}",
}


def lower(graph: Graph) -> Program:
    """The program of a graph.

    Raises:
        UnsupportedModel: something without a counterpart; the text names it and the next step.
    """
    missing = {node.op for node in graph.nodes} - HANDLERS.keys()
    if missing:
        raise _unsupported(next(node for node in graph.nodes if node.op in missing), missing)
    builder = Builder(graph)
    for node in graph.nodes:
        if all(not name or name in graph.constants for name in node.inputs):
            raise UnsupportedModel(
                f"{node}: it computes a constant that onnxruntime left in the model: "
                "run onnxsim on it, or export it again"
            )
        HANDLERS[node.op](builder, node)
    return builder.finish()


def _unsupported(node: Node, missing: set[str]) -> UnsupportedModel:
    advice = _ADVICE.get(
        node.op,
        "express it with dense, convolution, pool, add and element-wise layers, "
        "or end the model before it",
    )
    others = sorted(missing - {node.op})
    more = f" (also: {', '.join(others[:8])})" if others else ""
    return UnsupportedModel(
        f"the operator {node} cannot run on a microcontroller here{more}: {advice}"
    )
