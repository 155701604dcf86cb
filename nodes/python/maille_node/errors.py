"""Errors of a node.

NodeError
├── SettingsError    fix the settings; the text says which and how
└── TaskProblem      one task, model or artefact cannot be had; `code` is what the mesh is told
"""

from maille_protocol import ErrorCode


class NodeError(Exception):
    """Base of every error this package raises."""


class SettingsError(NodeError):
    """Raised when a node cannot start with the settings it was given."""


class TaskProblem(NodeError):
    """Raised inside the node when something that a task needs cannot be had."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
