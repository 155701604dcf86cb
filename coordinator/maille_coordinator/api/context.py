"""What every route of one application works with."""

import asyncio
from dataclasses import dataclass, field

from maille_coordinator.models.tiny_models import TinyModels
from maille_coordinator.records import ModelRecord
from maille_coordinator.service import Service
from maille_protocol import ModelFormat
from maille_protocol.tiny import Model

MAX_TASK_BODY_BYTES = 64 * 1024 * 1024
MAX_OTHER_BODY_BYTES = 1024 * 1024
_INSPECTIONS_AT_ONCE = 2
"""Each is a process that loads a model."""


@dataclass(frozen=True, slots=True)
class Context:
    """The running coordinator and the limits of its API."""

    service: Service
    max_task_body_bytes: int = MAX_TASK_BODY_BYTES
    inspections: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(_INSPECTIONS_AT_ONCE)
    )
    tiny_models: TinyModels = field(init=False)

    def __post_init__(self) -> None:
        """Read tiny models from the service's artefacts."""
        object.__setattr__(self, "tiny_models", TinyModels(self.service.artefacts))

    def tiny(self, record: ModelRecord | None) -> Model | None:
        """The decoded model of a record in the tiny format, None for another. ModelsError."""
        if record is None or record.format is not ModelFormat.TINY:
            return None
        return self.tiny_models.get(record.sha256)
