"""Activations in pieces: cut for publishes that fit, and joined again within bounds."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from maille_protocol import Activation

__all__ = ["Joiner", "Unjoinable", "split"]

PART_BYTES = 47 * 1024
"""Data of one publish; what stands around it takes less than the kibibyte left."""


class Unjoinable(Exception):
    """Raised for a part that follows none of what came before, or one that is too large."""


@dataclass(slots=True)
class Joiner:
    """One sender's activations of one session, of which at most one is unfinished."""

    _first: Activation | None = None
    _parts: list[bytes] = field(default_factory=list)
    _size_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """What the unfinished activation holds."""
        return self._size_bytes

    def add(self, activation: Activation, expected_bytes: int) -> bytes | None:
        """Take a part.

        Args:
            activation: whole or a part.
            expected_bytes: of the whole, as its count says.

        Returns:
            All data, or None until the last part is there.

        Raises:
            Unjoinable: the part does not follow, or the whole has another size; nothing is kept.
        """
        if activation.parts == 1:
            # What is unfinished stays: a stray message must not cost an honest sender its parts.
            if len(activation.data) != expected_bytes:
                raise Unjoinable(f"{len(activation.data)} bytes instead of {expected_bytes}")
            return activation.data
        if activation.part == 0:
            self.clear()
            self._first = activation
        first = self._first
        same = replace(activation, part=0, data=b"")
        if (
            first is None
            or not activation.parts
            or activation.part != len(self._parts)
            or same != replace(first, part=0, data=b"")
        ):
            self.clear()
            raise Unjoinable(f"part {activation.part} of {activation.parts} does not follow")
        self._parts.append(activation.data)
        self._size_bytes += len(activation.data)
        last = len(self._parts) == activation.parts
        if self._size_bytes > expected_bytes or (last and self._size_bytes < expected_bytes):
            size_bytes = self._size_bytes
            self.clear()
            raise Unjoinable(f"{size_bytes} bytes instead of {expected_bytes}")
        if not last:
            return None
        data = b"".join(self._parts)
        self.clear()
        return data

    def clear(self) -> None:
        """Forget an unfinished activation."""
        if self._first is not None:
            self._first = None
            self._parts = []
            self._size_bytes = 0


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
