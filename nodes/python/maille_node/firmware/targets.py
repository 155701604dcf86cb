"""The Arduino boards that firmware is built for: what a linker and avrdude have to know of them."""

from dataclasses import dataclass
from typing import Final

LEAST_STACK_BYTES: Final = 500
"""What a board needs of RAM beside everything static, on any of these."""


@dataclass(frozen=True, slots=True)
class AvrTarget:
    """One kind of board.

    Flash is what is left beside the boot loader; sizes are bytes.
    """

    name: str
    title: str
    mcu: str
    clock_hz: int
    variant: str
    board_define: str
    fqbn: str
    flash_bytes: int
    ram_bytes: int
    eeprom_bytes: int
    programmer: str
    upload_baud: int


UNO: Final = AvrTarget(
    name="uno",
    title="Arduino Uno",
    mcu="atmega328p",
    clock_hz=16_000_000,
    variant="standard",
    board_define="AVR_UNO",
    fqbn="arduino:avr:uno",
    flash_bytes=32_256,
    ram_bytes=2048,
    eeprom_bytes=1024,
    programmer="arduino",
    upload_baud=115_200,
)
NANO: Final = AvrTarget(
    name="nano",
    title="Arduino Nano",
    mcu="atmega328p",
    clock_hz=16_000_000,
    variant="eightanaloginputs",
    board_define="AVR_NANO",
    fqbn="arduino:avr:nano",
    flash_bytes=30_720,
    ram_bytes=2048,
    eeprom_bytes=1024,
    programmer="arduino",
    upload_baud=115_200,
)
MEGA: Final = AvrTarget(
    name="mega",
    title="Arduino Mega 2560",
    mcu="atmega2560",
    clock_hz=16_000_000,
    variant="mega",
    board_define="AVR_MEGA2560",
    fqbn="arduino:avr:mega:cpu=atmega2560",
    flash_bytes=253_952,
    ram_bytes=8192,
    eeprom_bytes=4096,
    programmer="wiring",
    upload_baud=115_200,
)
TARGETS: Final = {target.name: target for target in (UNO, NANO, MEGA)}
