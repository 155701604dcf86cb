"""The `gguf` library's reader, made quick for the long lists of a vocabulary.

The library makes an array object of the mapped file for each number and each string, 250,000 for a
small model: that took seconds, and answers wait for it when a coordinator starts anew.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader, GGUFValueType

__all__ = ["QuickReader"]

_COUNT_BYTES = 8


class QuickReader(GGUFReader):
    """Reads what `GGUFReader` reads, and refuses what it refuses.

    Raises:
        ValueError, IndexError, KeyError, OverflowError: the file is damaged.
    """

    @property  # type: ignore[override]  # the library only slices it
    def data(self) -> npt.NDArray[np.uint8]:
        """All bytes of the file, mapped."""
        return self._data

    @data.setter
    def data(self, mapped: npt.NDArray[np.uint8]) -> None:
        # Slices of a memmap are some ten times as slow as those of a plain array.
        self._data = mapped.view(np.ndarray)

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list[npt.NDArray[Any]], list[int], list[GGUFValueType]]:
        if raw_type != GGUFValueType.ARRAY or self.byte_order != "I":
            return super()._get_field_parts(orig_offs, raw_type)
        kind = self._get(orig_offs, np.uint32)
        start = orig_offs + int(kind.nbytes)
        count = self._get(start, np.uint64)
        start += int(count.nbytes)
        item = GGUFValueType(int(kind[0]))
        scalar = self.gguf_scalar_to_np.get(item)
        if item is not GGUFValueType.STRING and scalar is None:
            return super()._get_field_parts(orig_offs, raw_type)
        length = int(count[0])
        parts: list[npt.NDArray[Any]] = [kind, count]
        if scalar is None:
            strings, end = self._strings(start, length)
            parts += strings
        else:
            end = start + length * np.dtype(scalar).itemsize
            self._must_hold(end)
            parts.append(self._get(start, scalar, length))
        types = [GGUFValueType.ARRAY, *([item] if length else [])]
        return end - orig_offs, parts, list(range(2, len(parts))), types

    def _strings(self, start: int, count: int) -> tuple[list[npt.NDArray[np.uint8]], int]:
        """So many strings from an offset on, and where they end."""
        # Each has its length at least: no list grows beyond what the file can hold.
        self._must_hold(start + _COUNT_BYTES * count)
        data = self._data
        raw = memoryview(data.data)
        found = []
        at = start
        for _ in range(count):
            begin = at + _COUNT_BYTES
            at = begin + int.from_bytes(raw[at:begin], "little")
            self._must_hold(at)
            found.append(data[begin:at])
        return found, at

    def _must_hold(self, end: int) -> None:
        if end > self._data.size:
            raise ValueError(f"a list ends at byte {end} of {self._data.size}")
