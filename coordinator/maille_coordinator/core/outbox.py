"""Collects what one round of the core wants done."""

from maille_coordinator.core.actions import Action, Report
from maille_coordinator.records import MeshEvent


class Outbox:
    """Actions in the order in which they must be done."""

    def __init__(self) -> None:
        self._actions: list[Action] = []

    def add(self, *actions: Action) -> None:
        """Want actions done."""
        self._actions += actions

    def report(
        self,
        kind: str,
        now_ms: float,
        subject: str,
        text: str,
        details: dict[str, int | str] | None = None,
    ) -> None:
        """Want an event in the stream for people."""
        self._actions.append(Report(MeshEvent(kind, int(now_ms), subject, text, details or {})))

    def take(self) -> list[Action]:
        """What was collected; the outbox is empty afterwards."""
        actions, self._actions = self._actions, []
        return actions
