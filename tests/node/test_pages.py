"""Weights in large pages: nothing in them changes, and nothing that is not used is taken."""

import mmap
import re
import sys
from pathlib import Path

import psutil
import pytest

from maille_node.language.pages import join_pages

MIB = 1 << 20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="large pages are made on Linux")


def large_bytes() -> int:
    found = re.search(r"AnonHugePages: *(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    return int(found[1]) << 10 if found else 0


def test_used_memory_is_joined_and_keeps_its_bytes() -> None:
    release = tuple(map(int, re.findall(r"\d+", Path("/proc/sys/kernel/osrelease").read_text())))
    if release[:2] < (6, 1) or not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("this system joins no pages when it is asked to")
    memory = mmap.mmap(-1, 32 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pattern = bytes(range(251)) * (32 * MIB // 251 + 1)
    before_bytes = large_bytes()
    memory[:] = pattern[: 32 * MIB]

    joined = join_pages()

    assert joined >= 15
    assert large_bytes() - before_bytes >= 24 * MIB
    assert memory[:] == pattern[: 32 * MIB]


def test_memory_that_is_mostly_unused_stays_so() -> None:
    memory = mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, len(memory), 4 * mmap.PAGESIZE):
        memory[at] = 1
    before_bytes = psutil.Process().memory_info().rss

    join_pages()

    assert psutil.Process().memory_info().rss - before_bytes < 16 * MIB
