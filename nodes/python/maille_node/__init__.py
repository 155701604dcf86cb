"""The PC node: joins a mesh, fetches models, runs their tasks with onnxruntime."""

import importlib
from typing import TYPE_CHECKING

from maille_node.errors import NodeError, SettingsError
from maille_node.settings import NodeSettings

if TYPE_CHECKING:
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

_MODULES = {"NodeService": "service", "Stop": "events", "StopReason": "events"}


def __getattr__(name: str) -> object:
    """The rest of the public names: who only makes settings does not load onnxruntime."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'run')}"), name)
