"""One AVR in virtual time: run it for so many microseconds, speak with it, look into it.

Nothing here depends on the machine's clock: the same calls give the same cycles every time. The
chip is simulated by simavr in a process of its own (`runner/`), its UART by our own model of the
data sheet, with the hardware's two-byte buffer and its overruns.
"""

import contextlib
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from maille_node.firmware.targets import AvrTarget
from maille_simulator.boards.closing import Closing
from maille_simulator.boards.runner_build import RunnerError, runner_path

_STATES = ("limbo", "stopped", "running", "sleeping", "step", "step done", "done", "crashed")
_MARK = 255
_STOP_AT_OUTPUT = 1
_STOP_AT_MARK = 2
_PAINT = 0xC5
_FIRST_SRAM = 0x100


@dataclass(frozen=True, slots=True)
class OutputByte:
    """A byte that has left a UART: the cycle at which its stop bit ended, and the speed it had."""

    cycle: int
    value: int
    baud: int


@dataclass(frozen=True, slots=True)
class Mark:
    """A value that the firmware wrote to GPIOR0, and the cycle of the write."""

    cycle: int
    value: int


@dataclass(frozen=True, slots=True)
class UartCounters:
    """What happened on one UART since the board was made."""

    baud: int
    bytes_received: int
    bytes_sent: int
    overruns: int
    frame_errors: int
    waiting: int


class AvrBoard(Closing):
    """A board with its program, stopped at its current cycle between calls.

    Args:
        target: the kind of board.
        elf: the program.
        watch_stack: step instruction by instruction, so that `lowest_stack` is exact (slower).
    """

    def __init__(self, target: AvrTarget, elf: Path, *, watch_stack: bool = False) -> None:
        self.target = target
        self.cycle = 0
        self.state = "running"
        self.marks: list[Mark] = []
        self._output: dict[int, list[OutputByte]] = {}
        self._process = subprocess.Popen(
            [str(runner_path()), target.mcu, str(target.clock_hz), str(elf)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise RunnerError("the AVR runner has no pipes")
        self._requests, self._replies = self._process.stdin, self._process.stdout
        if watch_stack:
            self._ask(b"K", 1)

    def close(self) -> None:
        """Ends the runner."""
        with contextlib.suppress(BrokenPipeError):  # it has ended by itself
            self._requests.close()
        self._replies.close()
        self._process.wait()

    def _ask(self, request: bytes, reply_bytes: int) -> bytes:
        try:
            self._requests.write(request)
            self._requests.flush()
        except BrokenPipeError:
            raise RunnerError("the AVR runner has ended; its last words are above") from None
        return self._read(reply_bytes)

    def _read(self, size: int) -> bytes:
        data = self._replies.read(size)
        if len(data) != size:
            raise RunnerError("the AVR runner has ended; its last words are above")
        return data

    # Time

    @property
    def time_us(self) -> float:
        """Board time since power on, in microseconds."""
        return self.cycle * 1e6 / self.target.clock_hz

    def _cycles(self, time_us: float) -> int:
        return round(time_us * self.target.clock_hz / 1e6)

    def run_to_cycle(self, cycle: int, *, at_output: bool = False, at_mark: bool = False) -> bool:
        """Runs until a cycle, or until a byte has left or a mark was written if asked so.

        Returns:
            False if the program has ended or crashed.
        """
        stops = (_STOP_AT_OUTPUT if at_output else 0) | (_STOP_AT_MARK if at_mark else 0)
        while True:
            reply = self._ask(struct.pack("<cQB", b"R", cycle, stops), 13)
            self.cycle, state, count = struct.unpack("<QBI", reply)
            self.state = _STATES[state]
            events = self._read(14 * count)
            for at, kind, value, baud in struct.iter_unpack("<QBBI", events):
                if kind == _MARK:
                    self.marks.append(Mark(at, value))
                else:
                    self._output.setdefault(kind, []).append(OutputByte(at, value, baud))
            alive = self.state not in {"done", "crashed"}
            if self.cycle >= cycle or not alive or (stops and count):
                return alive

    def run_for_us(self, time_us: float, *, at_output: bool = False, at_mark: bool = False) -> bool:
        """Runs for so many microseconds of board time; otherwise as `run_to_cycle`."""
        return self.run_to_cycle(
            self.cycle + self._cycles(time_us), at_output=at_output, at_mark=at_mark
        )

    def reset(self) -> None:
        """Pulls the reset line: registers start anew, SRAM and EEPROM keep what they hold."""
        self._ask(b"X", 1)

    # UART

    def uart_write(
        self, data: bytes, *, baud: int, uart: int = 0, not_before_us: float = 0.0
    ) -> None:
        """Puts bytes on the wire to the board, one after the other at the given speed.

        They begin now, or at `not_before_us` of board time, or when the wire is free.

        Raises:
            RunnerError: more than 64 KiB are waiting, or there is no such UART.
        """
        head = struct.pack("<cBIQI", b"S", uart, baud, self._cycles(not_before_us), len(data))
        (taken,) = struct.unpack("<I", self._ask(head + data, 4))
        if taken != len(data):
            raise RunnerError(f"UART {uart} took {taken} of {len(data)} bytes")

    def uart_events(self, uart: int = 0) -> list[OutputByte]:
        """The bytes that left the board since the last call, with their times."""
        return list(self._output.pop(uart, ()))

    def uart_read(self, uart: int = 0) -> bytes:
        """The bytes that left the board since the last call."""
        return bytes(event.value for event in self.uart_events(uart))

    def uart_counters(self) -> list[UartCounters]:
        """What happened on each UART."""
        _, count = struct.unpack("<IB", self._ask(b"C", 5))
        rows = self._read(40 * count)
        return [UartCounters(*row) for row in struct.iter_unpack("<IQQQQI", rows)]

    # Memory

    def memory(self, address: int, size: int) -> bytes:
        """Bytes of the data space (registers, I/O, SRAM)."""
        return self._ask(struct.pack("<cII", b"M", address, size), size)

    def write_memory(self, address: int, data: bytes) -> None:
        """Sets bytes of the data space."""
        self._ask(struct.pack("<cII", b"m", address, len(data)) + data, 1)

    def eeprom(self, address: int = 0, size: int | None = None) -> bytes:
        """Bytes of the EEPROM, all of them if no size is given."""
        size = self.target.eeprom_bytes - address if size is None else size
        return self._ask(struct.pack("<cII", b"E", address, size), size)

    def write_eeprom(self, address: int, data: bytes) -> None:
        """Sets bytes of the EEPROM."""
        self._ask(struct.pack("<cII", b"e", address, len(data)) + data, 1)

    def write_flash(self, address: int, data: bytes) -> None:
        """Sets bytes of the program memory, as a boot loader would."""
        self._ask(struct.pack("<cII", b"f", address, len(data)) + data, 1)

    @property
    def program_counter(self) -> int:
        """The byte address of the next instruction: where a program hangs."""
        return int.from_bytes(self._ask(b"D", 4), "little")

    # Stack

    @property
    def lowest_stack(self) -> int:
        """The lowest address that the stack pointer has had (exact with `watch_stack`)."""
        lowest, count = struct.unpack("<IB", self._ask(b"C", 5))
        self._read(40 * count)
        return int(lowest)

    def paint_memory(self) -> None:
        """Fills the SRAM with a pattern; call it before the program runs."""
        self.write_memory(_FIRST_SRAM, bytes([_PAINT]) * self.target.ram_bytes)

    def never_used_bytes(self, static_end: int) -> int:
        """How much painted memory lies untouched above the static data, up to the stack's deepest.

        Args:
            static_end: the address behind the static data (symbol `__heap_start` in the data space).
        """
        end = _FIRST_SRAM + self.target.ram_bytes
        memory = self.memory(static_end, end - static_end)
        return len(memory) - len(memory.lstrip(bytes([_PAINT])))

    # Pins

    def set_analog(self, channel: int, millivolts: int) -> None:
        """Puts a voltage on an analog pin."""
        self._ask(struct.pack("<cBBI", b"A", 0, channel, millivolts), 1)

    def set_pin(self, port: str, bit: int, *, high: bool) -> None:
        """Drives a digital pin, named by port letter and bit."""
        self._ask(struct.pack("<cBBI", b"P", ord(port), bit, int(high)), 1)
