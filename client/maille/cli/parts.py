"""`maille broker`, `maille coordinator`, `maille node`: the parts of a mesh, one process each."""

import asyncio
import logging
import signal
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import platformdirs
import typer

from maille import keys
from maille.cli import output
from maille.cli.arguments import NodeArgument
from maille.cli.common import (
    JsonOption,
    KeyFileOption,
    MeshOption,
    UrlOption,
    ask_for_key,
    connected,
    find_key,
    friendly,
    may_ask,
)
from maille.errors import MailleError, SettingsError, Unauthorized
from maille.locate import DEFAULT_MESH, Place, locate, runtime_directory
from maille_broker import Endpoint, parse_url, start_broker

if TYPE_CHECKING:
    from maille_coordinator.settings import CoordinatorSettings

LOCAL_BROKER = "mqtt://127.0.0.1:1883"

BrokerKind = Literal["auto", "amqtt", "mosquitto", "nats"]

node_app = typer.Typer(
    invoke_without_command=True, help="Make this machine a node, or drain, resume and forget one."
)


def state_folder(given: Path | None, mesh: str) -> Path:
    """Where a mesh's lasting state lies on this machine."""
    return given or platformdirs.user_state_path("maille") / mesh


def broker_login(url: str, key: str | None, mesh: str, role: str) -> Endpoint:
    """A broker's address with the role's login, unless the address has one or there is no key."""
    endpoint = parse_url(url)
    if endpoint.username is None and key is not None:
        return endpoint.with_credentials(role, keys.password(key, mesh, role))
    return endpoint


@friendly
def broker(
    context: typer.Context,
    *,
    kind: Annotated[str, typer.Option(help="auto, amqtt, mosquitto or nats.")] = "auto",
    host: str = typer.Option("127.0.0.1", help="Address to listen on; 0.0.0.0 for the network."),
    port: int = typer.Option(1883, help="Port of MQTT; 0 takes a free one."),
    websocket_port: int | None = typer.Option(None, help="Port of MQTT over WebSocket."),
    state_directory: Annotated[Path | None, typer.Option(help="Where its files go.")] = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a broker until Ctrl-C."""
    name = mesh or DEFAULT_MESH
    key = find_key(context, key_file)

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        running = await start_broker(
            broker_kind(kind),
            host=host,
            port=port,
            websocket_port=websocket_port,
            data_directory=state_folder(state_directory, name) / "broker",
            credentials=keys.credentials(key, name) if key else None,
            mesh=name,
        )
        async with AsyncExitStack() as stack:
            stack.push_async_callback(running.stop)
            endpoint = running.endpoint.with_credentials(None, None)
            if as_json:
                output.print_line(
                    {
                        "kind": running.kind,
                        "url": endpoint.url,
                        "websocket_url": running.websocket_url,
                    }
                )
            else:
                output.stdout().print(f"{running.kind} at {endpoint.url} (Ctrl-C ends it)")
            stopped = asyncio.create_task(stop.wait(), name="stop")
            ended = asyncio.create_task(running.wait_ended(), name="broker ended")
            await asyncio.wait({stopped, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise MailleError(f"The broker ended by itself: {ended.result()}")
            ended.cancel()

    asyncio.run(main())


def broker_kind(text: str) -> BrokerKind:
    """A kind of broker that can be started; SettingsError."""
    match text:
        case "auto" | "amqtt" | "mosquitto" | "nats":
            return text
        case _:
            raise SettingsError(
                f"{text!r} is no broker that can be started here. Choose auto, amqtt, mosquitto or "
                "nats, or give the address of a running one as mqtt://host:1883."
            )


@friendly
def coordinator(
    context: typer.Context,
    *,
    broker_url: Annotated[
        str,
        typer.Option(
            "--broker",
            envvar="MAILLE_BROKER",
            help="The broker; set MAILLE_BROKER if it has a password.",
        ),
    ] = LOCAL_BROKER,
    public_broker_url: Annotated[
        str | None,
        typer.Option("--public-broker", help="The broker as nodes and clients reach it."),
    ] = None,
    websocket_url: str | None = typer.Option(None, help="The broker's WebSocket, for browsers."),
    http_host: str = typer.Option("127.0.0.1", help="Address of the HTTP API."),
    http_port: int = typer.Option(7700, help="Port of the HTTP API; 0 takes a free one."),
    http_url: str | None = typer.Option(None, help="The HTTP API as nodes and clients reach it."),
    state_directory: Annotated[
        Path | None, typer.Option(help="Where tasks and models are kept.")
    ] = None,
    journal_sync: Annotated[
        str, typer.Option(help="normal survives the death of any process, full also a power cut.")
    ] = "normal",
    advertise: bool = typer.Option(True, help="Announce the mesh on the network by mDNS."),
    replicas: Annotated[
        int,
        typer.Option(
            envvar="MAILLE_REPLICAS",
            min=1,
            max=8,
            help="Nodes that hold each slice of a language model: with 2, a loss is a short pause.",
        ),
    ] = 1,
    spread: Annotated[
        int,
        typer.Option(
            envvar="MAILLE_SPREAD",
            min=1,
            max=64,
            help="Cut language models over at least so many nodes, even where one alone is faster.",
        ),
    ] = 1,
    context_tokens: Annotated[
        int,
        typer.Option(
            "--context",
            envvar="MAILLE_CONTEXT",
            min=16,
            max=1 << 24,
            help="Tokens of prompt and answer that each language-model session has room for.",
        ),
    ] = 4096,
    sessions: Annotated[
        int,
        typer.Option(
            envvar="MAILLE_SESSIONS",
            min=1,
            max=64,
            help="Sessions of a language model that have room at once.",
        ),
    ] = 4,
    name: str = typer.Option("coordinator", help="Its id, where a mesh has several."),
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a coordinator until Ctrl-C."""
    settings = coordinator_settings(
        mesh=mesh or DEFAULT_MESH,
        key=find_key(context, key_file),
        broker_url=broker_url,
        public_broker_url=public_broker_url,
        websocket_url=websocket_url,
        http_host=http_host,
        http_port=http_port,
        http_url=http_url,
        directory=state_directory,
        sync=journal_sync,
        advertise=advertise,
        name=name,
        replicas=replicas,
        spread=spread,
        context_tokens=context_tokens,
        sessions=sessions,
    )
    from maille_coordinator.server import run_coordinator

    def ready(url: str) -> None:
        if as_json:
            output.print_line({"http_url": url, "mesh": settings.mesh})
        else:
            output.stdout().print(f"mesh {settings.mesh!r} at {url} (Ctrl-C ends it)")

    raise typer.Exit(run_coordinator(settings, on_ready=ready))


def coordinator_settings(
    *,
    mesh: str,
    key: str | None,
    broker_url: str,
    public_broker_url: str | None,
    websocket_url: str | None,
    http_host: str,
    http_port: int,
    http_url: str | None,
    directory: Path | None,
    sync: str,
    advertise: bool,
    name: str,
    replicas: int = 1,
    spread: int = 1,
    context_tokens: int = 4096,
    sessions: int = 4,
) -> "CoordinatorSettings":
    """Settings of a coordinator from what was typed; SettingsError."""
    try:
        from maille_coordinator.server import run_coordinator  # noqa: F401 - is it installed?
        from maille_coordinator.settings import CoordinatorSettings
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("maille"):
            raise
        raise SettingsError(
            f"This installation has no coordinator: {error.name} is missing. "
            "Install it with: pip install 'maille[coordinator]'"
        ) from error
    if sync not in {"normal", "full"}:
        raise SettingsError(f"--journal-sync is {sync!r}: choose normal or full.")
    endpoint = broker_login(broker_url, key, mesh, "coordinator")
    own_login = parse_url(broker_url)
    shared = (
        (own_login.username, own_login.password)
        if own_login.username is not None and own_login.password is not None
        else None
    )
    return CoordinatorSettings(
        endpoint=endpoint,
        state_directory=state_folder(directory, mesh) / "coordinator",
        mesh=mesh,
        name=name,
        http_host=http_host,
        http_port=http_port,
        http_url=http_url,
        broker_url=public_broker_url or endpoint.with_credentials(None, None).url,
        websocket_url=websocket_url,
        key=key,
        shared_login=shared,
        journal_sync="full" if sync == "full" else "normal",
        runtime_directory=runtime_directory(),
        advertise=advertise,
        language_replicas=replicas,
        language_least_nodes=spread,
        language_context_tokens=context_tokens,
        language_sessions=sessions,
    )


@node_app.callback()
@friendly
def node(
    context: typer.Context,
    *,
    identity: Annotated[
        str | None,
        typer.Option(
            "--id", envvar="MAILLE_NODE_ID", help="Its id in the mesh; else this machine's own."
        ),
    ] = None,
    name: str | None = typer.Option(None, help="A name for people; else the machine's."),
    slots: int | None = typer.Option(None, help="Tasks held at a time; else from its cores."),
    workers: int | None = typer.Option(None, help="Batches run at a time; else from its cores."),
    cache_directory: Annotated[Path | None, typer.Option(help="Where models are kept.")] = None,
    cache_limit_gb: float | None = typer.Option(None, help="Size limit of that."),
    state_directory: Annotated[Path | None, typer.Option(help="Where its id is kept.")] = None,
    remeasure: bool = typer.Option(False, "--remeasure", help="Measure this machine anew."),
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
) -> None:
    """Make this machine a node of a mesh, until Ctrl-C.

    The mesh is found by itself on this machine and on the local network; --url names another.
    """
    if context.invoked_subcommand is not None:
        return
    key = find_key(context, key_file)
    place = find_place(url, key, mesh)
    from maille_node import NodeSettings
    from maille_node import SettingsError as NodeSettingsError
    from maille_node.alone import HandedOver, hand_over

    defaults = NodeSettings(endpoint=place.endpoint, mesh=place.mesh)
    limit_bytes = None if cache_limit_gb is None else int(cache_limit_gb * 1024**3)
    try:
        settings = replace(
            defaults,
            node=identity,
            name=name,
            slots=slots,
            workers=workers,
            cache_directory=cache_directory or defaults.cache_directory,
            cache_limit_bytes=limit_bytes or defaults.cache_limit_bytes,
            state_directory=state_directory or defaults.state_directory,
            key=place.key,
            http_url=place.http_url,
            remeasure=remeasure,
        )
    except NodeSettingsError as error:
        raise SettingsError(str(error)) from error
    where = place.http_url or place.endpoint.with_credentials(None, None).url
    output.stderr().print(f"joining mesh {place.mesh!r} at {where} (Ctrl-C leaves it)")
    if not logging.getLogger().isEnabledFor(logging.INFO):
        logging.getLogger("maille_node.run").setLevel(logging.INFO)
    level = logging.getLogger().getEffectiveLevel()
    hand_over(HandedOver(settings, level, output.LOG_FORMAT, output.LOG_TIME_FORMAT))
    from maille_node import run_node

    raise typer.Exit(run_node(settings))


def find_place(url: str | None, key: str | None, mesh: str | None) -> Place:
    """The mesh to join; asks for the key at a terminal when one is wanted and none was given."""
    try:
        return asyncio.run(locate(url, key=key, mesh=mesh, timeout_s=10.0, role="node"))
    except Unauthorized:
        if key is not None or not may_ask():
            raise
        key = ask_for_key()
        return asyncio.run(locate(url, key=key, mesh=mesh, timeout_s=10.0, role="node"))


@node_app.command("drain")
@friendly
def drain(
    context: typer.Context,
    node: NodeArgument,
    *,
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a node finish what it holds and give it nothing new."""
    with connected(context, url, mesh, key_file) as opened:
        opened.wait_for(opened.asynchronous.http.drain(node))
    _said(f"{node} drains", {"node": node, "state": "draining"}, as_json=as_json)


@node_app.command("resume")
@friendly
def resume(
    context: typer.Context,
    node: NodeArgument,
    *,
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a drained node back."""
    with connected(context, url, mesh, key_file) as opened:
        opened.wait_for(opened.asynchronous.http.resume(node))
    _said(f"{node} takes tasks again", {"node": node, "state": "ready"}, as_json=as_json)


@node_app.command("forget")
@friendly
def forget(
    context: typer.Context,
    node: NodeArgument,
    *,
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a node that is gone off the list, and drop what was wished of it."""
    with connected(context, url, mesh, key_file) as opened:
        opened.wait_for(opened.asynchronous.http.forget(node))
    _said(f"{node} is forgotten", {"node": node, "state": "forgotten"}, as_json=as_json)


def _said(text: str, document: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        output.print_json(document)
    else:
        output.stdout().print(text)
