"""amqtt inside this process: nothing to install, for this machine only.

amqtt 0.12 mishandles refused logins, take-over, wills and redelivery (see the probe table in
`broker/README.md`), so it is never bound beyond loopback. Maille rests on none of these.
"""

import asyncio
import importlib.util
import logging
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from maille_broker.access import check_credentials
from maille_broker.endpoint import Endpoint
from maille_broker.errors import BrokerConfigError, BrokerMissing, PortInUse
from maille_broker.running import RunningBroker, is_loopback, try_login, url_host

if TYPE_CHECKING:
    from maille_broker.embedded_amqtt import EmbeddedBroker

REFUSAL = (
    "amqtt is only for this machine, so it does not listen on {host}: a stranger on the network "
    "could disturb connected devices and read messages that are not his. Use --broker mosquitto "
    "or --broker nats for a network, or leave the host at 127.0.0.1."
)


def is_amqtt_installed() -> bool:
    """Whether the package is there."""
    return importlib.util.find_spec("amqtt") is not None


async def start_amqtt(
    *,
    host: str,
    port: int,
    websocket_port: int | None,
    credentials: Mapping[str, str],
    mesh: str,
) -> RunningBroker:
    """Start amqtt in the running event loop.

    Raises:
        BrokerError: see `launch.start_broker`.
    """
    if not is_loopback(host):
        raise BrokerConfigError(REFUSAL.format(host=host))
    if not is_amqtt_installed():
        raise BrokerMissing(
            "amqtt is not installed. Install it with: pip install 'maille[broker]', "
            "or choose another broker: --broker mosquitto."
        )
    check_credentials(credentials, mesh)
    broker = _make_broker(host, port, websocket_port, credentials)
    try:
        await broker.start()
    except Exception as error:
        if isinstance(error.__cause__, OSError):
            raise PortInUse(
                f"amqtt cannot listen on {host} port {port}: {error.__cause__.strerror}. "
                "Stop the program that uses it, or choose another port."
            ) from error
        raise BrokerConfigError(f"amqtt cannot start: {error}") from error
    endpoint = Endpoint(host, port)
    if credentials:
        endpoint = endpoint.with_credentials("coordinator", credentials["coordinator"])
    forever = asyncio.Event()

    async def ended() -> str:
        await forever.wait()
        return "amqtt was stopped"

    async def stop() -> None:
        await broker.end()
        forever.set()

    try:
        await try_login(endpoint, "maille-start", timeout_s=5.0)
    except BaseException:
        await stop()
        raise
    return RunningBroker(
        "amqtt",
        endpoint,
        websocket_url=None
        if websocket_port is None
        else f"ws://{url_host(host)}:{websocket_port}/mqtt",
        pid=None,
        stop=stop,
        ended=ended,
    )


def _make_broker(
    host: str, port: int, websocket_port: int | None, credentials: Mapping[str, str]
) -> "EmbeddedBroker":
    # Imported when used: amqtt belongs to an extra that a node does not install.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from maille_broker.embedded_amqtt import EmbeddedBroker  # noqa: PLC0415
    # It logs every lost client as an error with a traceback.
    for name in ("amqtt", "transitions"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    listeners: dict[str, object] = {
        "default": {"type": "tcp", "bind": f"{url_host(host)}:{port}", "max_connections": 0}
    }
    if websocket_port is not None:
        listeners["websocket"] = {"type": "ws", "bind": f"{url_host(host)}:{websocket_port}"}
    plugins: dict[str, object] = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {}}
    if credentials:
        plugins = {"maille_broker.embedded_amqtt.LoginPlugin": {"logins": dict(credentials)}}
    return EmbeddedBroker({"listeners": listeners, "plugins": plugins})
