"""Where the parts of the core put what they want done."""

from maille_coordinator.boards.actions import Action, Report
from maille_coordinator.records import MeshEvent


class Outbox:
    """Actions in order."""

    def __init__(self) -> None:
        self._actions: list[Action] = []

    def add(self, *actions: Action) -> None:
        """Want these done."""
        self._actions += actions

    def report(
        self, kind: str, now_ms: float, subject: str, text: str, **details: int | str
    ) -> None:
        """Put an event into the stream for people."""
        self.add(Report(MeshEvent(kind, int(now_ms), subject, text, dict(details))))

    def take(self) -> list[Action]:
        """All that was wanted since."""
        actions, self._actions = self._actions, []
        return actions
