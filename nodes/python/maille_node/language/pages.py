"""Giving memory back to the system: mapped file pages that were read once, and freed heap."""

import ctypes
import sys
from pathlib import Path

__all__ = ["forget_pages", "trim_heap"]

_MADV_DONTNEED = 4
_PROCESS_MAPS = Path("/proc/self/maps")


def forget_pages(path: Path) -> None:
    """Drop this process's resident pages of a mapped file; read again when they are touched.

    The mappings stay valid. They must be unwritten: ONNX Runtime's are, it maps weights to read
    them. Counted as resident they would be, until the system is short of memory. Does nothing
    where the system is not Linux.
    """
    if sys.platform != "linux":
        return
    name = str(path.resolve())
    library = ctypes.CDLL(None)
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in _PROCESS_MAPS.read_text().splitlines():
        addresses, _, rest = line.partition(" ")
        if rest.partition("/")[2] == name[1:]:
            start, end = (int(address, 16) for address in addresses.split("-"))
            library.madvise(start, end - start, _MADV_DONTNEED)


def trim_heap() -> None:
    """Give freed heap back to the system, which the C library keeps; does nothing elsewhere."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
