"""Where the mesh is: an address that was given, a mesh on this machine, one on the network."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

from maille import keys
from maille.errors import MeshNotFound
from maille.http_api import HttpApi
from maille.views import MeshDescription
from maille_broker import (
    BrokerConfigError,
    Endpoint,
    MeshRecord,
    RuntimeRecord,
    browse,
    is_loopback,
    parse_url,
    read_runtime_files,
)

DEFAULT_MESH = "home"
BROWSE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Place:
    """A mesh and the way in.

    `http_url` is None when only the broker is known: the coordinator then says it there.
    """

    mesh: str
    endpoint: Endpoint
    http_url: str | None = None
    key: str | None = field(default=None, repr=False)
    description: MeshDescription | None = None


def runtime_directory() -> Path:
    """Where coordinators of this user on this machine leave word of themselves."""
    given = os.environ.get("MAILLE_RUNTIME_DIRECTORY")
    # Not the system's folder for running programs: a user without a login session has none.
    return Path(given) if given else platformdirs.user_state_path("maille") / "running"


async def locate(
    url: str | None,
    *,
    key: str | None,
    mesh: str | None,
    timeout_s: float,
    role: str = "client",
) -> Place:
    """Find the mesh.

    Args:
        url: `http://` address of a coordinator or `mqtt://` of a broker; None looks at MAILLE_URL,
            this machine, the local network, in that order.
        key: the mesh's key; None takes MAILLE_KEY.
        mesh: its name; None takes MAILLE_MESH, or whichever is alone.
        timeout_s: for each answer.
        role: whose broker login to use, see `keys.ROLES`.

    Raises:
        MeshNotFound, MeshUnavailable, Unauthorized: with the next step.
    """
    url = url or os.environ.get("MAILLE_URL") or None
    key = key or os.environ.get("MAILLE_KEY") or None
    mesh = mesh or os.environ.get("MAILLE_MESH") or None
    if key is not None:
        key = keys.check_key(key)
    if url is None:
        local = choose_local(read_runtime_files(runtime_directory()), mesh)
        if local is not None:
            return _of_record(local, key, role)
        found = choose_found(await browse(BROWSE_TIMEOUT_S, mesh), mesh)
        url = found.http_url
    scheme = urlsplit(url).scheme
    if scheme in {"mqtt", "mqtts"}:
        endpoint = _parsed(url)
        name = mesh or DEFAULT_MESH
        if endpoint.username is None and key is not None:
            endpoint = endpoint.with_credentials(role, keys.password(key, name, role))
        return Place(name, endpoint, None, key)
    if scheme not in {"http", "https"}:
        raise MeshNotFound(
            f"{url!r} is no address of a mesh. Write http://host:7700 (a coordinator) or "
            "mqtt://host:1883 (a broker)."
        )
    return await _of_coordinator(url, key, mesh, timeout_s, role)


def choose_local(records: Sequence[RuntimeRecord], mesh: str | None) -> RuntimeRecord | None:
    """The coordinator of this machine that is meant, None if there is none.

    Raises:
        MeshNotFound: several meshes, and none was named.
    """
    fitting = [record for record in records if mesh is None or record.mesh == mesh]
    names = sorted({record.mesh for record in fitting})
    if len(names) > 1:
        raise MeshNotFound(
            f"Several meshes run on this machine: {', '.join(names)}. "
            "Name one with --mesh, MAILLE_MESH or mesh=...."
        )
    return fitting[0] if fitting else None


def choose_found(records: Sequence[MeshRecord], mesh: str | None) -> MeshRecord:
    """The advertised mesh that is meant.

    Raises:
        MeshNotFound: none, or several that fit.
    """
    fitting = [record for record in records if mesh is None or record.mesh == mesh]
    if len({record.http_url for record in fitting}) > 1:
        told = ", ".join(f"{record.mesh} at {record.http_url}" for record in fitting)
        raise MeshNotFound(f"Several meshes are on this network: {told}. Give the url of one.")
    if not fitting:
        named = f"No mesh called {mesh!r}" if mesh else "No mesh"
        raise MeshNotFound(
            f"{named} runs on this machine or answers on this network. Start one with "
            "`maille up`, or give its address: --url http://host:7700, MAILLE_URL or url=...."
        )
    return fitting[0]


def broker_endpoint(
    description: MeshDescription, http_url: str, key: str | None, role: str
) -> Endpoint:
    """The broker as this machine reaches it, with the role's login where the mesh has a key."""
    endpoint = _parsed(description.broker_url)
    http_host = urlsplit(http_url).hostname or ""
    if is_loopback(endpoint.host) and not is_loopback(http_host):
        endpoint = replace(endpoint, host=http_host)
    if key is None:
        return endpoint.with_credentials(None, None)
    return endpoint.with_credentials(role, keys.password(key, description.mesh, role))


def _of_record(record: RuntimeRecord, key: str | None, role: str) -> Place:
    key = key or record.token
    endpoint = record.endpoint()
    if key is not None and endpoint.password is None:
        endpoint = endpoint.with_credentials(role, keys.password(key, record.mesh, role))
    return Place(record.mesh, endpoint, record.http_url, key)


async def _of_coordinator(
    url: str, key: str | None, mesh: str | None, timeout_s: float, role: str
) -> Place:
    async with HttpApi(url, key=key, timeout_s=timeout_s) as http:
        description = await http.mesh()
    if not description.broker_url:
        raise MeshNotFound(
            f"{url} answers, but not as a Maille coordinator. Check host and port (7700 is usual)."
        )
    if mesh is not None and description.mesh != mesh:
        raise MeshNotFound(
            f"The coordinator at {url} serves mesh {description.mesh!r}, not {mesh!r}. "
            "Leave the name out, or give the other coordinator's address."
        )
    return Place(
        description.mesh, broker_endpoint(description, url, key, role), url, key, description
    )


def _parsed(url: str) -> Endpoint:
    try:
        return parse_url(url)
    except BrokerConfigError as error:
        raise MeshNotFound(str(error)) from error
