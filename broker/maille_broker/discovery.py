"""Find meshes on the network by mDNS (`_maille._tcp.local.`), and let them be found.

What mDNS says is a hint and no proof of identity: any device on the network can claim to be any
mesh. Whoever connects to a found address must check it by other means (a TLS certificate, a
password that was given by hand) before trusting it. No secret is ever advertised.
"""

import asyncio
import logging
import secrets
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import psutil
from zeroconf import InterfaceChoice, IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from maille_broker.access import is_mesh_name
from maille_broker.errors import BrokerConfigError, BrokerUnavailable
from maille_broker.running import is_loopback, url_host

logger = logging.getLogger(__name__)

SERVICE_TYPE = "_maille._tcp.local."
MAX_RECORDS = 64
MAX_URL_CHARACTERS = 200
RESOLVE_TIMEOUT_MS = 1_500


@dataclass(frozen=True, slots=True)
class MeshRecord:
    """A mesh that someone advertises; not a proof that it is the one it says it is."""

    mesh: str
    http_url: str
    version: str
    addresses: tuple[str, ...]


class Advertisement:
    """Lets others find a coordinator, from `start` to `stop` or within `async with`.

    Args:
        mesh: the mesh's name.
        http_url: the coordinator's HTTP address. With a loopback host only this machine is
            told; with 0.0.0.0 each reader puts the address in that it found.
        version: of Maille.
    """

    def __init__(self, mesh: str, http_url: str, version: str) -> None:
        parts = urlsplit(http_url)
        if not is_mesh_name(mesh):
            raise BrokerConfigError(
                f"'{mesh}' is no mesh name. Use 1 to 32 of a-z, 0-9 and inner hyphens."
            )
        if parts.username or parts.password or len(http_url) > MAX_URL_CHARACTERS:
            raise ValueError("An advertised address holds no credentials and 200 characters.")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"'{http_url}' is no HTTP address.")
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._loopback_only = is_loopback(parts.hostname)
        self._mesh = mesh
        self._properties: dict[str | bytes, str | bytes | None] = {
            "mesh": mesh,
            "http": http_url,
            "version": version,
        }
        self._zeroconf: AsyncZeroconf | None = None
        self._info: AsyncServiceInfo | None = None

    async def start(self) -> None:
        """Begin to advertise; returns when the name is taken (about 0.5 s).

        Raises:
            BrokerUnavailable: this machine has no network that carries mDNS.
        """
        addresses = ["127.0.0.1"] if self._loopback_only else _own_addresses()
        label = f"{self._mesh}-{secrets.token_hex(4)}"
        self._info = AsyncServiceInfo(
            SERVICE_TYPE,
            f"{label}.{SERVICE_TYPE}",
            port=self._port,
            addresses=[socket.inet_aton(address) for address in addresses],
            properties=self._properties,
            server=f"{label}.local.",
        )
        try:
            self._zeroconf = AsyncZeroconf(
                interfaces=["127.0.0.1"] if self._loopback_only else InterfaceChoice.All,
                ip_version=IPVersion.V4Only,
            )
            # The random label is ours alone: no need to ask the network for 0.5 s.
            registered = await self._zeroconf.async_register_service(
                self._info, cooperating_responders=True
            )
            await registered
        except OSError as error:
            await self.stop()
            raise BrokerUnavailable(
                f"The mesh cannot be announced on the network ({error}). Devices can still join "
                "with the coordinator's address."
            ) from error

    async def stop(self) -> None:
        """Say goodbye and stop; a second call does nothing."""
        zeroconf, self._zeroconf = self._zeroconf, None
        if zeroconf is None:
            return
        try:
            if self._info is not None:
                await (await zeroconf.async_unregister_service(self._info))
        except OSError as error:
            logger.debug("no goodbye on the network: %s", error)
        finally:
            await zeroconf.async_close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()


async def browse(timeout_s: float, mesh: str | None = None) -> list[MeshRecord]:
    """The meshes that are advertised on this machine and its networks.

    Args:
        timeout_s: how long to listen; answers usually come within 0.2 s.
        mesh: return as soon as this one is found, with nothing else.

    Returns:
        Each mesh and HTTP address once, sorted; empty when nothing is found or this machine has
        no network that carries mDNS.
    """
    found: dict[tuple[str, str], MeshRecord] = {}
    enough = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    async def resolve(zeroconf: Zeroconf, name: str) -> None:
        info = AsyncServiceInfo(SERVICE_TYPE, name)
        if not await info.async_request(zeroconf, RESOLVE_TIMEOUT_MS):
            return
        record = _record(info)
        if record is None or (mesh is not None and record.mesh != mesh):
            return
        if len(found) < MAX_RECORDS:
            found[record.mesh, record.http_url] = record
        if mesh is not None:
            enough.set()

    def on_change(
        zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if (
            state_change is ServiceStateChange.Added
            and service_type == SERVICE_TYPE
            and len(tasks) < MAX_RECORDS
        ):
            task = asyncio.get_running_loop().create_task(resolve(zeroconf, name))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    try:
        zeroconf = AsyncZeroconf(interfaces=InterfaceChoice.All, ip_version=IPVersion.V4Only)
    except OSError as error:
        logger.info("no mDNS on this machine: %s", error)
        return []
    try:
        browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE_TYPE, handlers=[on_change])
        try:
            async with asyncio.timeout(timeout_s):
                await enough.wait()
        except TimeoutError:
            pass
        finally:
            await browser.async_cancel()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await zeroconf.async_close()
    return sorted(found.values(), key=lambda record: (record.mesh, record.http_url))


def _record(info: AsyncServiceInfo) -> MeshRecord | None:
    texts = info.decoded_properties
    mesh, http_url = texts.get("mesh") or "", texts.get("http") or ""
    addresses = tuple(info.parsed_addresses(IPVersion.V4Only))
    try:
        parts = urlsplit(http_url)
        port = parts.port
    except ValueError:
        return None
    if (
        not is_mesh_name(mesh)
        or parts.scheme not in {"http", "https"}
        or not parts.hostname
        or len(http_url) > MAX_URL_CHARACTERS
        or not http_url.isprintable()
        or parts.username is not None
    ):
        logger.warning("ignored a malformed advertisement of %.80r", info.name)
        return None
    if parts.hostname in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        if not addresses:
            return None
        host = url_host(addresses[0])
        netloc = host if port is None else f"{host}:{port}"
        http_url = urlunsplit((parts.scheme, netloc, parts.path, "", ""))
    version = (texts.get("version") or "")[:40]
    return MeshRecord(mesh, http_url, version if version.isprintable() else "", addresses)


def _own_addresses() -> list[str]:
    addresses = [
        address.address
        for interface in psutil.net_if_addrs().values()
        for address in interface
        if address.family == socket.AF_INET and not is_loopback(address.address)
    ]
    return addresses or ["127.0.0.1"]
