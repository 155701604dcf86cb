"""The tiny format: integer-only models for microcontrollers. The specification is `TINY.md`.

`model` what a container holds · `decode`, `encode` bytes to model and back · `check` the rules ·
`interpreter` the arithmetic as NumPy, which is the specification in code · `quantise` real values
to a model's integers and back.
"""

from maille_protocol.tiny.check import check_model
from maille_protocol.tiny.codes import ElementType, LayerKind
from maille_protocol.tiny.decode import decode_model, is_tiny
from maille_protocol.tiny.encode import encode_model
from maille_protocol.tiny.interpreter import make_self_tests, requantise, run, run_batch, self_test
from maille_protocol.tiny.model import (
    Add,
    ArgMax,
    AveragePool,
    Conv2d,
    Dense,
    DepthwiseConv2d,
    Description,
    Forest,
    Layer,
    Lookup,
    MaxPool,
    Model,
    Quantisation,
    Requantisation,
    Softmax,
    Tensor,
    TensorDescription,
    Window,
    multiply_accumulates,
)
from maille_protocol.tiny.quantise import (
    dequantise_batch,
    dequantise_outputs,
    quantise_batch,
    quantise_inputs,
    signature,
)

__all__ = [
    "Add",
    "ArgMax",
    "AveragePool",
    "Conv2d",
    "Dense",
    "DepthwiseConv2d",
    "Description",
    "ElementType",
    "Forest",
    "Layer",
    "LayerKind",
    "Lookup",
    "MaxPool",
    "Model",
    "Quantisation",
    "Requantisation",
    "Softmax",
    "Tensor",
    "TensorDescription",
    "Window",
    "check_model",
    "decode_model",
    "dequantise_batch",
    "dequantise_outputs",
    "encode_model",
    "is_tiny",
    "make_self_tests",
    "multiply_accumulates",
    "quantise_batch",
    "quantise_inputs",
    "requantise",
    "run",
    "run_batch",
    "self_test",
    "signature",
]
