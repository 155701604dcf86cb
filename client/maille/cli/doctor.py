"""`maille doctor`: whether a broker is fit for a mesh, and what this machine has."""

import asyncio
import importlib.metadata
import importlib.util
from typing import TYPE_CHECKING, Annotated

import typer

from maille.cli import output
from maille.cli.common import JsonOption, KeyFileOption, MeshOption, find_key, friendly
from maille.errors import MeshNotFound
from maille.locate import DEFAULT_MESH, locate
from maille_broker import Endpoint, run_probes
from maille_broker.mosquitto import find_mosquitto
from maille_broker.nats import find_nats_server

if TYPE_CHECKING:
    from maille_broker import ProbeResult, Report

_MARKS = {"pass": "[green]ok  [/]", "fail": "[red]fail[/]", "skip": "[dim]skip[/]"}


@friendly
def doctor(
    context: typer.Context,
    broker: Annotated[
        str | None,
        typer.Argument(
            metavar="[URL]",
            help="A broker (mqtt://host:1883) or a coordinator; else the mesh that is found.",
            show_default=False,
        ),
    ] = None,
    *,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Examine a broker in under ten seconds and say what is wrong with it, if anything."""
    key = find_key(context, key_file)
    parts = _installed()
    console = output.stdout()
    if not as_json:
        for name, found in parts.items():
            console.print(f"{name:<12} {found or 'not installed'}", markup=False)
    try:
        endpoint = asyncio.run(_endpoint(broker, key, mesh))
    except MeshNotFound as error:
        if broker is not None:
            raise
        if as_json:
            output.print_json({"installed": parts, "broker": None})
        else:
            console.print(f"no broker examined: {error}", markup=False)
        return
    shown = endpoint.with_credentials(endpoint.username, None).url
    if not as_json:
        console.print(f"examining {shown} ...", markup=False)
    report = asyncio.run(run_probes(endpoint, on_result=None if as_json else _print_result))
    if as_json:
        output.print_json({"installed": parts, "broker": report.to_dict()})
    else:
        _print_verdict(report)
    if report.verdict == "unfit":
        raise typer.Exit(output.EXIT_FAILED)


async def _endpoint(url: str | None, key: str | None, mesh: str | None) -> Endpoint:
    place = await locate(
        url,
        key=key,
        mesh=mesh or (DEFAULT_MESH if key else None),
        timeout_s=5.0,
        role="coordinator",
    )
    return place.endpoint


def _print_result(result: "ProbeResult") -> None:
    console = output.stdout()
    name = result.name.replace("_", " ").replace("-", " ")
    console.print(f"{_MARKS[result.result]} {name:<28} {_measured(result):>12}  ", end="")
    text = result.meaning if result.result == "pass" else f"{result.detail} ({result.meaning})"
    console.print(
        text, markup=False, highlight=False, style="dim" if result.result == "pass" else ""
    )


def _measured(result: "ProbeResult") -> str:
    """The measured value as a person would write it."""
    value = result.value
    if value is None:
        return ""
    match result.unit:
        case "B":
            return f"{value / 1024:.0f} KiB"
        case "ms":
            return f"{value:.2f} ms"
        case unit:
            return f"{value:,.4g} {unit}"


def _print_verdict(report: "Report") -> None:
    colour = {"good": "green", "usable": "yellow", "unfit": "red"}[report.verdict]
    console = output.stdout()
    console.print(f"[bold {colour}]{report.verdict}[/] after {report.elapsed_s:.1f} s.", end=" ")
    console.print(report.sentence, markup=False)


def _installed() -> dict[str, str | None]:
    """What this machine has of what a mesh can use."""

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {
        "maille": version("maille"),
        "onnxruntime": version("onnxruntime"),
        "coordinator": "yes" if importlib.util.find_spec("fastapi") is not None else None,
        "amqtt": version("amqtt"),
        "mosquitto": find_mosquitto(),
        "nats-server": find_nats_server(),
    }
