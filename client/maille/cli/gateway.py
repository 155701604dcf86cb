"""`maille gateway`: stand in the mesh for the boards on this machine's serial ports."""

import asyncio
import contextlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from maille.cli import output
from maille.cli.common import (
    JsonOption,
    KeyFileOption,
    MeshOption,
    UrlOption,
    find_key,
    friendly,
)
from maille.cli.parts import find_place
from maille.errors import SettingsError

if TYPE_CHECKING:
    from maille_node.gateway import GatewayService
    from maille_node.gateway.service import PortStatus

_SHOW_S = 1.0


@friendly
def gateway(
    context: typer.Context,
    *,
    ports: Annotated[
        list[str] | None,
        typer.Option(
            "--port", help="A serial port or a pattern; may be repeated. Else every USB port."
        ),
    ] = None,
    identity: Annotated[
        str | None, typer.Option("--id", help="The gateway's id; else from the machine's name.")
    ] = None,
    baud: Annotated[
        int, typer.Option(help="The highest speed to agree on, in baud, from 115200 on.")
    ] = 1_000_000,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port on 127.0.0.1 for Prometheus; 0 takes a free one.")
    ] = None,
    cache_directory: Annotated[Path | None, typer.Option(help="Where models are kept.")] = None,
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the boards on USB into the mesh, each as a node of its own, until Ctrl-C.

    Boards may be plugged in and out meanwhile. With --json, one line a second.

    \b
      maille gateway
      maille gateway --port "/dev/ttyUSB*" --port /dev/ttyACM0
    """  # noqa: D301 - \b keeps the lines as they stand
    key = find_key(context, key_file)
    place = find_place(url, key, mesh)
    from maille_node import SettingsError as NodeSettingsError

    try:
        from maille_node.gateway import GatewaySettings, run_gateway
        from maille_node.gateway.metrics import serve_metrics
    except ModuleNotFoundError as error:
        if error.name != "serial":
            raise
        raise SettingsError(
            "This installation cannot use serial ports: pyserial is missing. "
            "Install it with: pip install 'maille[gateway]'"
        ) from error

    try:
        defaults = GatewaySettings(endpoint=place.endpoint, mesh=place.mesh)
        settings = replace(
            defaults,
            gateway=identity,
            ports=tuple(ports or ()),
            highest_baud=baud,
            cache_directory=cache_directory or defaults.cache_directory,
            key=place.key,
            http_url=place.http_url,
        )
    except NodeSettingsError as error:
        raise SettingsError(str(error)) from error

    async def beside(service: "GatewayService") -> None:
        async with contextlib.AsyncExitStack() as stack:
            if metrics_port is not None:
                bound = await stack.enter_async_context(serve_metrics(service, metrics_port))
                output.stderr().print(f"metrics at http://127.0.0.1:{bound}/metrics")
            await (_lines(service) if as_json else _show(service))

    where = place.http_url or place.endpoint.with_credentials(None, None).url
    output.stderr().print(f"gateway to mesh {place.mesh!r} at {where} (Ctrl-C ends it)")
    if not logging.getLogger().isEnabledFor(logging.INFO):
        logging.getLogger("maille_node.gateway").setLevel(logging.INFO)
    raise typer.Exit(run_gateway(settings, beside=beside))


async def _lines(service: "GatewayService") -> None:
    while True:
        output.print_line(
            {"gateway": service.gateway, "online": service.is_online, "ports": service.status()}
        )
        await asyncio.sleep(_SHOW_S)


async def _show(service: "GatewayService") -> None:
    console = output.stdout()
    if not console.is_terminal:
        # What happens stands in the log; a table every second would fill a file.
        return
    with output.live_view(_table(service), console) as live:
        while True:
            live.update(_table(service), refresh=True)
            await asyncio.sleep(_SHOW_S)


def _table(service: "GatewayService") -> Table:
    rows = [_row(port) for port in service.status()]
    return output.table(
        (
            "port",
            "node",
            "state",
            "baud",
            "tasks",
            "round trip",
            "repeated",
            "bad",
            "resets",
            "lost",
        ),
        rows or [("", "", "no board yet: plug one in", *[""] * 7)],
        right="baud tasks round_trip repeated bad resets lost",
    )


def _row(port: "PortStatus") -> tuple[str, ...]:
    counters = port.counters
    return (
        port.path,
        port.node,
        port.state,
        str(port.baud or ""),
        str(port.tasks_done),
        f"{port.round_trip_ms:.1f} ms" if port.round_trip_ms else "",
        str(counters.repeated_frames),
        f"{counters.bad_frames}+{port.board_bad_frames}",
        str(counters.resets_of_board),
        str(counters.messages_lost),
    )
