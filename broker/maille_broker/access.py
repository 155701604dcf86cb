"""Who may publish and read what: one table, rendered for each kind of broker.

A user name is a role, alone (`coordinator`, `node`, `client`) or with one device's id behind a
slash (`node/kitchen-pc`). A role alone serves all devices of that role and, where the broker can
(mosquitto), each connection is held to the topics of its client id. A role with an id is held to
that id's topics on every broker.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from maille_broker.errors import BrokerConfigError
from maille_protocol.limits import ID_PATTERN, PROTOCOL_VERSION

Role = Literal["coordinator", "node", "client"]
DOCTOR_ROOT = f"maille/{PROTOCOL_VERSION}/doctor"
_USERNAME = re.compile(rf"(?:(coordinator)|(node|client)(?:/({ID_PATTERN}))?)")
_ID = re.compile(ID_PATTERN)


@dataclass(frozen=True, slots=True)
class Rights:
    """MQTT topic filters that one login may publish to and subscribe to."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Login:
    """A user name taken apart; `identity` None means every device of the role."""

    username: str
    role: Role
    identity: str | None


def is_mesh_name(text: str) -> bool:
    """Whether a text can name a mesh."""
    return _ID.fullmatch(text) is not None


def parse_login(username: str) -> Login:
    """Take a user name apart.

    Raises:
        BrokerConfigError: it is no role and no role with an id.
    """
    match = _USERNAME.fullmatch(username)
    if match is None:
        raise BrokerConfigError(
            f"'{username}' is no user name of a mesh. Use coordinator, node or client, "
            "or node/<id> and client/<id> for one device."
        )
    if match[1]:
        return Login(username, "coordinator", None)
    return Login(username, "node" if match[2] == "node" else "client", match[3])


def rights(role: Role, mesh: str, identity: str) -> Rights:
    """The rights of a role; `identity` may be an id or a broker's placeholder for one."""
    root = f"maille/{PROTOCOL_VERSION}/{mesh}"
    match role:
        case "coordinator":
            everything = (f"{root}/#", f"{DOCTOR_ROOT}/#")
            return Rights(everything, everything)
        case "node":
            own = f"{root}/n/{identity}"
            return Rights(
                # Activations go from stage to stage without passing through the coordinator.
                publish=(f"{own}/state", f"{own}/info", f"{own}/up/#", f"{root}/n/+/dn/act"),
                subscribe=(f"{own}/dn/#", f"{root}/c/+"),
            )
        case "client":
            own = f"{root}/u/{identity}"
            return Rights(publish=(f"{own}/up/#",), subscribe=(f"{own}/dn/#", f"{root}/c/+"))


def check_credentials(credentials: Mapping[str, str], mesh: str) -> list[Login]:
    """The logins of a broker, checked.

    Raises:
        BrokerConfigError: a name or password cannot be used, or the coordinator has none.
    """
    if not is_mesh_name(mesh):
        raise BrokerConfigError(
            f"'{mesh}' is no mesh name. Use 1 to 32 of a-z, 0-9 and inner hyphens."
        )
    logins = [parse_login(username) for username in credentials]
    if logins and "coordinator" not in credentials:
        raise BrokerConfigError(
            "The broker's credentials have no login named coordinator. Add one: without it "
            "no coordinator can serve the mesh."
        )
    for username, password in credentials.items():
        if len(password) < 8 or len(password) > 256 or not password.isprintable():
            raise BrokerConfigError(
                f"The password of {username} must have 8 to 256 printable characters."
            )
    return logins
