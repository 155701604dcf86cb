"""`maille nodes`: who is in the mesh."""

import time
from collections.abc import Sequence

import typer
from rich.table import Table

from maille.cli import output
from maille.cli.common import (
    JsonOption,
    KeyFileOption,
    MeshOption,
    UrlOption,
    connected,
    friendly,
)
from maille.views import Node

REFRESH_S = 0.5
_STYLES = {"ready": "green", "draining": "yellow", "lost": "red", "disconnected": "red"}


def nodes_table(nodes: Sequence[Node]) -> Table:
    """A table of nodes for people."""
    made = output.table(
        [
            "node",
            "state",
            "kind",
            "speed",
            "slots",
            "load",
            "done",
            "latency",
            "battery",
            "via",
            "models",
        ],
        [],
        right="speed slots load done latency battery",
    )
    for node in nodes:
        style = _STYLES.get(node.state, "default")
        speed = node.multiply_accumulates_per_s
        made.add_row(
            node.name,
            f"[{style}]{node.state}[/]",
            node.kind,
            output.count(speed, "MAC/s") if speed else "",
            str(node.slots or ""),
            f"{node.running}+{node.queued}",
            f"{node.done:,}" + (f" ({node.failed} failed)" if node.failed else ""),
            output.duration(node.latency_s),
            f"{node.battery_percent} %" if node.battery_percent is not None else "",
            node.gateway or "",
            ", ".join(node.warm_models),
        )
    return made


@friendly
def nodes(
    context: typer.Context,
    *,
    watch: bool = typer.Option(False, "--watch", "-w", help="Keep showing, until Ctrl-C."),
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the devices in the mesh."""
    with connected(context, url, mesh, key_file) as opened:
        found = opened.nodes()
        if not watch:
            if as_json:
                output.print_json(found)
            elif found:
                output.stdout().print(nodes_table(found))
            else:
                output.stdout().print("No node has joined yet. Start one with `maille node`.")
            return
        if as_json:
            while True:
                output.print_line(opened.nodes())
                time.sleep(REFRESH_S)
        with output.live_view(nodes_table(found), output.stdout()) as live:
            while True:
                time.sleep(REFRESH_S)
                live.update(nodes_table(opened.nodes()), refresh=True)
