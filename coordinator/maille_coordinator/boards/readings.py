"""Keeps the last readings of every sense, and says what they mean."""

from collections import deque
from dataclasses import dataclass

from maille_coordinator.boards.service import ReadingView
from maille_coordinator.models import ModelsError
from maille_coordinator.models.tiny_models import TinyModels
from maille_protocol import ErrorCode, Reading, UsageError, WireError
from maille_protocol.tensors import decode_tensors
from maille_protocol.tiny import dequantise_outputs

KEPT_READINGS = 200
"""Of each sense; the newest ones."""

_MOST_VALUES = 1024


@dataclass(frozen=True, slots=True)
class Kept:
    """A reading with the model it is of."""

    reading: Reading
    at_unix_ms: int
    sha256: bytes


class ReadingStore:
    """The last readings by sense, in memory: what matters longer is told as events."""

    def __init__(self, models: TinyModels) -> None:
        self._models = models
        self._kept: dict[int, deque[Kept]] = {}

    def add(self, reading: Reading, sha256: bytes, now_ms: float) -> ReadingView:
        """Keep one; returns how people see it."""
        kept = Kept(reading, int(now_ms) - reading.age_ms, sha256)
        self._kept.setdefault(reading.sense, deque(maxlen=KEPT_READINGS)).append(kept)
        return self._view(kept)

    def forget(self, sense: int) -> None:
        """Drop all of a sense."""
        self._kept.pop(sense, None)

    def latest(self, sense: int) -> ReadingView | None:
        """The newest one."""
        kept = self._kept.get(sense)
        return self._view(kept[-1]) if kept else None

    def newest(self, sense: int, limit: int) -> list[ReadingView]:
        """The last ones, newest first."""
        kept = self._kept.get(sense, ())
        return [self._view(found) for found in list(reversed(kept))[:limit]]

    def _view(self, kept: Kept) -> ReadingView:
        reading = kept.reading
        outputs: dict[str, object] | None = None
        code, text = reading.code, ""
        if code is not ErrorCode.NONE:
            text = reading.content.decode("utf-8", "replace")
        else:
            try:
                outputs = self._outputs(kept)
            except (WireError, UsageError, ModelsError, OSError) as error:
                code, text = ErrorCode.MODEL_ERROR, f"the outputs cannot be read: {error}"
        return ReadingView(
            reading.sense,
            reading.counter,
            kept.at_unix_ms,
            code.name.lower(),
            text,
            outputs,
            reading.run_us,
        )

    def _outputs(self, kept: Kept) -> dict[str, object]:
        arrays = dequantise_outputs(
            self._models.get(kept.sha256), decode_tensors(kept.reading.content)
        )
        if sum(array.size for array in arrays.values()) > _MOST_VALUES:
            raise UsageError(f"more than {_MOST_VALUES} values in one reading")
        return {name: array.tolist() for name, array in arrays.items()}
