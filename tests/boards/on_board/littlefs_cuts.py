"""Run by MicroPython: deliveries onto littlefs, the file system of boards, with the power cut at
every single block that is erased or programmed, whole or half.

    micropython littlefs_cuts.py OLD NEW CHUNK_BYTES STEP

Prints how many cuts were tried and a line for each that did not end well.
"""

import hashlib
import sys

import vfs

from maille import store

OLD, NEW = sys.argv[1:3]
CHUNK_BYTES, STEP = int(sys.argv[3]), int(sys.argv[4])
BLOCK_BYTES = 512
BLOCKS = 96


class PowerCut(Exception):
    pass


class Flash:
    """A block device in memory whose power fails before change number `cut`."""

    def __init__(self, content):
        self.content = content
        self.changes = 0
        self.cut = 0
        self.dead = False

    def readblocks(self, block, buffer, offset=0):
        start = block * BLOCK_BYTES + offset
        buffer[:] = memoryview(self.content)[start : start + len(buffer)]

    def _change(self):
        self.changes += 1
        if self.cut and self.changes >= self.cut:
            self.dead = True
        return self.dead

    def writeblocks(self, block, buffer, offset=0):
        start = block * BLOCK_BYTES + offset
        if self._change():
            if self.changes == self.cut:
                half = len(buffer) // 2
                memoryview(self.content)[start : start + half] = memoryview(buffer)[:half]
            raise OSError(5)
        memoryview(self.content)[start : start + len(buffer)] = buffer

    def ioctl(self, operation, argument):
        if operation == 4:
            return BLOCKS
        if operation == 5:
            return BLOCK_BYTES
        if operation == 6:
            if self._change():
                raise OSError(5)
            start = argument * BLOCK_BYTES
            memoryview(self.content)[start : start + BLOCK_BYTES] = b"\xff" * BLOCK_BYTES
            return 0
        return 0


def read(path):
    with open(path, "rb") as file:
        return file.read()


def reference(container):
    return ["model", 1, hashlib.sha256(container).digest(), len(container), 2]


def deliver(kept, container, progress):
    offset = kept.begin(reference(container))
    progress.append(offset)
    while offset < len(container):
        offset = kept.store(container[offset : offset + CHUNK_BYTES])
        progress.append(offset)
    return kept.finish()[0]


old, new = read(OLD), read(NEW)
flash = Flash(bytearray(BLOCKS * BLOCK_BYTES))
vfs.VfsLfs2.mkfs(flash)
vfs.mount(vfs.VfsLfs2(flash), "/flash")
deliver(store.Store("/flash/models", 8192, 1024), old, [])
vfs.umount("/flash")
start = bytes(flash.content)
names = {reference(old)[2]: "old", reference(new)[2]: "new"}

cut = 0
resumed = 0
seen = set()
while True:
    cut += STEP
    flash = Flash(bytearray(start))
    vfs.mount(vfs.VfsLfs2(flash), "/flash")
    flash.cut = cut
    flash.changes = 0
    kept = store.Store("/flash/models", 8192, 1024)
    kept.load()
    progress = []
    try:
        deliver(kept, new, progress)
        finished = not flash.dead
    except Exception:
        finished = False
    try:
        vfs.umount("/flash")
    except OSError:
        pass
    # The power is back: another process, another mount, the same bytes.
    flash = Flash(flash.content)
    vfs.mount(vfs.VfsLfs2(flash), "/flash")
    kept = store.Store("/flash/models", 8192, 1024)
    models = kept.load()
    name = names.get(models[0].sha256) if models else None
    seen.add(name)
    if name is None or (finished and name != "new"):
        print("FAULT", cut, "held", name)
    elif not all([kept.model.self_test(i) for i in range(kept.model.self_tests())]):
        print("FAULT", cut, "self-test")
    if name == "old":
        offset = kept.begin(reference(new))
        if progress and offset < progress[-1]:
            print("FAULT", cut, "goes on at", offset, "had", progress[-1])
        resumed += offset > 0
        models = deliver(kept, new, [])
        if names.get(models[0].sha256) != "new":
            print("FAULT", cut, "not delivered in the end")
    vfs.umount("/flash")
    if finished:
        break
print("cuts", cut // STEP - 1, "resumed", resumed, "seen", sorted([str(name) for name in seen]))
