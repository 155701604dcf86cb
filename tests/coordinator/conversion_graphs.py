"""ONNX graphs as exporters write them, made by hand, with random weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from maille_coordinator.models.conversion import Conversion, choose_samples, convert, read_graph
from maille_coordinator.models.conversion.evaluate import float_outputs
from maille_coordinator.models.conversion.report import tiny_outputs

Floats = npt.NDArray[np.float32]


@dataclass
class Drawn:
    """A graph under construction: nodes in order, each named after its output."""

    seed: int = 1
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, npt.NDArray[np.generic]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def weights(self, name: str, *shape: int) -> str:
        fan_in = int(np.prod(shape[1:])) or 1
        scale = (2 / fan_in) ** 0.5
        self.constants[name] = (self.random.normal(size=shape) * scale).astype(np.float32)
        return name

    def constant(self, name: str, values: object, dtype: npt.DTypeLike = np.float32) -> str:
        self.constants[name] = np.array(values, dtype)
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"/{output}", **attributes))
        return output

    def conv(self, source: str, output: str, *shape: int, **attributes: Any) -> str:
        """Convolution with weights [output, input, ...] and bias."""
        weights = self.weights(f"{output}.weight", *shape)
        bias = self.weights(f"{output}.bias", shape[0])
        kernel = list(shape[2:])
        return self.node("Conv", [source, weights, bias], output, kernel_shape=kernel, **attributes)

    def dense(self, source: str, output: str, inputs: int, outputs: int) -> str:
        """Gemm as torch writes it."""
        weights = self.weights(f"{output}.weight", outputs, inputs)
        bias = self.weights(f"{output}.bias", outputs)
        return self.node("Gemm", [source, weights, bias], output, transB=1)

    def finish(
        self,
        inputs: Mapping[str, Sequence[int | str]],
        outputs: Sequence[str],
        opset: int = 17,
        element_type: int = TensorProto.FLOAT,
    ) -> bytes:
        graph = helper.make_graph(
            self.nodes,
            "drawn",
            [
                helper.make_tensor_value_info(name, element_type, ["batch", *shape])
                for name, shape in inputs.items()
            ],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
        model = helper.make_model(graph, opset_imports=opsets)
        model.ir_version = 8
        return bytes(model.SerializeToString())


def samples(shape: Sequence[int], count: int = 200, seed: int = 9) -> Floats:
    """Smooth random inputs: neighbours are alike, as in images and signals."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(count, *shape))
    for axis in range(1, values.ndim):
        values = values + np.roll(values, 1, axis)
    return values.astype(np.float32)


def converted_with_error(
    data: bytes, arrays: Mapping[str, npt.NDArray[np.generic]], target: str = "any"
) -> tuple[Conversion, dict[str, float]]:
    """The conversion, and of each real output the mean error as share of its range."""
    graph = read_graph(data)
    chosen = choose_samples(arrays, graph)
    made = convert(graph, chosen, target, "drawn")
    wanted, given = float_outputs(graph, chosen), tiny_outputs(made.model, chosen)
    errors: dict[str, float] = {}
    for name, output in given.items():
        if name not in wanted:
            continue
        if wanted[name].dtype.kind == "f":
            real = wanted[name].astype(np.float64)
            errors[name] = float(np.abs(output.astype(np.float64) - real).mean() / np.ptp(real))
        else:
            errors[name] = float(np.mean(output != wanted[name]))
    return made, errors
