"""`maille flash`: a board on a cable becomes a node of the mesh."""

import contextlib
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from maille.cli import output
from maille.cli.common import (
    JsonOption,
    KeyFileOption,
    MeshOption,
    UrlOption,
    connected,
    find_key,
    friendly,
    may_ask,
    on_command_line,
)
from maille.cli.parts import broker_login
from maille.errors import SettingsError
from maille.flashing.arduino import avrdude, make_firmware, target_of, write_arduino
from maille.flashing.boards import BOARDS, BoardKind, Writer, board_kind
from maille.flashing.errors import BoardNotFound, BoardSilent
from maille.flashing.firmware import check_firmware, write_firmware
from maille.flashing.install import (
    START_TIMEOUT_S,
    Installed,
    install,
    start_and_wait,
)
from maille.flashing.library import library_folder
from maille.flashing.ports import choose_port, list_ports
from maille.flashing.replink import BoardRepl
from maille.flashing.settings import Wifi, gateway_settings, new_settings
from maille.mesh import Mesh
from maille_broker import Endpoint, is_loopback


def _complete_kind(incomplete: str) -> list[str]:
    return [name for name in BOARDS if name.startswith(incomplete)]


_MICROPYTHON_ONLY = ("node", "name", "firmware", "erase", "wifi", "broker", "serial", "library")
PortOption = Annotated[
    str | None,
    typer.Option(
        "--port",
        "-p",
        help="The board's serial port; found by itself if left out.",
        show_default=False,
    ),
]
LibraryOption = Annotated[
    Path | None,
    typer.Option(help="Folder of the board library; else the one that came with Maille."),
]


@friendly
def flash(
    context: typer.Context,
    kind: Annotated[
        str,
        typer.Argument(metavar="BOARD", help=", ".join(BOARDS), autocompletion=_complete_kind),
    ],
    *,
    port: PortOption = None,
    node: Annotated[
        str | None,
        typer.Option("--id", help="Its id in the mesh; else made from the board's kind."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    firmware: Annotated[
        Path | None,
        typer.Option(help="MicroPython to write first (.bin or .uf2); else the board's own stays."),
    ] = None,
    erase: Annotated[
        bool, typer.Option("--erase", help="Wipe the whole flash before writing the firmware.")
    ] = False,
    wifi: Annotated[
        str | None,
        typer.Option(
            envvar="MAILLE_WIFI",
            help="Name of the Wi-Fi; its password is asked for, or comes from MAILLE_WIFI_PASSWORD.",
        ),
    ] = None,
    broker: Annotated[
        str | None,
        typer.Option(help="The broker as the board reaches it; else the mesh's own address."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Arduino: a model in the tiny format to build into the firmware."),
    ] = None,
    sketch: Annotated[
        Path | None,
        typer.Option(help="Arduino: a sketch of your own; else the one that runs a model."),
    ] = None,
    serial: Annotated[
        bool,
        typer.Option(
            "--serial",
            help="No network: a gateway on this computer speaks for it, as for a pico anyway.",
        ),
    ] = False,
    library: LibraryOption = None,
    wait_s: Annotated[
        float, typer.Option(help="Seconds to wait for it in the mesh; 0 does not wait.", min=0)
    ] = START_TIMEOUT_S,
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a board on a cable a node: firmware, library, settings, and a wait until it has joined.

    \b
      maille flash esp32 --wifi attic
      maille flash pico --firmware RPI_PICO.uf2
      maille flash uno --model digits.tiny
    """  # noqa: D301 - \b keeps the lines as they stand
    board = board_kind(kind)
    show = Shown(as_json=as_json)
    if board.writer is Writer.AVRDUDE:
        _refuse_foreign(context, board)
        _flash_arduino(board, port, model, sketch, show, as_json=as_json)
        return
    if model is not None or sketch is not None:
        raise SettingsError(
            f"--model and --sketch are for Arduino boards; the {board.title} gets models from the "
            "mesh: maille deploy."
        )
    folder = library_folder(library)
    if firmware is not None:
        check_firmware(firmware, board)
    if serial or not board.has_wifi:
        identity = node or board.name
        settings = gateway_settings(node=identity, name=name or identity)
        with _installed(board, port, firmware, folder, settings, show, erase=erase) as (repl, done):
            took_s = None
            if wait_s > 0:
                from maille.flashing.hearing import start_and_hear

                took_s = start_and_hear(repl, timeout_s=wait_s)
            else:
                repl.restart()
            _tell(board, repl, done, show, took_s, node=None, as_json=as_json)
        return
    with connected(context, url, mesh, key_file) as opened:
        endpoint = _endpoint(opened, broker, find_key(context, key_file))
        secret = _wifi(board, wifi, endpoint)
        identity = node or _free_id(board, opened)
        settings = new_settings(
            node=identity,
            name=name or board.title,
            mesh=opened.description.mesh,
            endpoint=endpoint,
            wifi=secret,
            loopback_allowed=broker is not None,
        )
        with _installed(board, port, firmware, folder, settings, show, erase=erase) as (repl, done):
            took_s = None
            if wait_s > 0:
                show.say(f"waiting for {identity} in mesh {opened.description.mesh!r}")
                took_s = start_and_wait(
                    repl, lambda: _seen(opened, identity), show, timeout_s=wait_s
                )
            else:
                repl.restart()
            _tell(board, repl, done, show, took_s, node=identity, as_json=as_json)


def _refuse_foreign(context: typer.Context, board: BoardKind) -> None:
    """Nobody shall believe that an option which means nothing here was heeded."""
    for name in _MICROPYTHON_ONLY:
        if on_command_line(context, name):
            flag = "id" if name == "node" else name
            raise SettingsError(
                f"--{flag} is for boards with MicroPython; the {board.title} joins through a gateway "
                f"and has neither network nor settings. Leave --{flag} out."
            )


@contextlib.contextmanager
def _installed(
    board: BoardKind,
    port: str | None,
    firmware: Path | None,
    folder: Path,
    settings: dict[str, object],
    show: "Shown",
    *,
    erase: bool,
) -> Iterator[tuple[BoardRepl, Installed]]:
    """The board with everything on it, its program not started yet."""
    if firmware is not None:
        place = None if board.writer is Writer.UF2 else choose_port(port, board, list_ports())
        with show.bar(f"MicroPython onto the {board.title}") as advance:
            write_firmware(
                firmware, board, place, erase=erase, on_progress=advance, on_wait=show.say
            )
    with _opened(board, port, firmware) as repl:
        with show.bar("library and settings") as advance:
            show.advance = advance
            done = install(repl, folder, settings, show)
        version = ".".join(str(part) for part in done.interpreter.version)
        show.say(
            f"{done.interpreter.machine}, MicroPython {version}: {done.written} files written, "
            f"{done.unchanged} as they were ({done.size_bytes / 1024:.0f} KiB)"
        )
        yield repl, done


def _tell(
    board: BoardKind,
    repl: BoardRepl,
    done: Installed,
    show: "Shown",
    took_s: float | None,
    *,
    node: str | None,
    as_json: bool,
) -> None:
    """How it ended; `node` is None for a board that a gateway speaks for, which gives it an id."""
    if as_json:
        output.print_json(
            {
                "node": node,
                "board": board.name,
                "port": repl.port,
                "micropython": ".".join(str(part) for part in done.interpreter.version),
                "machine": done.interpreter.machine,
                "files_written": done.written,
                "library_bytes": done.size_bytes,
                "joined_after_s": took_s,
            }
        )
    elif node is None:
        show.written(board)
    elif took_s is not None:
        show.say(f"[green]{node} has joined[/] after {took_s:.1f} s. See it with `maille nodes`.")


def _flash_arduino(
    board: BoardKind,
    port: str | None,
    model: Path | None,
    sketch: Path | None,
    show: "Shown",
    *,
    as_json: bool,
) -> None:
    """Build or take a firmware, say what it needs, write it."""
    target = target_of(board.name)
    place = choose_port(port, board, list_ports())
    avrdude()
    with tempfile.TemporaryDirectory(prefix="maille-firmware-") as folder:
        firmware = make_firmware(target, Path(folder), model=model, sketch=sketch)
        show.say(f"{firmware.summary(target)}\n(made by {firmware.made_by})")
        show.say(f"writing to {place}")
        write_arduino(firmware, target, place)
    if as_json:
        output.print_json(
            {
                "board": board.name,
                "port": place,
                "made_by": firmware.made_by,
                "flash_bytes": firmware.flash_bytes,
                "flash_left_bytes": _left(target.flash_bytes, firmware.flash_bytes),
                "ram_bytes": firmware.ram_bytes,
                "ram_left_bytes": _left(target.ram_bytes, firmware.ram_bytes),
                "model": str(firmware.model) if firmware.model is not None else None,
            }
        )
        return
    show.written(board)
    if firmware.model is not None:
        show.say("and the mesh knows its model after")
        show.command(f"maille models add {shlex.quote(str(firmware.model))}")


def _left(whole: int, used: int | None) -> int | None:
    return None if used is None else whole - used


def _opened(board: BoardKind, port: str | None, firmware: Path | None) -> BoardRepl:
    """The board's REPL; a board that was just written needs a moment until its port is back."""
    end_s = time.monotonic() + (15.0 if firmware is not None else 0.0)
    while True:
        try:
            return BoardRepl(choose_port(port, board, list_ports()))
        except (BoardNotFound, BoardSilent) as error:
            if time.monotonic() < end_s:
                time.sleep(0.5)
                continue
            if firmware is None and isinstance(error, BoardSilent):
                raise BoardSilent(
                    f"{error} MicroPython for the {board.title} is at {board.firmware_page}"
                ) from error
            raise


def _endpoint(opened: Mesh, broker: str | None, key: str | None) -> Endpoint:
    """The broker with a node's login, as the board will reach it."""
    place = opened.description
    return broker_login(broker or place.broker_url, key, place.mesh, "node")


def _wifi(board: BoardKind, ssid: str | None, endpoint: Endpoint) -> Wifi | None:
    if not board.has_wifi or (ssid is None and is_loopback(endpoint.host)):
        return None
    if ssid is None:
        if not may_ask():
            raise SettingsError(
                f"The {board.title} needs a Wi-Fi. Name it with --wifi (or MAILLE_WIFI) and set "
                "MAILLE_WIFI_PASSWORD."
            )
        ssid = str(typer.prompt("Name of the Wi-Fi", err=True))
    password = os.environ.get("MAILLE_WIFI_PASSWORD")
    if password is None:
        if not may_ask():
            raise SettingsError(
                f"The password of Wi-Fi {ssid!r} is missing: set MAILLE_WIFI_PASSWORD."
            )
        password = str(
            typer.prompt(
                f"Password of {ssid}", hide_input=True, default="", show_default=False, err=True
            )
        )
    return Wifi(ssid, password)


def _free_id(board: BoardKind, opened: Mesh) -> str:
    taken = {node.name for node in opened.nodes()}
    number = 1
    while f"{board.name}-{number}" in taken:
        number += 1
    return f"{board.name}-{number}"


def _seen(opened: Mesh, identity: str) -> bool:
    return any(node.name == identity and node.state == "ready" for node in opened.nodes())


class Shown:
    """What a person sees of a flash."""

    def __init__(self, *, as_json: bool) -> None:
        self._quiet = as_json
        self._console = output.stderr()
        self.advance: Callable[[float], None] = lambda _part: None

    def say(self, text: str) -> None:
        """One line about what happens."""
        if not self._quiet:
            self._console.print(text)

    def written(self, board: BoardKind) -> None:
        """A board that has no network is ready."""
        self.say(
            f"[green]The {board.title} is written.[/] On the computer that it hangs on, it joins "
            "with\n  maille gateway"
        )

    def command(self, text: str) -> None:
        """A command to be copied: never broken."""
        if not self._quiet:
            self._console.print(f"  {text}", markup=False, soft_wrap=True)

    def bar(self, title: str) -> "Bar":
        """A progress bar; none where nobody looks."""
        return Bar(title, quiet=self._quiet or not sys.stderr.isatty())

    def file(self, path: str, number: int, count: int, *, written: bool) -> None:
        """A file is on the board."""
        del path, written
        self.advance(number / count)

    def line(self, text: str) -> None:
        """The board printed a line."""
        if not self._quiet:
            self._console.print(f"  {text}", style="dim", markup=False)


class Bar:
    """A progress bar that is told the part done, 0 to 1."""

    def __init__(self, title: str, *, quiet: bool) -> None:
        self._title = title
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            console=output.stderr(),
            disable=quiet,
        )

    def __enter__(self) -> Callable[[float], None]:
        """Show it; returns what is to be told."""
        self._progress.start()
        task = self._progress.add_task(self._title, total=1.0)
        return lambda part: self._progress.update(task, completed=part)

    def __exit__(self, *_: object) -> None:
        """Leave it as it stands."""
        self._progress.stop()
