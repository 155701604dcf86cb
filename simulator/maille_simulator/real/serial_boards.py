"""Boards on serial ports in a real run: their firmware as a process, each behind a gateway's port."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

from maille_node.firmware import avr
from maille_node.firmware.targets import UNO
from maille_simulator.boards.avr_serial import AvrSerial, remember_identity
from maille_simulator.boards.host_board import HostBoard
from maille_simulator.boards.micropython_board import MicroPythonBoard
from maille_simulator.boards.runner_build import RunnerError
from maille_simulator.boards.serial_relay import SerialRelay
from maille_simulator.errors import SimulatorError, ToolMissing
from maille_simulator.scenario.values import NodeKindName

SERIAL = frozenset({NodeKindName.AVR, NodeKindName.ARDUINO, NodeKindName.PICO})
"""Kinds that are boards on a serial port, each with a gateway of its own."""

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


class SerialBoards:
    """The boards by scenario id, and the cables that a scenario damages.

    Args:
        folder: for programs and what the chips remember.
        kinds: of the serial nodes, by id.
        damaged: the nodes whose cable is damaged at some time, with its share at other times.
        random: decides which bytes are damaged.
    """

    def __init__(
        self,
        folder: Path,
        kinds: Mapping[str, NodeKindName],
        damaged: Mapping[str, float],
        random: Random,
    ) -> None:
        self.models: Sequence[bytes] = ()
        """Tiny models that boards built for this machine carry, as the sketch carries its own."""
        self._folder = folder
        self._kinds = kinds
        self._shares = dict(damaged)
        self._random = random
        self._elf: Path | None = None
        self._boards: dict[str, AvrSerial | HostBoard | MicroPythonBoard] = {}
        self._cables: dict[str, SerialRelay] = {}
        self._numbers: dict[str, int] = {}

    async def prepare(self) -> None:
        """Build the boards' programs, which is no part of their joining; SimulatorError."""
        if NodeKindName.AVR not in self._kinds.values():
            return
        try:
            built = await asyncio.to_thread(
                avr.build, SKETCH / "DigitsOnUno.ino", UNO, self._folder / "uno"
            )
        except avr.FirmwareError as error:
            raise SimulatorError(f"the Uno's program cannot be built: {error}") from error
        self._elf = built.elf

    async def start(self, node: str) -> str:
        """Power a board, after `prepare`; the path of its gateway's port. SimulatorError."""
        try:
            board = await self._board(node)
        except (RunnerError, ToolMissing, avr.FirmwareError, OSError) as error:
            raise SimulatorError(f"{node} cannot be started: {error}") from error
        self._boards[node] = board
        if node not in self._shares:
            return board.path
        cable = SerialRelay(board.path, self._random, self._shares[node])
        self._cables[node] = cable
        return cable.path

    def damage(self, node: str, share: float) -> None:
        """From now on this share of the bytes on the node's cable is damaged."""
        self._shares[node] = share
        cable = self._cables.get(node)
        if cable is not None:
            cable.share = share

    async def take_away(self, node: str) -> None:
        """Cut a board's power."""
        cable, board = self._cables.pop(node, None), self._boards.pop(node, None)
        if cable is not None:
            await asyncio.to_thread(cable.close)
        if board is not None:
            await asyncio.to_thread(board.close)

    async def close(self) -> None:
        """Cut the power of all."""
        await asyncio.gather(*(self.take_away(node) for node in list(self._boards)))

    async def _board(self, node: str) -> AvrSerial | HostBoard | MicroPythonBoard:
        if self._kinds[node] is NodeKindName.PICO:
            settings = {"node": node, "serial": "usb"}
            return await asyncio.to_thread(MicroPythonBoard, self._folder / node, settings)
        if self._elf is None or self._kinds[node] is NodeKindName.ARDUINO:
            return await asyncio.to_thread(HostBoard, node, self._folder, self.models)
        number = self._numbers.setdefault(node, len(self._numbers) + 1)
        eeprom = self._folder / f"{node}.eeprom"
        if not eeprom.exists():
            await asyncio.to_thread(eeprom.write_bytes, remember_identity(UNO, number))
        return await asyncio.to_thread(AvrSerial, UNO, self._elf, eeprom=eeprom)
