"""Activations in pieces: cut for publishes that fit, and joined again within bounds."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from maille_protocol import Activation

__all__ = ["Joiner", "Unjoinable", "split"]

PART_BYTES = 47 * 1024
"""Data of one publish; what stands around it takes less than the kibibyte left."""

MAX_PARTS = 1024
MAX_UNFINISHED = 8
"""Activations of one session of which some parts are missing; more are not under way at a time."""


class Unjoinable(Exception):
    """Raised for a part that contradicts what came before, or a whole of another size."""


@dataclass(slots=True)
class Joiner:
    """Unfinished activations of one session: parts may come in any order, and twice."""

    _unfinished: OrderedDict[Activation, dict[int, bytes]] = field(default_factory=OrderedDict)
    """Parts by number, by what all parts of an activation have in common; the oldest first."""

    def add(self, activation: Activation, expected_bytes: int) -> bytes | None:
        """Take a part.

        Args:
            activation: whole or a part.
            expected_bytes: of the whole, as its count says.

        Returns:
            All data, or None until the last part is there.

        Raises:
            Unjoinable: the part contradicts what came before, or the whole has another size;
                nothing of that activation is kept.
        """
        if activation.parts == 1:
            if len(activation.data) != expected_bytes:
                raise Unjoinable(f"{len(activation.data)} bytes instead of {expected_bytes}")
            return activation.data
        part, count, data = activation.part, activation.parts, activation.data
        if not (data and 0 <= part < count <= MAX_PARTS):
            raise Unjoinable(f"part {part} of {count} with {len(data)} bytes")
        whole = replace(activation, part=0, data=b"")
        parts = self._unfinished.get(whole)
        if parts is None:
            if len(self._unfinished) >= MAX_UNFINISHED:
                self._unfinished.popitem(last=False)
            parts = self._unfinished[whole] = {}
        known = parts.setdefault(part, data)
        size_bytes = sum(map(len, parts.values()))
        last = len(parts) == count
        # A part has at least a byte, so one that is full has no room for those that are missing.
        fits = size_bytes == expected_bytes if last else size_bytes < expected_bytes
        if known != data or not fits:
            del self._unfinished[whole]
            raise Unjoinable(f"{size_bytes} bytes in {len(parts)} parts, {expected_bytes} in all")
        if not last:
            return None
        del self._unfinished[whole]
        return b"".join(parts[number] for number in range(count))

    def clear(self) -> None:
        """Forget what is unfinished."""
        self._unfinished.clear()


def split(activation: Activation) -> Iterator[Activation]:
    """An activation as parts that each fit a publish; itself if it does."""
    data = activation.data
    if len(data) <= PART_BYTES:
        yield activation
        return
    parts = -(-len(data) // PART_BYTES)
    for part in range(parts):
        piece = data[part * PART_BYTES : (part + 1) * PART_BYTES]
        yield replace(activation, part=part, parts=parts, data=piece)
