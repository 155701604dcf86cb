"""mosquitto as a child process, with a configuration, passwords and access rules made by us."""

import base64
import getpass
import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from maille_broker.access import Login, check_credentials, rights
from maille_broker.endpoint import Endpoint
from maille_broker.errors import BrokerConfigError, BrokerMissing
from maille_broker.process import ChildProcess
from maille_broker.running import (
    Certificate,
    RunningBroker,
    local_host,
    url_host,
    wait_until_ready,
    write_private,
)

PASSWORD_ITERATIONS = 2_000
# Queues hold a burst for one slow reader; beyond that mosquitto drops without telling anyone.
MAX_QUEUED_MESSAGES = 100_000
MAX_QUEUED_BYTES = 256 * 1024 * 1024
MAX_MESSAGE_BYTES = 1024 * 1024


def find_mosquitto() -> str | None:
    """The installed program's path (also where Debian hides it from ordinary users)."""
    places = os.pathsep.join(
        (os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
    )
    return shutil.which("mosquitto", path=places)


def password_line(username: str, password: str) -> str:
    """A line of mosquitto's password file: salted PBKDF2-SHA512, its `$7$` format."""
    salt = secrets.token_bytes(12)
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, PASSWORD_ITERATIONS, 64)
    return (
        f"{username}:$7${PASSWORD_ITERATIONS}$"
        f"{base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}\n"
    )


def access_file(logins: list[Login], mesh: str) -> str:
    """Mosquitto's access rules: each login its own topics, nothing else.

    Rules for a role alone are patterns on the client id (`%c`), which mosquitto applies to every
    login; the client id thus decides whether such a connection is a node or a client.
    """
    lines: list[str] = []
    for login in logins:
        if login.role == "coordinator" or login.identity is not None:
            own = rights(login.role, mesh, login.identity or "")
            lines.append(f"user {login.username}")
            lines += [f"topic write {topic}" for topic in own.publish]
            lines += [f"topic read {topic}" for topic in own.subscribe]
    shared = sorted({login.role for login in logins if login.identity is None} - {"coordinator"})
    for role in shared:
        own = rights(role, mesh, "%c")
        lines += [f"pattern write {topic}" for topic in own.publish]
        lines += [f"pattern read {topic}" for topic in own.subscribe]
    return "\n".join(lines) + "\n"


def configuration(
    *,
    host: str,
    port: int,
    websocket_port: int | None,
    password_file: Path | None,
    acl_file: Path | None,
    certificate: Certificate | None = None,
) -> str:
    """The text of mosquitto.conf."""
    lines = [
        "# Written by Maille at every start: changes here are lost.",
        "per_listener_settings false",
        "persistence false",
        # Without it every small acknowledgement waits up to 40 ms.
        "set_tcp_nodelay true",
        "max_inflight_messages 1000",
        f"max_queued_messages {MAX_QUEUED_MESSAGES}",
        f"max_queued_bytes {MAX_QUEUED_BYTES}",
        f"message_size_limit {MAX_MESSAGE_BYTES}",
        "connection_messages false",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        # Started by root it would change to a user who cannot read our private files.
        lines.append(f"user {getpass.getuser()}")
    if password_file is None:
        lines.append("allow_anonymous true")
    else:
        lines += ["allow_anonymous false", f"password_file {password_file}"]
        if acl_file is not None:
            lines.append(f"acl_file {acl_file}")
    encryption: list[str] = []
    if certificate is not None:
        encryption = [
            f"certfile {certificate.certificate_file.absolute()}",
            f"keyfile {certificate.key_file.absolute()}",
            "tls_version tlsv1.2",
        ]
    lines += [f"listener {port} {host}", "protocol mqtt", *encryption]
    if websocket_port is not None:
        lines += [f"listener {websocket_port} {host}", "protocol websockets", *encryption]
    return "\n".join(lines) + "\n"


async def start_mosquitto(
    *,
    host: str,
    port: int,
    websocket_port: int | None,
    data_directory: Path,
    credentials: Mapping[str, str],
    mesh: str,
    certificate: Certificate | None = None,
) -> RunningBroker:
    """Start mosquitto and wait until it takes a login; without credentials anyone may connect.

    Raises:
        BrokerError: see `launch.start_broker`.
    """
    program = find_mosquitto()
    if program is None:
        raise BrokerMissing(
            "mosquitto is not installed. Install it with your system's package manager "
            "(Debian, Ubuntu: sudo apt install mosquitto; macOS: brew install mosquitto), "
            "or choose another broker: --broker nats or --broker amqtt."
        )
    password_file = acl_file = None
    if credentials:
        logins = check_credentials(credentials, mesh)
        password_file = data_directory / "mosquitto.passwords"
        acl_file = data_directory / "mosquitto.acl"
        write_private(
            password_file,
            "".join(password_line(name, password) for name, password in credentials.items()),
        )
        write_private(acl_file, access_file(logins, mesh))
    endpoint = Endpoint(
        local_host(host),
        port,
        tls=certificate is not None,
        ca_file=None if certificate is None else str(certificate.ca_file),
    )
    if credentials:
        endpoint = endpoint.with_credentials("coordinator", credentials["coordinator"])
    configuration_file = data_directory / "mosquitto.conf"
    while True:
        write_private(
            configuration_file,
            configuration(
                host=host,
                port=port,
                websocket_port=websocket_port,
                password_file=password_file,
                acl_file=acl_file,
                certificate=certificate,
            ),
        )
        child = await ChildProcess.start("mosquitto", (program, "-c", str(configuration_file)))
        try:
            await wait_until_ready(endpoint, child, "mosquitto")
            break
        except BrokerConfigError:
            # Some builds come without WebSocket listeners.
            if websocket_port is None or "ebsocket" not in child.last_lines():
                raise
            websocket_port = None

    async def ended() -> str:
        status = await child.wait()
        return f"mosquitto ended with status {status}:\n{child.last_lines()}"

    scheme = "ws" if certificate is None else "wss"
    return RunningBroker(
        "mosquitto",
        endpoint,
        websocket_url=None
        if websocket_port is None
        else f"{scheme}://{url_host(local_host(host))}:{websocket_port}/mqtt",
        pid=child.pid,
        stop=child.stop,
        ended=ended,
    )
