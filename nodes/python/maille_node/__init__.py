"""The PC node: joins a mesh, fetches models, runs their tasks with onnxruntime."""

from maille_node.errors import NodeError, SettingsError
from maille_node.events import Stop, StopReason
from maille_node.run import (
    EXIT_DUPLICATE,
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_SETTINGS,
    EXIT_UNFINISHED,
    EXIT_UNREACHABLE,
    run_node,
)
from maille_node.service import NodeService
from maille_node.settings import NodeSettings

__all__ = [
    "EXIT_DUPLICATE",
    "EXIT_OK",
    "EXIT_REFUSED",
    "EXIT_SETTINGS",
    "EXIT_UNFINISHED",
    "EXIT_UNREACHABLE",
    "NodeError",
    "NodeService",
    "NodeSettings",
    "SettingsError",
    "Stop",
    "StopReason",
    "run_node",
]
