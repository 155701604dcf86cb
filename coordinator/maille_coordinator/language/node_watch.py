"""What the task core knows of nodes, as events of the language core."""

from collections.abc import Iterable, Iterator

from maille_coordinator.core import Core
from maille_coordinator.core.registry import NodeRecord
from maille_coordinator.language import events as happened
from maille_protocol import Message, ModelFormat, NodeState, StageReport, Tokens

__all__ = ["NodeWatch"]


class NodeWatch:
    """Remembers how each node that holds slices was last seen."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, bool, bool, bool]] = {}
        """Boot, alive, takes work, draining."""

    def observe(
        self, core: Core, heard: Iterable[tuple[str, int, Message]]
    ) -> Iterator[happened.Event]:
        """What is new after a round of the task core; arguments as of `LanguageService.observe`."""
        for node, boot, message in heard:
            record = core.registry.get(node)
            if record is None or record.boot != boot:
                continue
            if record.info is not None and ModelFormat.SLICE in record.info.formats:
                self._seen.setdefault(node, (0, False, False, False))
            if isinstance(message, StageReport):
                yield from self._changes(record)
                yield happened.StageReported(node, message)
            elif isinstance(message, Tokens):
                yield happened.TokensCame(node, message)
        for node in list(self._seen):
            known = core.registry.get(node)
            if known is not None:
                yield from self._changes(known)

    def _changes(self, record: NodeRecord) -> Iterator[happened.NodeChanged]:
        draining = record.drain_wanted or record.state is NodeState.DRAINING
        alive = record.alive and record.confirmed
        now = (record.boot, alive, record.takes_work, draining)
        if self._seen.get(record.node) == now or record.info is None:
            return
        self._seen[record.node] = now
        memory = record.info.measured.memory_bytes
        yield happened.NodeChanged(record.node, *now, memory)
