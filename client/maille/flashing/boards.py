"""The kinds of board that `maille flash` knows: how each is written and how it shows on USB."""

from dataclasses import dataclass
from enum import Enum

from maille.errors import SettingsError


class Writer(Enum):
    """How the firmware gets onto a board."""

    ESPTOOL = "esptool"
    UF2 = "uf2"
    AVRDUDE = "avrdude"


@dataclass(frozen=True, slots=True)
class BoardKind:
    """One kind of board.

    `usb_ids` are pairs of vendor and product, with product None for all of a vendor's: bridges
    and boot loaders that such boards carry. `firmware_offset` is where the image goes in the
    flash of an ESP chip; `firmware_page` is where its maker's site has MicroPython for it.
    """

    name: str
    title: str
    writer: Writer
    usb_ids: tuple[tuple[int, int | None], ...]
    firmware_page: str
    chip: str = ""
    firmware_offset: int = 0
    has_wifi: bool = True


_SILICON_LABS_CP210X = (0x10C4, 0xEA60)
_WCH_CH34X = (0x1A86, None)
_FTDI = (0x0403, None)
_ESPRESSIF = (0x303A, None)
_MICROPYTHON = (0xF055, None)
_RASPBERRY_PI = (0x2E8A, None)
_ARDUINO = ((0x2341, None), (0x2A03, None))

BOARDS: dict[str, BoardKind] = {
    kind.name: kind
    for kind in (
        BoardKind(
            "esp32",
            "ESP32",
            Writer.ESPTOOL,
            (_SILICON_LABS_CP210X, _WCH_CH34X, _FTDI, _MICROPYTHON),
            "https://micropython.org/download/ESP32_GENERIC/",
            chip="esp32",
            firmware_offset=0x1000,
        ),
        BoardKind(
            "esp32s3",
            "ESP32-S3",
            Writer.ESPTOOL,
            (_ESPRESSIF, _SILICON_LABS_CP210X, _WCH_CH34X, _FTDI, _MICROPYTHON),
            "https://micropython.org/download/ESP32_GENERIC_S3/",
            chip="esp32s3",
        ),
        BoardKind(
            "rp2040",
            "RP2040 (Pico W)",
            Writer.UF2,
            (_RASPBERRY_PI, _MICROPYTHON),
            "https://micropython.org/download/RPI_PICO_W/",
        ),
        BoardKind(
            "pico",
            "Raspberry Pi Pico",
            Writer.UF2,
            (_RASPBERRY_PI, _MICROPYTHON),
            "https://micropython.org/download/RPI_PICO/",
            has_wifi=False,
        ),
        *(
            BoardKind(
                name,
                title,
                Writer.AVRDUDE,
                (*_ARDUINO, _WCH_CH34X, _FTDI),
                firmware_page="",
                has_wifi=False,
            )
            for name, title in (
                ("uno", "Arduino Uno"),
                ("nano", "Arduino Nano"),
                ("mega", "Arduino Mega 2560"),
            )
        ),
    )
}


def board_kind(name: str) -> BoardKind:
    """The kind of board with this name.

    Raises:
        SettingsError: no such kind; the text lists those there are.
    """
    found = BOARDS.get(name)
    if found is None:
        raise SettingsError(
            f"{name!r} is no kind of board that can be flashed. Choose one of: "
            f"{', '.join(sorted(BOARDS))}."
        )
    return found
