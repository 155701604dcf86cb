"""Run by MicroPython: a node whose library lies in flash that the processor sees as memory (ROMFS).

    micropython from_flash.py IMAGE SETTINGS

On a board such flash is outside the heap. Here it is the stack of a thread that does nothing.
"""

import sys


def mount(path):
    """Put the image of a ROMFS into memory outside the heap and mount it on /rom."""
    import _thread
    import os
    import time

    import uctypes
    import vfs

    def mapped():
        with open("/proc/self/maps") as file:
            return [line.split()[0] for line in file]

    def idle():
        while True:
            time.sleep(3600)

    size = os.stat(path)[6]
    before = mapped()
    # Whole pages: the system rounds down.
    _thread.stack_size((size + 65536 + 4095) // 4096 * 4096)
    _thread.start_new_thread(idle, ())
    for place in mapped():
        start, end = [int(number, 16) for number in place.split("-")]
        if place not in before and end - start >= size + 65536:
            # A stack grows down: its low end is never reached by a thread that sleeps.
            memory = uctypes.bytearray_at(start + 4096, size)
            with open(path, "rb") as file:
                file.readinto(memory)
            vfs.mount(vfs.VfsRom(memory), "/rom")
            return
    raise OSError("no memory for the image")


mount(sys.argv[1])
del mount
sys.path[:] = ["/rom", ".frozen"]

from maille import main

main(sys.argv[2])
