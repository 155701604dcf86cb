"""AVR kernels and a whole Uno, counted in the simulator's cycles: `python -m bench.avr [--json FILE]`.

The figures are exact and the same on every machine: nothing here depends on how fast it runs.
"""

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from maille_node.firmware import avr
from maille_node.firmware.targets import MEGA, UNO, AvrTarget
from maille_protocol.serial.messages import Info, OfferTask, TaskResult
from maille_simulator.boards.avr import AvrBoard
from maille_simulator.boards.wire import VirtualHost

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ((64, 32), (32, 10), (128, 40), (256, 64))
NAMES = ("tuned", "plain", "tuned_32_bit_sums")
CORE = ("link", "framing", "cbor", "node")


def array(name: str, data: bytes) -> str:
    return f"const uint8_t {name}[] PROGMEM = {{{','.join(map(str, data))}}};\n"


def layer_cycles(target: AvrTarget, inputs: int, outputs: int, folder: Path) -> dict[str, float]:
    """Cycles for each multiply-accumulate of a whole dense layer in flash, requantisation included."""
    rng = np.random.default_rng(1)
    channels = np.zeros(outputs, [("bias", "<i4"), ("multiplier", "<u2"), ("shift", "u1")])
    channels["bias"] = rng.integers(-20_000, 20_000, outputs)
    channels["multiplier"] = rng.integers(16_384, 32_769, outputs)
    channels["shift"] = rng.integers(4, 10, outputs)
    folder.mkdir(parents=True)
    (folder / "data.h").write_text(
        f"#include <avr/pgmspace.h>\nconst uint16_t inputs = {inputs}, outputs = {outputs};\n"
        + array("weights", rng.integers(1, 256, inputs * outputs, np.uint8).tobytes())
        + array("channels", channels.tobytes()),
        encoding="utf-8",
    )
    program = ROOT / "tests/boards/firmware/kernel_cycles.cpp"
    built = avr.build(program, target, folder / "out", include=(folder,), with_core=False)
    with AvrBoard(target, built.elf) as board:
        board.run_for_us(60e6)
        spans = [b.cycle - a.cycle for a, b in itertools.pairwise(board.marks)]
    return {
        name: round(span / (inputs * outputs), 2) for name, span in zip(NAMES, spans, strict=True)
    }


def digits(target: AvrTarget, folder: Path) -> dict[str, float]:
    """The example on a board: one run, one round trip at 500,000 baud, memory."""
    sketch = ROOT / "nodes/arduino/examples/DigitsOnUno/DigitsOnUno.ino"
    built = avr.build(sketch, target, folder)
    with AvrBoard(target, built.elf) as board:
        board.paint_memory()
        host = VirtualHost(board)
        host.wait_for(Info)
        joined_ms = host.now_ms
        host.run_for_ms(400)
        start_ms = host.now_ms
        host.send(OfferTask(1, 0, 1000, (bytes(range(64)),)))
        result = host.wait_for(TaskResult)
        round_trip_ms = host.now_ms - start_ms
        heap = avr.symbols(built)["__heap_start"][0] & 0xFFFF
        return {
            "joined_after_ms": round(joined_ms, 2),
            "run_ms": result.run_us / 1000,
            "round_trip_ms": round(round_trip_ms, 2),
            "flash_bytes": built.flash_bytes,
            "static_ram_bytes": built.ram_bytes,
            "stack_never_used_bytes": board.never_used_bytes(heap),
            "overruns": board.uart_counters()[0].overruns,
        }


def core_sizes(folder: Path) -> dict[str, int]:
    """Flash of link, framing, CBOR and node core on the Uno, by file."""
    sketch = ROOT / "nodes/arduino/examples/FirstNode/FirstNode.ino"
    built = avr.build(sketch, UNO, folder, whole_program=False)
    sizes = avr.file_sizes(built)
    return {name: sizes[name][0] for name in CORE} | {
        "total_flash_bytes": sum(sizes[name][0] for name in CORE)
    }


def measure() -> dict[str, Any]:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="maille-bench-avr-") as name:
        folder = Path(name)
        for target in (UNO, MEGA):
            found[target.name] = {
                "cycles_per_multiply_accumulate": {
                    f"{inputs}x{outputs}": layer_cycles(
                        target, inputs, outputs, folder / f"{target.name}-{inputs}"
                    )
                    for inputs, outputs in LAYERS
                },
                "digits": digits(target, folder / f"digits-{target.name}"),
            }
        found["core"] = core_sizes(folder / "core")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    found = measure()
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
