"""A board's settings, `/maille.json`: made, checked, changed, and shown without its secrets."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from maille.errors import SettingsError
from maille_broker import BrokerConfigError, Endpoint, is_loopback, parse_url

SETTINGS_FILE = "maille.json"
_IDENTITY = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_SECRETS = ("password",)
KNOWN_SETTINGS = frozenset(
    {
        *("node", "name", "mesh", "broker", "user", "password", "cafile", "wifi", "sensors"),
        "serial",
        *("keepalive_s", "max_message_bytes", "max_model_bytes", "arena_bytes"),
        *("folder", "kernels", "watchdog_s"),
    }
)
"""As the board library's own defaults have them; a test holds the two together."""
_HIDDEN = "••••••"


@dataclass(frozen=True, slots=True)
class Wifi:
    """A wireless network."""

    ssid: str
    password: str = field(repr=False)


def new_settings(
    *,
    node: str,
    name: str,
    mesh: str,
    endpoint: Endpoint,
    wifi: Wifi | None,
    loopback_allowed: bool = False,
) -> dict[str, object]:
    """Settings for a board that is to join a mesh.

    Raises:
        SettingsError: an id that is none, or a broker that only this machine reaches.
    """
    if not _IDENTITY.fullmatch(node):
        raise SettingsError(
            f"{node!r} cannot be a node's id: use a-z, 0-9 and inner hyphens, 1 to 32 characters."
        )
    if is_loopback(endpoint.host) and not loopback_allowed:
        raise SettingsError(
            f"The mesh's broker at {endpoint.host} listens on this machine only; a board cannot "
            "reach it. Start the mesh with `maille up --lan`, or give the broker's address on "
            "the network with --broker."
        )
    made: dict[str, object] = {
        "node": node,
        "name": name,
        "mesh": mesh,
        "broker": endpoint.with_credentials(None, None).url,
    }
    if endpoint.username is not None:
        made |= {"user": endpoint.username, "password": endpoint.password or ""}
    if wifi is not None:
        made["wifi"] = {"ssid": wifi.ssid, "password": wifi.password}
    return made


def gateway_settings(*, node: str, name: str) -> dict[str, object]:
    """Settings for a board that a gateway speaks for, over the port that it is flashed through.

    Raises:
        SettingsError: an id that is none.
    """
    if not _IDENTITY.fullmatch(node):
        raise SettingsError(
            f"{node!r} cannot be a node's id: use a-z, 0-9 and inner hyphens, 1 to 32 characters."
        )
    return {"node": node, "name": name, "serial": "usb"}


def merged(old: Mapping[str, object], new: Mapping[str, object]) -> dict[str, object]:
    """New settings over old ones; what only the old ones have (sensors, Wi-Fi) stays.

    But a board that is given a broker does not go on speaking with a gateway.
    """
    kept = {key: value for key, value in old.items() if key != "serial" or "broker" not in new}
    return {**kept, **new}


def changed(settings: Mapping[str, object], assignments: list[str]) -> dict[str, object]:
    """Settings after `name=value`, `wifi.ssid=value` or `sensors.adc0={"kind": ...}`; `name=` removes.

    Raises:
        SettingsError: no assignment, or no such setting.
    """
    made = json.loads(json.dumps(settings))
    for text in assignments:
        path, equals, value = text.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise SettingsError(
                f"{text!r} changes nothing: write name=value, for instance mesh=lab."
            )
        if keys[0] not in KNOWN_SETTINGS:
            raise SettingsError(
                f"A board has no setting {keys[0]!r}. There are: {', '.join(sorted(KNOWN_SETTINGS))}."
            )
        if keys[-1] in _SECRETS and value:
            raise SettingsError(
                "A password on a command line can be read by others on this machine. Use "
                f"--ask {path.strip()}, which asks for it."
            )
        _assign(made, keys, value)
    return checked(made)


def with_secret(settings: Mapping[str, object], path: str, value: str) -> dict[str, object]:
    """Settings after a secret was typed for `password` or `wifi.password`."""
    made = json.loads(json.dumps(settings))
    _assign(made, path.split("."), value)
    return checked(made)


def _assign(target: dict[str, object], keys: list[str], value: str) -> None:
    place = target
    for key in keys[:-1]:
        inner = place.setdefault(key, {})
        if not isinstance(inner, dict):
            raise SettingsError(f"{key} is a single value, it has no parts. Write {key}=value.")
        place = inner
    if value == "":
        place.pop(keys[-1], None)
        return
    try:
        # Numbers, lists and objects as JSON; everything else is a text.
        parsed: object = json.loads(value) if value[0] in "{[-0123456789" else value
    except ValueError:
        parsed = value
    place[keys[-1]] = parsed


def checked(settings: dict[str, object]) -> dict[str, object]:
    """The same settings, if a board could start with them.

    Raises:
        SettingsError: names the setting.
    """
    node = settings.get("node")
    if not isinstance(node, str) or not _IDENTITY.fullmatch(node):
        raise SettingsError(
            f"node is {node!r}: it must be an id of a-z, 0-9 and inner hyphens, 1 to 32 characters."
        )
    _check_connection(settings)
    for name in ("wifi", "sensors"):
        if not isinstance(settings.get(name, {}), dict):
            raise SettingsError(f"{name} must have parts, for instance {name}.ssid=attic.")
    return settings


def _check_connection(settings: Mapping[str, object]) -> None:
    serial = settings.get("serial")
    uart = serial.get("uart") if isinstance(serial, dict) else None
    if serial is not None and serial != "usb" and type(uart) is not int:
        raise SettingsError(
            f"serial is {serial!r}: it must be usb, or have parts, for instance serial.uart=0."
        )
    if serial is not None or not ("broker" in settings or "wifi" in settings):
        return
    try:
        parse_url(str(settings.get("broker")))
    except BrokerConfigError as error:
        raise SettingsError(f"broker: {error}") from error


def parse_settings(content: bytes) -> dict[str, object]:
    """A board's settings file.

    Raises:
        SettingsError: no JSON object.
    """
    try:
        found = json.loads(content)
    except (ValueError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"The board's {SETTINGS_FILE} is damaged ({error}). Write it anew with `maille flash`."
        ) from error
    if not isinstance(found, dict):
        raise SettingsError(
            f"The board's {SETTINGS_FILE} holds no settings. Write it anew with `maille flash`."
        )
    return found


def encoded(settings: Mapping[str, object]) -> bytes:
    """The file's content."""
    return (json.dumps(settings, indent=1) + "\n").encode()


def shown(settings: Mapping[str, object]) -> dict[str, object]:
    """The settings with dots for secrets."""
    return {
        key: shown(value)
        if isinstance(value, Mapping)
        else (_HIDDEN if key in _SECRETS and value else value)
        for key, value in settings.items()
    }
