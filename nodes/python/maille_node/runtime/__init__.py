"""Runs ONNX models with onnxruntime."""

from maille_node.runtime.model import LoadedModel
from maille_node.runtime.pool import Runtime

__all__ = ["LoadedModel", "Runtime"]
