"""Run by MicroPython: a delivery that is killed at a chosen write, and what is there afterwards.

    micropython store_cuts.py deliver FOLDER MODEL CHUNK_BYTES CUT
    micropython store_cuts.py resume FOLDER MODEL CHUNK_BYTES

`deliver` kills its own process before write number CUT (0: never) and prints how many writes there
were; a cut within a write leaves half of it. `resume` prints which model is held after the start,
where the transfer goes on, and which model is held in the end.
"""

import hashlib
import os
import sys

from maille import store

MODE, FOLDER, MODEL = sys.argv[1:4]
CHUNK_BYTES = int(sys.argv[4])
CUT = int(sys.argv[5]) if MODE == "deliver" else 0
NAMES = {}


class Power:
    """Counts what changes the file system; ends the process at its time."""

    def __init__(self):
        self.writes = 0
        self.stored = 0

    def change(self):
        self.writes += 1
        if self.writes == CUT:
            print("stored", self.stored)
            os.system("kill -9 $PPID")


power = Power()


class CutFile:
    def __init__(self, file):
        self._file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        power.change()
        self._file.close()

    def write(self, data):
        data = bytes(data)
        self._file.write(data[: len(data) // 2])
        self._file.flush()
        power.change()
        self._file.write(data[len(data) // 2 :])
        self._file.flush()
        power.change()
        return len(data)


class CutSystem:
    def rename(self, old, new):
        power.change()
        os.rename(old, new)

    def remove(self, path):
        os.stat(path)
        power.change()
        os.remove(path)

    def mkdir(self, path):
        os.mkdir(path)

    def stat(self, path):
        return os.stat(path)


def cut_open(path, mode="r"):
    if "r" in mode:
        return open(path, mode)
    power.change()
    return CutFile(open(path, mode))


store.open = cut_open
store.os = CutSystem()


def held(models):
    return NAMES.get(models[0].sha256, "another") if models else "none"


with open(MODEL, "rb") as file:
    container = file.read()
sha256 = hashlib.sha256(container).digest()
NAMES[sha256] = "new"
kept = store.Store(FOLDER, 8192, 1024)
models = kept.load()
print("held", held(models))
if held(models) != "new":
    # The model in use when the power came back runs all its tests.
    assert not models or all([kept.model.self_test(i) for i in range(kept.model.self_tests())])
    offset = kept.begin(["new", 1, sha256, len(container), 2])
    print("offset", offset)
    while offset < len(container):
        offset = kept.store(container[offset : offset + CHUNK_BYTES])
        power.stored = offset
    models, _ = kept.finish()
assert kept.model.self_test(0)
print("writes", power.writes)
print("held", held(models))
