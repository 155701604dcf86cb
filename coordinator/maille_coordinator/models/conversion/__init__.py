"""Float ONNX models to the tiny format of microcontrollers.

The way of a model: `graph` (ONNX simplified by onnxruntime) → `lowering` (operators to operations on
tensors in arena order, with a `builder`) → `evaluate` (the same in real numbers: ranges, and proof
against onnxruntime) → `quantise`, `arena` (integers and places) → `report`, `targets`.
"""

from maille_coordinator.models.conversion.convert import Conversion, convert, convert_file
from maille_coordinator.models.conversion.errors import (
    ConversionError,
    DoesNotFit,
    UnsupportedModel,
    UnusableData,
)
from maille_coordinator.models.conversion.graph import read_graph
from maille_coordinator.models.conversion.samples import choose_samples, read_samples
from maille_coordinator.models.conversion.targets import BOARDS, TARGETS

__all__ = [
    "BOARDS",
    "TARGETS",
    "Conversion",
    "ConversionError",
    "DoesNotFit",
    "UnsupportedModel",
    "UnusableData",
    "choose_samples",
    "convert",
    "convert_file",
    "read_graph",
    "read_samples",
]
