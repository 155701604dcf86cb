"""What tests of AVR firmware share: building, the digits, running a program of one test to its end."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from maille_node.firmware import avr
from maille_node.firmware.targets import TARGETS, AvrTarget
from maille_simulator.boards.avr import AvrBoard

REPOSITORY = Path(__file__).resolve().parents[2]
ARDUINO = REPOSITORY / "nodes" / "arduino"
FIRMWARE = Path(__file__).parent / "firmware"
needs_avr = pytest.mark.skipif(
    shutil.which("avr-gcc") is None, reason="avr-gcc is not installed: apt install gcc-avr"
)


def array(name: str, data: bytes) -> str:
    """A C array in flash."""
    return f"const uint8_t {name}[] PROGMEM = {{{','.join(map(str, data))}}};\n"


def build(
    source: Path, target: AvrTarget, output: Path, *, include: tuple[Path, ...] = ()
) -> avr.Build:
    """A sketch, or a program of tests/boards/firmware without the Arduino core."""
    return avr.build(source, target, output, include=include, with_core=source.suffix == ".ino")


def example(name: str, target: str, output: Path, include: tuple[Path, ...] = ()) -> avr.Build:
    """One of the library's examples."""
    sketch = ARDUINO / "examples" / name / f"{name}.ino"
    return build(sketch, TARGETS[target], output, include=include)


def finished(board: AvrBoard, limit_us: float = 60e6) -> None:
    """Runs a program until it sleeps with interrupts off."""
    board.run_for_us(limit_us)
    assert board.state == "done"


def variable(built: avr.Build, board: AvrBoard, name: str, size: int) -> bytes:
    """The bytes of a variable in SRAM."""
    return board.memory(avr.symbols(built)[name][0] & 0xFFFF, size)


def records(biases: np.ndarray, multipliers: np.ndarray, shifts: np.ndarray) -> bytes:
    """Channel records of the tiny format."""
    rows = np.zeros(len(biases), [("bias", "<i4"), ("multiplier", "<u2"), ("shift", "u1")])
    rows["bias"], rows["multiplier"], rows["shift"] = biases, multipliers, shifts
    return rows.tobytes()


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
