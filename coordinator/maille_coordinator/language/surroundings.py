"""What the coordinator gives its language part to work with."""

from collections.abc import Callable
from dataclasses import dataclass

from maille_coordinator.models import ArtefactStore, Catalogue
from maille_coordinator.records import MeshEvent
from maille_coordinator.store import Store, StoreError
from maille_protocol import Message
from maille_protocol.topics import Topic

__all__ = ["Surroundings"]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the coordinator gives the service to work with."""

    store: Store
    artefacts: ArtefactStore
    catalogue: Catalogue
    now_ms: Callable[[], float]
    send: Callable[[Topic, str, Message], bool]
    publish: Callable[[MeshEvent], None]
    failed: Callable[[StoreError], None]
    """Told that the journal cannot be written: the process must end."""
