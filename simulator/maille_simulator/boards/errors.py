"""What can go wrong with simulated boards."""


class ToolMissing(Exception):
    """Raised when a program that a board needs is not installed; names the package."""
