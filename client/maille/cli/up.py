"""`maille up`: broker, coordinator and one node on this machine, with one command."""

import asyncio
import contextlib
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.live import Live

from maille import keys
from maille.children import (
    ended_text,
    maille_command,
    start_child,
    wait_for_http,
)
from maille.cli import output
from maille.cli.common import JsonOption, KeyFileOption, MeshOption, find_key, friendly, state_of
from maille.cli.nodes import nodes_table
from maille.cli.parts import broker_kind, state_folder
from maille.errors import MailleError
from maille.http_api import HttpApi
from maille.locate import DEFAULT_MESH
from maille.views import Node
from maille_broker import PortInUse, RunningBroker, lan_address, start_broker
from maille_broker.process import ChildProcess
from maille_broker.running import check_port, free_port, write_private

USUAL_MQTT_PORT = 1883
STATUS_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UpSettings:
    """What is to be started."""

    broker: str
    lan: bool
    mesh: str
    key: str | None = field(repr=False)
    mqtt_port: int | None
    http_port: int
    directory: Path
    with_node: bool
    advertise: bool
    as_json: bool
    verbose: int


@friendly
def up(
    context: typer.Context,
    *,
    broker: Annotated[
        str,
        typer.Option(
            envvar="MAILLE_BROKER",
            help="auto, amqtt, mosquitto, nats, or the address of a running broker.",
        ),
    ] = "auto",
    lan: bool = typer.Option(False, "--lan", help="Let other machines of this network join."),
    port: int | None = typer.Option(None, help="Port of MQTT; else 1883 or a free one."),
    http_port: int = typer.Option(7700, help="Port of the HTTP API; 0 takes a free one."),
    state_directory: Annotated[
        Path | None, typer.Option(help="Where tasks and models are kept.")
    ] = None,
    node: bool = typer.Option(True, help="Whether this machine is a node as well."),
    advertise: bool = typer.Option(True, help="Announce the mesh by mDNS."),
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a mesh on this machine: broker, coordinator and one node. Ctrl-C ends all of it."""
    name = mesh or DEFAULT_MESH
    folder = state_folder(state_directory, name)
    key = find_key(context, key_file)
    if lan and key is None:
        key = _kept_key(folder)
    settings = UpSettings(
        broker=broker,
        lan=lan,
        mesh=name,
        key=key,
        mqtt_port=port,
        http_port=http_port,
        directory=folder,
        with_node=node,
        advertise=advertise,
        as_json=as_json,
        verbose=state_of(context).verbose,
    )
    asyncio.run(_Up(settings).run())


def _kept_key(folder: Path) -> str:
    """The key of this machine's mesh, made and kept (readable by this user only) at first."""
    path = folder / "key"
    if path.exists():
        return keys.read_key_file(path)
    key = keys.new_key()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, key + "\n")
    except OSError as error:
        raise MailleError(
            f"The key cannot be kept in {path} ({error.strerror}). "
            "Choose a folder that you may write to with --state-directory."
        ) from error
    return key


class _Up:
    """The running parts, from start to stop."""

    def __init__(self, settings: UpSettings) -> None:
        self._settings = settings
        self._stop = asyncio.Event()
        self._broker: RunningBroker | None = None
        self._children: list[tuple[str, ChildProcess]] = []
        self._http_url = ""

    async def run(self) -> None:
        """Start everything, show it, and end it in order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        try:
            await self._start()
            self._announce()
            await self._serve()
        finally:
            # The node first: it drains while coordinator and broker can still take its results.
            for _, child in reversed(self._children):
                await child.stop()
            if self._broker is not None:
                await self._broker.stop()

    async def _start(self) -> None:
        settings = self._settings
        host = "0.0.0.0" if settings.lan else "127.0.0.1"  # noqa: S104 - asked for with --lan
        http_port = settings.http_port or free_port(host)
        try:
            check_port(host, http_port)
        except PortInUse as error:
            raise PortInUse(
                f"Port {http_port} is in use: perhaps this mesh runs already (see `maille nodes`). "
                "Stop the other program, or choose another port with --http-port."
            ) from error
        self._http_url = f"http://127.0.0.1:{http_port}"
        broker_url, public_url = await self._start_broker(host)
        arguments = [
            *("--mesh", settings.mesh),
            *("--http-host", host, "--http-port", str(http_port)),
            *("--state-directory", str(settings.directory)),
            "--advertise" if settings.advertise else "--no-advertise",
        ]
        if public_url is not None:
            arguments += ["--public-broker", public_url]
        if settings.lan:
            arguments += ["--http-url", f"http://{lan_address()}:{http_port}"]
        if self._broker is not None and self._broker.websocket_url is not None:
            arguments += ["--websocket-url", self._broker.websocket_url]
        # Through the environment: other users of this machine can read command lines.
        environment = {"MAILLE_BROKER": broker_url}
        if settings.key is not None:
            environment["MAILLE_KEY"] = settings.key
        coordinator = await self._child("coordinator", arguments, environment)
        await wait_for_http(self._http_url, coordinator, "coordinator")
        if settings.with_node:
            environment["MAILLE_URL"] = self._http_url
            await self._child("node", [], environment)

    async def _start_broker(self, host: str) -> tuple[str, str | None]:
        """The broker's URL for the coordinator, and the one for everyone else."""
        settings = self._settings
        if "://" in settings.broker:
            return settings.broker, None
        kind = broker_kind(settings.broker)
        port = settings.mqtt_port
        if port is None:
            try:
                check_port(host, USUAL_MQTT_PORT)
                port = USUAL_MQTT_PORT
            except PortInUse:
                port = 0
        self._broker = await start_broker(
            kind,
            host=host,
            port=port,
            data_directory=settings.directory / "broker",
            credentials=keys.credentials(settings.key, settings.mesh) if settings.key else None,
            mesh=settings.mesh,
        )
        endpoint = self._broker.endpoint.with_credentials(None, None)
        public = f"mqtt://{lan_address()}:{endpoint.port}" if settings.lan else endpoint.url
        return endpoint.url, public

    async def _child(
        self, name: str, arguments: list[str], environment: dict[str, str]
    ) -> ChildProcess:
        flags = ["-" + "v" * self._settings.verbose] if self._settings.verbose else []
        child = await start_child(name, maille_command(*flags, name, *arguments), environment)
        self._children.append((name, child))
        return child

    def _announce(self) -> None:
        settings = self._settings
        kind = self._broker.kind if self._broker is not None else settings.broker.split("@")[-1]
        if settings.as_json:
            output.print_line(
                {
                    "mesh": settings.mesh,
                    "http_url": self._http_url,
                    "broker": kind,
                    "lan": settings.lan,
                    "pids": {name: child.pid for name, child in self._children},
                }
            )
            return
        console = output.stdout()
        console.print(f"Mesh [bold]{settings.mesh}[/] is up: {self._http_url} ({kind})")
        console.print("  on this machine, in another terminal:")
        console.print("    maille nodes --watch")
        console.print("    maille models add MODEL.onnx")
        if settings.lan:
            port = urlsplit(self._http_url).port
            console.print("  on another machine of this network, to join (it asks for the key):")
            console.print("    maille node")
            console.print(f"    maille node --url http://{lan_address()}:{port}   # if not found")
            console.print(f"  key: {settings.key}", markup=False)
        else:
            console.print("  to let other machines join: maille up --lan")
        console.print("  Ctrl-C ends it.")

    async def _serve(self) -> None:
        """Show the state until Ctrl-C, or until a part ends by itself."""
        stopped = asyncio.create_task(self._stop.wait(), name="stop")
        watched: dict[asyncio.Task[object], str] = {}
        for name, child in self._children:
            watched[asyncio.create_task(child.wait(), name=f"{name} ended")] = name
        if self._broker is not None and self._broker.pid is not None:
            watched[asyncio.create_task(self._broker.wait_ended(), name="broker ended")] = "broker"
        showing = asyncio.create_task(self._show(), name="status")
        try:
            done, _ = await asyncio.wait({stopped, *watched}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (showing, stopped, *watched):
                task.cancel()
            await asyncio.gather(showing, stopped, *watched, return_exceptions=True)
        if stopped in done:
            return
        for task in done:
            name = watched[task]
            for child_name, child in self._children:
                if child_name == name:
                    raise MailleError(ended_text(child, name))
            raise MailleError(f"The {name} has ended: {task.result()}")

    async def _show(self) -> None:
        console = output.stdout()
        settings = self._settings
        if settings.as_json:
            return
        async with HttpApi(self._http_url, key=settings.key, timeout_s=5.0) as http:
            if not console.is_terminal:
                await self._show_plain(http)
                return
            with Live(console=console, refresh_per_second=4, transient=True) as live:
                while True:
                    with contextlib.suppress(MailleError):
                        live.update(nodes_table(await http.nodes()))
                    await asyncio.sleep(STATUS_EVERY_S)

    async def _show_plain(self, http: HttpApi) -> None:
        """Without a terminal: a line whenever a node's state changes."""
        known: dict[str, str] = {}
        while True:
            nodes: list[Node] = []
            with contextlib.suppress(MailleError):
                nodes = await http.nodes()
            for node in nodes:
                if known.get(node.name) != node.state:
                    known[node.name] = node.state
                    print(f"node {node.name}: {node.state}", flush=True)
            await asyncio.sleep(STATUS_EVERY_S)
