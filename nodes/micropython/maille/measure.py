"""What a board says of itself: all of it measured or read here, nothing from a data sheet."""

import gc
import os
import sys
import time
from array import array

from . import codes

_LONG_ENOUGH_US = 20000


def _rate(kernel, parameters: list, model: bytes, operations: int) -> int:
    """Operations in a second of one kernel on made-up data."""
    arena = bytearray(256)
    numbers = array("i", parameters)
    times = 1
    while True:
        began = time.ticks_us()
        for _ in range(times):
            kernel(arena, model, numbers)
        took_us = time.ticks_diff(time.ticks_us(), began)
        if took_us >= _LONG_ENOUGH_US:
            return operations * times * 1000000 // took_us
        times *= 2


def kernel_speeds(kernels) -> list:
    """[(kernel, operations in a second)]."""
    model = bytes(b"\0\0\0\0\0\x40\3" * 8) + bytes(b"\x7f\x81" * 256)
    window = [0, 128, 4, 4, 4, 4, 4, 8, 3, 3, 1, 1, 1, 1]
    tail = [0, 0, 0, 255, 0, 56]
    trees = bytes(8) + b"\0\0" + b"\0\1\0\2\0" + b"\xff\0\0\0\0" * 2 + bytes(4)
    return [
        (codes.KERNEL_DENSE, _rate(kernels.dense, [0, 128, 64, 8, 0, 0, 255, 0, 56], model, 512)),
        (codes.KERNEL_CONVOLUTION, _rate(kernels.conv2d, window + tail, model, 4608)),
        (codes.KERNEL_DEPTHWISE, _rate(kernels.depthwise, window + tail, model, 1152)),
        (codes.KERNEL_FOREST, _rate(kernels.forest, [0, 128, 2, 0, 8, 1, 10, 25], trees, 1)),
    ]


def memory() -> int:
    """Bytes of the heap, used and free."""
    return gc.mem_free() + gc.mem_alloc()


def chip() -> str:
    """The processor's name, of at most 16 characters."""
    name = getattr(sys.implementation, "_machine", sys.platform)
    # "Raspberry Pi Pico with RP2040": what the board is called tells nothing of its speed.
    return name.split(" with ")[-1][:16]


def clock_hz() -> int:
    """Of the processor; where nobody tells, 10^9, so that a cycle is a nanosecond."""
    try:
        import machine

        return machine.freq()
    except (ImportError, AttributeError):
        return 1000000000


def identity(path: str) -> bytes:
    """The chip's own number, or where it has none one that was drawn once and is kept at `path`."""
    try:
        import machine

        return machine.unique_id()[:16]
    except (ImportError, AttributeError):
        pass
    try:
        with open(path, "rb") as file:
            return file.read(8)
    except OSError:
        drawn = os.urandom(8)
    try:
        with open(path, "wb") as file:
            file.write(drawn)
    except OSError:
        return b""
    return drawn


def flash_bytes() -> int:
    """What the file system can hold in all."""
    try:
        facts = os.statvfs(".")
    except OSError:
        return 0
    return facts[1] * facts[2]


def disk_free() -> int:
    """Bytes free on the file system."""
    try:
        facts = os.statvfs(".")
    except OSError:
        return 0
    return facts[0] * facts[3]


def reset_cause() -> int:
    """Why the board started, as the wire says it."""
    try:
        import machine

        cause = machine.reset_cause()
    except (ImportError, AttributeError):
        return codes.RESET_UNKNOWN
    for name, code in (
        ("PWRON_RESET", codes.RESET_POWER),
        ("HARD_RESET", codes.RESET_PIN),
        ("WDT_RESET", codes.RESET_WATCHDOG),
        ("SOFT_RESET", codes.RESET_SOFTWARE),
        ("DEEPSLEEP_RESET", codes.RESET_SLEEP),
    ):
        if getattr(machine, name, None) == cause:
            return code
    return codes.RESET_UNKNOWN


def count_reset(path: str) -> int:
    """One more start than the file says; kept there."""
    try:
        with open(path) as file:
            count = int(file.read()) + 1
    except (OSError, ValueError):
        count = 1
    try:
        with open(path + ".new", "w") as file:
            file.write(str(count))
        os.rename(path + ".new", path)
    except OSError:
        pass  # A full flash is no reason not to start.
    return count
