"""Errors of slices on a node.

NodeError
├── SliceUnusable      a slice file is damaged or this program cannot run it: fetch or cut it again
└── ActivationRefused  a stage was handed hidden values, tokens or positions it cannot take
"""

from maille_node.errors import NodeError

__all__ = ["ActivationRefused", "SliceUnusable"]


class SliceUnusable(NodeError):
    """Raised when a slice file is missing, damaged, of another version or cannot be run."""


class ActivationRefused(NodeError):
    """Raised when a step's input does not fit the stage: wrong shape, not finite, no room."""
