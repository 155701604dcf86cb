"""Which serial port a board hangs on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from maille.errors import SettingsError
from maille.flashing.boards import BoardKind
from maille.flashing.errors import BoardNotFound


@dataclass(frozen=True, slots=True)
class Port:
    """A serial port of this machine; vendor and product are None where it is not on USB."""

    device: str
    description: str
    vendor: int | None = None
    product: int | None = None


def list_ports() -> list[Port]:
    """The serial ports of this machine that hang on USB, or that say what they are."""
    try:
        from serial.tools import list_ports as serial_ports
    except ModuleNotFoundError as error:
        raise SettingsError(
            "Boards on a cable need pyserial. Install it with: pip install 'maille[flash]'"
        ) from error
    return [
        Port(found.device, found.description or "", found.vid, found.pid)
        for found in sorted(serial_ports.comports())
        if found.vid is not None or (found.description or "n/a") != "n/a"
    ]


def choose_port(given: str | None, kind: BoardKind | None, ports: Iterable[Port]) -> str:
    """The port to use: the one given, else the only one whose USB ids fit the kind of board.

    Raises:
        BoardNotFound: none or several fit, or the given one does not exist; with the next step.
    """
    if given is not None:
        # A pseudo-terminal, a udev link, or `COM3` and `rfc2217://...`, which are no paths.
        if given.startswith("/") and not Path(given).exists():
            raise BoardNotFound(
                f"There is no port {given}. {_there_are(list(ports))} Plug the board in, or "
                "correct --port."
            )
        return given
    found = list(ports)
    fitting = [port for port in found if kind is None or _fits(port, kind)]
    if len(fitting) == 1:
        return fitting[0].device
    title = kind.title if kind else "board"
    if not fitting:
        raise BoardNotFound(
            f"No {title} was found on USB. {_there_are(found)} Plug it in with a cable that "
            "carries data, or name its port with --port."
        )
    names = ", ".join(f"{port.device} ({port.description})" for port in fitting)
    raise BoardNotFound(
        f"Several ports could be the {title}: {names}. Name the right one with --port."
    )


def _fits(port: Port, kind: BoardKind) -> bool:
    return any(
        port.vendor == vendor and product in {None, port.product}
        for vendor, product in kind.usb_ids
    )


def _there_are(ports: Sequence[Port]) -> str:
    if not ports:
        return "This machine has no serial port with a device on it."
    return f"There are: {', '.join(f'{port.device} ({port.description})' for port in ports)}."
