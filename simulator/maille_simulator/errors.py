"""What can go wrong with a simulation before and beside the mesh that it simulates.

SimulatorError      the simulation cannot be run; the text names the cause and the next step
+-- ScenarioNotFound no scenario has that name, or its file cannot be read
+-- ScenarioError   the scenario's file is wrong; the text names the line
+-- ToolMissing     a program that a node kind needs is not installed; names the package
"""

from pathlib import Path


class SimulatorError(Exception):
    """Raised when a simulation cannot be run."""


class ScenarioNotFound(SimulatorError):
    """Raised when there is no such scenario, or its file cannot be read."""


class ScenarioError(SimulatorError):
    """Raised when a scenario cannot be meant as it is written.

    Args:
        path: the file.
        line: counted from 1.
        text: cause and next step.
    """

    def __init__(self, path: Path, line: int, text: str) -> None:
        super().__init__(f"{path}:{line}: {text}")
        self.line = line


class ToolMissing(SimulatorError):
    """Raised when a program is not there that a node kind or an event needs."""
