"""AVR kernels and a whole Uno, counted in the simulator's cycles: `python -m bench.avr [--json FILE]`.

The figures are exact and the same on every machine: nothing here depends on how fast it runs.
"""

import argparse
import itertools
import json
import tempfile
import zlib
from dataclasses import astuple, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from maille_node.firmware import avr
from maille_node.firmware.targets import MEGA, UNO, AvrTarget
from maille_protocol.codes import ModelState
from maille_protocol.serial.messages import (
    Deploy,
    Info,
    ModelChunk,
    ModelStateReport,
    OfferTask,
    TaskResult,
    Want,
)
from maille_protocol.tiny import (
    Dense,
    Description,
    Model,
    Quantisation,
    Requantisation,
    TensorDescription,
    Window,
    encode_model,
    make_self_tests,
)
from maille_protocol.tiny.codes import FLAG_ACCUMULATOR_24
from maille_simulator.boards.avr import AvrBoard
from maille_simulator.boards.wire import VirtualHost

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ((64, 32), (32, 10), (24, 16), (128, 40), (256, 64))
NAMES = ("tuned", "plain", "tuned_32_bit_sums", "tuned_eeprom", "plain_eeprom")
WINDOW_NAMES = ("plain", "tuned", "tuned_eeprom", "plain_eeprom")
# Depthwise or not; input, output, kernel, strides and padding as in TINY.md. Padded to the same size.
WINDOWS = {
    "conv 8x8x8 to 8, 3x3": (False, Window(8, 8, 8, 8, 8, 8, 3, 3, 1, 1, 1, 1)),
    "conv 8x8x1 to 8, 3x3": (False, Window(8, 8, 1, 8, 8, 8, 3, 3, 1, 1, 1, 1)),
    "conv 8x8x8 to 8, 1x1": (False, Window(8, 8, 8, 8, 8, 8, 1, 1, 1, 1, 0, 0)),
    "depthwise 8x8x8, 3x3": (True, Window(8, 8, 8, 8, 8, 8, 3, 3, 1, 1, 1, 1)),
    "depthwise 16x16x2, 3x3": (True, Window(16, 16, 2, 16, 16, 2, 3, 3, 1, 1, 1, 1)),
    "depthwise 8x8x8, 3x3, stride 2": (True, Window(8, 8, 8, 4, 4, 8, 3, 3, 2, 2, 0, 0)),
    "depthwise 8x8x8, 5x5": (True, Window(8, 8, 8, 8, 8, 8, 5, 5, 1, 1, 2, 2)),
    "depthwise 1x64x8, 1x9": (True, Window(1, 64, 8, 1, 64, 8, 1, 9, 1, 1, 0, 4)),
}
CORE = ("link", "framing", "cbor", "node")


def array(name: str, data: bytes) -> str:
    return f"const uint8_t {name}[] PROGMEM = {{{','.join(map(str, data))}}};\n"


def parameters(outputs: int, weights: int) -> tuple[bytes, bytes]:
    """Random records of channels, and weights."""
    rng = np.random.default_rng(1)
    channels = np.zeros(outputs, [("bias", "<i4"), ("multiplier", "<u2"), ("shift", "u1")])
    channels["bias"] = rng.integers(-20_000, 20_000, outputs)
    channels["multiplier"] = rng.integers(16_384, 32_769, outputs)
    channels["shift"] = rng.integers(4, 10, outputs)
    return channels.tobytes(), rng.integers(1, 256, weights, np.uint8).tobytes()


def marks(
    program: str, target: AvrTarget, folder: Path, constants: str, channels: bytes, weights: bytes
) -> list[int]:
    """Cycles at the marks of a test program that has the layer in flash and in its EEPROM."""
    folder.mkdir(parents=True)
    (folder / "data.h").write_text(
        f"#include <avr/pgmspace.h>\n{constants}\n"
        + array("weights", weights)
        + array("channels", channels),
        encoding="utf-8",
    )
    source = ROOT / "tests/boards/firmware" / program
    built = avr.build(source, target, folder / "out", include=(folder,), with_core=False)
    with AvrBoard(target, built.elf) as board:
        if len(weights + channels) <= target.eeprom_bytes:
            board.write_eeprom(0, weights + channels)
        board.run_for_us(60e6)
        return [mark.cycle for mark in board.marks]


def layer_cycles(target: AvrTarget, inputs: int, outputs: int, folder: Path) -> dict[str, float]:
    """Cycles for each multiply-accumulate of a whole dense layer, requantisation included."""
    channels, weights = parameters(outputs, inputs * outputs)
    constants = f"const uint16_t inputs = {inputs}, outputs = {outputs};"
    found = marks("kernel_cycles.cpp", target, folder / "flash", constants, channels, weights)
    spans = [after - before for before, after in itertools.pairwise(found)]
    if len(weights + channels) <= target.eeprom_bytes:
        found = marks("eeprom_cycles.cpp", target, folder / "eeprom", constants, channels, weights)
        spans += [after - before for before, after in itertools.pairwise(found)]
    return {
        name: round(span / (inputs * outputs), 2) for name, span in zip(NAMES, spans, strict=False)
    }


def window_cycles(target: AvrTarget, name: str, folder: Path) -> dict[str, float]:
    """The same of a convolution; products with padding count, as they are done."""
    depthwise, window = WINDOWS[name]
    outputs = window.output_count
    taps = window.kernel_height * window.kernel_width * (1 if depthwise else window.input_channels)
    channels, weights = parameters(window.output_channels, taps * window.output_channels)
    fields = ", ".join(str(value) for value in astuple(window))
    constants = (
        f"const uint16_t inputs = {window.input_count}, outputs = {outputs};\n"
        f"const bool depthwise = {str(depthwise).lower()};\nconst Window window = {{{fields}}};"
    )
    found = marks("window_cycles.cpp", target, folder, constants, channels, weights)
    # Every second span prepares the next one.
    spans = [after - before for before, after in zip(found[::2], found[1::2], strict=True)]
    return {
        name: round(span / (outputs * taps), 2)
        for name, span in zip(WINDOW_NAMES, spans, strict=True)
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


def dense_model(inputs: int, outputs: int) -> bytes:
    """A container with one dense layer."""
    channels, weights = parameters(outputs, inputs * outputs)
    requantisation = Requantisation(3, 0, 255, channels)
    layer = Dense(0, inputs, FLAG_ACCUMULATOR_24, inputs, outputs, requantisation, weights)
    step = (Quantisation(1, 0, 0, 0),)
    model = Model(
        layer.reads(),
        (layer.writes(),),
        (layer,),
        b"",
        Description(
            "dense",
            (TensorDescription("x", (inputs,), (0,), step),),
            (TensorDescription("y", (outputs,), (0,), step),),
            (),
        ),
    )
    zeros = [np.zeros((1, inputs), np.uint8)]
    return encode_model(replace(model, self_tests=make_self_tests(model, zeros)))


def deliver(host: VirtualHost, document: bytes, stop_at: int | None = None) -> None:
    """Give the board a model; return when it is ready, or at that offset."""
    host.send(Deploy(0, len(document), zlib.crc32(document), sha256(document).digest()))
    while True:
        if not host.run_for_ms(20_000, lambda: bool(host.heard)):
            raise AssertionError("the board says nothing")
        message = host.heard.pop(0).message
        if isinstance(message, Want):
            if stop_at is not None and message.offset >= stop_at:
                return
            data = document[message.offset : message.offset + message.length]
            host.send(ModelChunk(0, message.offset, data))
        elif isinstance(message, ModelStateReport):
            if message.state is not ModelState.READY:
                raise AssertionError(message)
            return


def delivery(folder: Path) -> dict[str, float]:
    """A model of 0.9 KB into an Uno's EEPROM at 500,000 baud, without and with a reset half way."""
    sketch = ROOT / "nodes/arduino/examples/KeepModels/KeepModels.ino"
    built = avr.build(sketch, UNO, folder)
    document = dense_model(24, 24)
    found: dict[str, float] = {"model_bytes": len(document)}
    for name, reset in (("to_eeprom_ms", False), ("with_a_reset_half_way_ms", True)):
        with AvrBoard(UNO, built.elf) as board:
            board.paint_memory()
            host = VirtualHost(board)
            host.wait_for(Info)
            host.run_for_ms(400)
            start_ms = host.now_ms
            if reset:
                deliver(host, document, len(document) // 2)
                board.reset()
                host.heard.clear()
                host.wait_for(Info)
            deliver(host, document)
            found[name] = round(host.now_ms - start_ms, 1)
            if not reset:
                host.send(OfferTask(1, 0, 1000, (bytes(range(24)),)))
                found["run_ms"] = host.wait_for(TaskResult).run_us / 1000
                heap = avr.symbols(built)["__heap_start"][0] & 0xFFFF
                found["stack_never_used_bytes"] = board.never_used_bytes(heap)
    return found


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
                "cycles_per_product_of_convolutions": {
                    name: window_cycles(target, name, folder / f"{target.name}-window-{index}")
                    for index, name in enumerate(WINDOWS)
                },
                "digits": digits(target, folder / f"digits-{target.name}"),
            }
        found["delivery"] = delivery(folder / "delivery")
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
