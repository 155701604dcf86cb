"""Memory and the system: pages given back, freed heap given back, weights in large pages."""

import ctypes
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

__all__ = ["forget_pages", "join_pages", "trim_heap"]

_MADV_DONTNEED = 4
_MADV_COLLAPSE = 25
_PROCESS_MAPS = Path("/proc/self/maps")
_PROCESS_PAGES = Path("/proc/self/pagemap")
_LARGE_PAGE_BYTES = 2 << 20
_PAGES_OF_LARGE = _LARGE_PAGE_BYTES // mmap.PAGESIZE
_USUAL_PAGE_BYTES = 4096
_PAGE_RESIDENT = np.uint64(1 << 63)
_LEAST_RESIDENT = _PAGES_OF_LARGE * 15 // 16
"""A large page is filled whole: where less is in use, joining would take more memory."""


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


def join_pages() -> int:
    """Put this process's heap into pages of 2 MiB, where all but a little of one is in use already.

    Decoding reads every weight once a token, and each of the usual 4 KiB pages costs a walk through
    the page tables: with large ones a token of SmolLM2 takes a tenth less time. Contents and
    addresses stay. Takes about 1 ms for each MiB; does nothing where the system is not Linux on a
    processor with such pages, or older than 6.1.

    Returns:
        How many large pages were made, or were there already.
    """
    if sys.platform != "linux" or mmap.PAGESIZE != _USUAL_PAGE_BYTES:
        return 0
    library = ctypes.CDLL(None)
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    joined = 0
    try:
        with _PROCESS_PAGES.open("rb", buffering=0) as pages:
            for start, end in _heap_ranges():
                for at in range(start, end, _LARGE_PAGE_BYTES):
                    pages.seek(at // _LARGE_PAGE_BYTES * _PAGES_OF_LARGE * 8)
                    entries = np.frombuffer(pages.read(_PAGES_OF_LARGE * 8), np.uint64)
                    if np.count_nonzero(entries & _PAGE_RESIDENT) >= _LEAST_RESIDENT:
                        joined += not library.madvise(at, _LARGE_PAGE_BYTES, _MADV_COLLAPSE)
    except OSError:
        return joined  # a system that shows no process its pages; small ones do as well
    return joined


def _heap_ranges() -> Iterator[tuple[int, int]]:
    """First and last address of writable memory without a file, in whole large pages."""
    for line in _PROCESS_MAPS.read_text().splitlines():
        addresses, rights, _, _, inode, *name = line.split(None, 5)
        if inode != "0" or rights != "rw-p" or name not in ([], ["[heap]"]):
            continue
        start, end = (int(address, 16) for address in addresses.split("-"))
        start = -(-start // _LARGE_PAGE_BYTES) * _LARGE_PAGE_BYTES
        end = end // _LARGE_PAGE_BYTES * _LARGE_PAGE_BYTES
        if start < end:
            yield start, end


def trim_heap() -> None:
    """Give freed heap back to the system, which the C library keeps; does nothing elsewhere."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
