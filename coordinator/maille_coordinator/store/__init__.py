"""The journal: what the coordinator must still know after it was killed."""

from maille_coordinator.store.errors import (
    JournalConflict,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreVersion,
)
from maille_coordinator.store.journal import JournalRecord, Store, StoreCounts
from maille_coordinator.store.sessions import StoredSession

__all__ = [
    "JournalConflict",
    "JournalRecord",
    "Store",
    "StoreCorrupt",
    "StoreCounts",
    "StoreError",
    "StoreFull",
    "StoreLocked",
    "StoreVersion",
    "StoredSession",
]
