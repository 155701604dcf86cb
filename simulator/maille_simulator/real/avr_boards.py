"""Arduinos in a real run: their machine code under simavr, each on a port that a gateway opens."""

import asyncio
from pathlib import Path

from maille_node.firmware import avr
from maille_node.firmware.targets import UNO
from maille_simulator.boards.avr_serial import AvrSerial, remember_identity
from maille_simulator.boards.runner_build import RunnerError
from maille_simulator.errors import SimulatorError

SKETCH = Path(__file__).resolve().parents[3] / "nodes" / "arduino" / "examples" / "DigitsOnUno"


def sketch_model() -> bytes:
    """The tiny model that the sketch carries in its flash; SimulatorError outside of a checkout."""
    try:
        text = (SKETCH / "model.h").read_text("utf-8")
    except OSError as error:
        raise SimulatorError(
            f"the sketch {SKETCH} is not there ({error.strerror}): avr nodes need a checkout"
        ) from error
    body = text.split("_document[] PROGMEM = {", 1)[1].split("}", 1)[0]
    return bytes(int(number) for number in body.replace("\n", "").split(",") if number.strip())


class AvrBoards:
    """The boards by scenario id.

    Args:
        folder: for the program and what the chips remember.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._elf: Path | None = None
        self._boards: dict[str, AvrSerial] = {}
        self._numbers: dict[str, int] = {}
        self._building = asyncio.Lock()

    async def start(self, node: str) -> str:
        """Power a board; the path of its port. SimulatorError."""
        async with self._building:
            if self._elf is None:
                try:
                    built = await asyncio.to_thread(
                        avr.build, SKETCH / "DigitsOnUno.ino", UNO, self._folder / "uno"
                    )
                except avr.FirmwareError as error:
                    raise SimulatorError(f"the Uno's program cannot be built: {error}") from error
                self._elf = built.elf
        number = self._numbers.setdefault(node, len(self._numbers) + 1)
        eeprom = self._folder / f"{node}.eeprom"
        if not eeprom.exists():
            await asyncio.to_thread(eeprom.write_bytes, remember_identity(UNO, number))
        try:
            board = await asyncio.to_thread(AvrSerial, UNO, self._elf, eeprom=eeprom)
        except RunnerError as error:
            raise SimulatorError(str(error)) from error
        self._boards[node] = board
        return board.path

    async def take_away(self, node: str) -> None:
        """Cut a board's power."""
        board = self._boards.pop(node, None)
        if board is not None:
            await asyncio.to_thread(board.close)

    async def close(self) -> None:
        """Cut the power of all."""
        await asyncio.gather(*(self.take_away(node) for node in list(self._boards)))
