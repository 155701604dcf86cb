"""What a stage sent on for one session, so that a lost cache behind it can be filled again."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["History", "Step"]


@dataclass(frozen=True, slots=True)
class Step:
    """Some positions that were computed together: `count` rows of equal size."""

    position: int
    count: int
    data: bytes

    def rows(self, start: int, stop: int) -> "Step":
        """The rows from one row to another."""
        if start == 0 and stop == self.count:
            return self
        row_bytes = len(self.data) // self.count
        data = self.data[start * row_bytes : stop * row_bytes]
        return Step(self.position + start, stop - start, data)


class History:
    """Steps without a gap from position 0 on."""

    def __init__(self) -> None:
        self._steps: list[Step] = []

    @property
    def length(self) -> int:
        """Positions held."""
        return self._steps[-1].position + self._steps[-1].count if self._steps else 0

    def append(self, step: Step) -> None:
        """Add what was computed next."""
        if step.position != self.length:
            raise ValueError(f"position {step.position} does not follow {self.length}")
        self._steps.append(step)

    def beginning(self, length: int) -> "History":
        """A history of its own with the first `length` positions."""
        found = History()
        found._steps = self._steps.copy()
        found.cut(length)
        return found

    def cut(self, length: int) -> None:
        """Forget all positions from `length` on."""
        while self._steps and self._steps[-1].position >= length:
            self._steps.pop()
        if self._steps and self.length > length:
            last = self._steps.pop()
            self._steps.append(last.rows(0, length - last.position))

    def between(self, start: int, stop: int) -> Iterator[Step]:
        """The positions from `start` to `stop`, in the steps they were computed in."""
        at = max(0, bisect_right(self._steps, start, key=lambda step: step.position) - 1)
        for step in self._steps[at:]:
            if step.position >= stop:
                return
            first = max(0, start - step.position)
            last = min(step.count, stop - step.position)
            if first < last:
                yield step.rows(first, last)
