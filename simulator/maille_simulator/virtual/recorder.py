"""What a report shows of a virtual run: attempts by node, marks in time."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Recorder:
    """Collects while a run goes on. Times are ms since its start."""

    attempts: list[tuple[str, bytes, float, float]] = field(default_factory=list)
    """(node, task id, start, end)"""
    marks: list[tuple[float, str]] = field(default_factory=list)
    most_attempts: int = 20_000

    def attempt(self, node: str, task_id: bytes, start_ms: float, end_ms: float) -> None:
        """A run on a node."""
        if len(self.attempts) < self.most_attempts:
            self.attempts.append((node, task_id, start_ms, end_ms))

    def mark(self, at_ms: float, text: str) -> None:
        """Something that a plot should show."""
        self.marks.append((at_ms, text))
