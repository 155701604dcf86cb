"""What every route of one application works with."""

import asyncio
from dataclasses import dataclass, field

from maille_coordinator.service import Service

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
