"""The part of `maille demo` on an Uno: real AVR machine code in simavr, behind the serial gateway."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from maille.async_mesh import AsyncMesh
from maille.children import maille_command, start_child
from maille.digits import Digits
from maille.errors import ResultTimeout
from maille.local_mesh import LocalMesh
from maille.views import Answer
from maille_node.firmware.avr import FirmwareError, build, library_directory
from maille_node.firmware.targets import UNO

PC = "kitchen-pc"
MODEL = "digits-uno"
IMAGES = 100
JOIN_TIMEOUT_S = 30.0
_SKETCH = Path("examples", "DigitsOnUno", "DigitsOnUno.ino")
_BRIGHTEST = 16.0


def uno_problem() -> str:
    """What is missing for a simulated Uno; "" if nothing is."""
    if shutil.which("avr-gcc") is None:
        return "avr-gcc: sudo apt install gcc-avr avr-libc arduino-core-avr libsimavr-dev"
    try:
        from maille_simulator.boards.runner_build import RunnerError, runner_path

        library_directory()
        runner_path()
    except (FirmwareError, RunnerError) as error:
        return str(error).splitlines()[0]
    return ""


async def show_uno(digits: Digits, say: Callable[[str], None]) -> dict[str, object]:
    """Build the sketch, plug the board in, and compare its answers with a PC's.

    Raises:
        MailleError: a part did not start.
    """
    with tempfile.TemporaryDirectory(prefix="maille-demo-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        sketch = library_directory() / _SKETCH
        built = await asyncio.to_thread(build, sketch, UNO, folder / "uno")
        say(
            f"1/2 the sketch DigitsOnUno as machine code: {built.flash_bytes:,} bytes of flash, "
            f"{built.ram_bytes:,} of {UNO.ram_bytes:,} bytes of RAM; simavr runs it at 16 MHz"
        )
        async with (
            LocalMesh(folder, broker="amqtt", nodes=(PC,)) as parts,
            AsyncMesh(parts.http_url) as mesh,
        ):
            from maille_simulator.boards.avr_serial import AvrSerial

            with await asyncio.to_thread(AvrSerial, UNO, built.elf) as board:
                gateway = await start_child(
                    "gateway", _gateway(parts, board.path, folder), {"MAILLE_CONFIG": os.devnull}
                )
                try:
                    return await _show(mesh, parts, sketch, digits, say)
                finally:
                    await gateway.stop()


def _gateway(parts: LocalMesh, path: str, folder: Path) -> list[str]:
    return maille_command(
        *("gateway", "--port", path, "--id", "gateway", "--mesh", "local"),
        *("--url", parts.http_url, "--cache-directory", str(folder / "gateway")),
    )


async def _show(
    mesh: AsyncMesh, parts: LocalMesh, sketch: Path, digits: Digits, say: Callable[[str], None]
) -> dict[str, object]:
    file = parts.folder / "digits-uno.tiny"
    file.write_bytes(_document(sketch.with_name("model.h")))
    about = "handwritten digits, as built into the sketch"
    model = await mesh.models.add(file, MODEL, description=about)
    await parts.wait_for_nodes(mesh)
    node = await _wait_for_uno(mesh)
    name, scale = model.inputs[0].name, _BRIGHTEST / float(digits.images.max())
    images = [{name: (digits.images[index] * scale).ravel()} for index in range(IMAGES)]
    started_s = time.monotonic()
    uno = await _answers(mesh, images, node)
    took_s = time.monotonic() - started_s
    equal = uno == await _answers(mesh, images, PC)
    accuracy = float((np.array(uno) == digits.labels[:IMAGES]).mean())
    say(
        f"2/2 {IMAGES} images on {node}: {accuracy:.1%} right, {IMAGES / took_s:.0f} a second; "
        + ("every answer as on the PC" if equal else "answers DIFFER from the PC's")
    )
    return {
        "uno_images": IMAGES,
        "uno_equal": equal,
        "uno_accuracy": accuracy,
        "uno_tasks_per_s": IMAGES / took_s,
    }


async def _answers(
    mesh: AsyncMesh,
    images: list[dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]],
    node: str,
) -> list[int]:
    answers: dict[int, int] = {}
    async for item in mesh.map_detailed(MODEL, images, target=node):
        if not isinstance(item, Answer):
            raise item
        answers[item.index] = int(item.outputs["label"].ravel()[0])
    return [answers[index] for index in sorted(answers)]


async def _wait_for_uno(mesh: AsyncMesh) -> str:
    deadline_s = time.monotonic() + JOIN_TIMEOUT_S
    while True:
        for node in await mesh.nodes():
            if node.gateway == "gateway" and node.state == "ready":
                return node.name
        if time.monotonic() > deadline_s:
            raise ResultTimeout(f"No word from the Uno after {JOIN_TIMEOUT_S:g} s.")
        await asyncio.sleep(0.05)


def _document(header: Path) -> bytes:
    """The model in a sketch's header."""
    text = header.read_text("utf-8").split("_document[] PROGMEM = {", 1)[1].split("}", 1)[0]
    return bytes(int(number) for number in text.replace("\n", "").split(",") if number.strip())
