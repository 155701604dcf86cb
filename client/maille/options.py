"""How a task shall run: what `run`, `map` and `submit` take beside the model and its inputs."""

from typing import TypedDict

from maille.client_events import TaskSettings
from maille.errors import SettingsError
from maille_protocol import TaskFlag

_MAX_DEADLINE_MS = (1 << 32) - 1


class TaskOptions(TypedDict, total=False):
    """Options of one task."""

    version: int
    """Of the model; 0, the usual: the newest."""
    deadline_s: float | None
    """Time the task may take; None, the usual: the coordinator's default."""
    priority: int
    """0 to 9, higher first; 5 is usual."""
    target: str | None
    """Run on this node only."""
    at_most_once: bool
    """Never start it twice, even if its node is lost."""


class MapOptions(TaskOptions, total=False):
    """Options of a map: those of its tasks, and its own."""

    rows: int | None
    """How many rows of whole arrays make a task; 1 unless said."""
    ordered: bool
    """Outputs in the order of the inputs (the usual), or whatever is ready first."""
    progress: bool
    """Draw a bar."""


def settings_of(
    model: str,
    *,
    version: int = 0,
    deadline_s: float | None = None,
    priority: int = 5,
    target: str | None = None,
    at_most_once: bool = False,
) -> TaskSettings:
    """The settings that tasks travel with; the arguments are those of `TaskOptions`.

    Raises:
        SettingsError: a priority, version or deadline out of range.
    """
    if not 0 <= priority <= 9:
        raise SettingsError(f"priority is {priority}: give 0 to 9, higher goes first.")
    if version < 0:
        raise SettingsError(f"version is {version}: give 1 or more, or 0 for the newest.")
    deadline_ms = 0
    if deadline_s is not None:
        deadline_ms = round(deadline_s * 1000)
        if not 0 < deadline_ms <= _MAX_DEADLINE_MS:
            raise SettingsError(f"deadline_s is {deadline_s}: give 0.001 to 4,294,967 seconds.")
    flags = int(TaskFlag.AT_MOST_ONCE) if at_most_once else 0
    return TaskSettings(
        model, version, priority, deadline_ms, 1 if at_most_once else 0, flags, target
    )
