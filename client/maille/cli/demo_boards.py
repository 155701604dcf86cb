"""The part of `maille demo` on boards: a MicroPython node classifies digits beside a PC.

The board is the real interpreter (MicroPython's unix port) with the board library unchanged.
"""

import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from maille.async_mesh import AsyncMesh
from maille.children import start_child
from maille.digits import Digits
from maille.errors import MailleError, ResultTimeout
from maille.flashing.library import library_folder
from maille.local_mesh import LocalMesh
from maille.views import Answer

PC = "kitchen-pc"
BOARD = "pico-1"
IMAGES = 200
SENSED = 3
JOIN_TIMEOUT_S = 20.0
DEPLOY_TIMEOUT_S = 60.0


def convert_digits(digits: Digits, folder: Path) -> Path:
    """The demonstration's model in the tiny format."""
    # Imported here: the converter is needed for nothing else that this command does.
    from maille_coordinator.models.conversion import convert_file

    model, data, out = folder / "digits.onnx", folder / "images.npz", folder / "digits.tiny"
    model.write_bytes(digits.onnx)
    np.savez(data, X=digits.images, y=digits.labels)
    out.write_bytes(convert_file(model, data, "rp2040", ("label",)).data)
    return out


async def show_boards(
    digits: Digits, interpreter: str, say: Callable[[str], None]
) -> dict[str, object]:
    """Bring the model to a board over the air, ask it, and let it look at its own sensor.

    Raises:
        MailleError: a part did not start, or the board cannot hold the model.
    """
    with tempfile.TemporaryDirectory(prefix="maille-demo-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        say("1/3 a mesh of a PC and a board: MicroPython's own interpreter, a heap of 256 KB")
        async with (
            LocalMesh(folder, broker="amqtt", nodes=(PC,)) as parts,
            AsyncMesh(parts.http_url) as mesh,
        ):
            child = await start_child(BOARD, _command(interpreter, folder, parts, digits), _paths())
            try:
                await parts.wait_for_nodes(mesh)
                await _wait_for_board(mesh)
                return await _show(mesh, convert_digits(digits, folder), digits, say)
            finally:
                await child.stop()


async def _show(
    mesh: AsyncMesh, file: Path, digits: Digits, say: Callable[[str], None]
) -> dict[str, object]:
    about = "handwritten digits, in integers"
    model = await mesh.models.add(file, "digits-tiny", description=about)
    say(f"2/3 the model in the tiny format, {model.size_bytes:,} bytes, goes over the air")
    delivered = await mesh.boards.deploy("digits-tiny", BOARD, timeout_s=DEPLOY_TIMEOUT_S)
    say(
        f"    on {BOARD} after {delivered.took_s:.2f} s: verified and tested, "
        f"{delivered.run_s * 1000:.2f} ms a run"
    )
    images = [{"X": digits.images[index]} for index in range(IMAGES)]
    started_s = time.monotonic()
    board = await _answers(mesh, images, BOARD)
    took_s = time.monotonic() - started_s
    pc = await _answers(mesh, images, PC)
    equal = board == pc
    accuracy = float((np.array(board) == digits.labels[:IMAGES]).mean())
    say(
        f"3/3 {IMAGES} images on the board: {accuracy:.1%} right, {IMAGES / took_s:.0f} a second; "
        + ("every answer as on the PC" if equal else "answers DIFFER from the PC's")
    )
    sensed = await _sense(mesh)
    right = sensed == [int(found) for found in digits.labels[:SENSED]]
    say(f"    its own camera (three pictures in turn) showed it: {', '.join(map(str, sensed))}")
    return {
        "board_images": IMAGES,
        "board_equal": equal and right,
        "board_accuracy": accuracy,
        "board_model_bytes": model.size_bytes,
        "board_deploy_s": delivered.took_s,
        "board_run_ms": delivered.run_s * 1000,
        "board_tasks_per_s": IMAGES / took_s,
        "board_sensed": sensed,
    }


async def _answers(
    mesh: AsyncMesh,
    images: list[dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]],
    node: str,
) -> list[int]:
    answers: list[int] = []
    async for item in mesh.map_detailed("digits-tiny", images, target=node):
        if not isinstance(item, Answer):
            raise item
        answers.append(int(item.outputs["label"].ravel()[0]))
    return answers


async def _sense(mesh: AsyncMesh) -> list[int]:
    """The first round of the camera's pictures, from the first one on."""
    sense = await mesh.senses.start("digits-tiny", BOARD, "camera", every_s=0.2)
    found: dict[int, int] = {}
    deadline_s = time.monotonic() + JOIN_TIMEOUT_S
    while len(found) < SENSED and time.monotonic() < deadline_s:
        for reading in await mesh.senses.readings(sense.id):
            if reading.outputs is not None and reading.counter <= SENSED:
                found[reading.counter] = _only(reading.outputs["label"])
        if len(found) < SENSED:
            await asyncio.sleep(0.05)
    await mesh.senses.stop(sense.id)
    return [found[counter] for counter in sorted(found)]


def _only(value: object) -> int:
    """The one number in nested lists."""
    while isinstance(value, list):
        (value,) = value
    return int(str(value))


async def _wait_for_board(mesh: AsyncMesh) -> None:
    deadline_s = time.monotonic() + JOIN_TIMEOUT_S
    while not any(board.name == BOARD and board.reachable for board in await mesh.boards.list()):
        if time.monotonic() > deadline_s:
            raise ResultTimeout(f"No word from the board {BOARD} after {JOIN_TIMEOUT_S:g} s.")
        await asyncio.sleep(0.05)


def _command(interpreter: str, folder: Path, parts: LocalMesh, digits: Digits) -> list[str]:
    settings = {
        "node": BOARD,
        "mesh": "local",
        "broker": parts.broker_url,
        "folder": str(folder / "models"),
        "sensors": {"camera": {"kind": "fake", "readings": digits.images[:SENSED].tolist()}},
    }
    path = folder / "maille.json"
    path.write_text(json.dumps(settings))
    program = f"from maille import main\nmain({str(path)!r})"
    return [interpreter, "-X", "heapsize=256k", "-c", program]


def _paths() -> Mapping[str, str]:
    try:
        return {"MICROPYPATH": f"{library_folder()}:.frozen"}
    except MailleError as error:
        raise MailleError(f"The demonstration needs the board library. {error}") from error
