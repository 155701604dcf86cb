"""What a board is told: these defaults, and over them a JSON file that is its user's."""

import json

from .cbor import is_id

DEFAULTS = {
    "mesh": "home",
    "id": "",  # "": made of the chip's serial number
    "name": "",  # for people; "": the id
    "wifi": None,  # {"ssid": "...", "password": "..."}; None: the port's own network
    "broker": "127.0.0.1",
    "port": 1883,
    "user": None,
    "password": None,
    "tls": None,  # {} for TLS; {"cafile": "ca.pem"} to check the broker's certificate
    "keepalive_s": 15,
    "max_message_bytes": 768,  # the largest message taken; more costs so much memory, four times
    "max_model_bytes": 8192,
    "arena_bytes": 2048,
    "folder": "maille-models",
    "kernels": "",  # "viper" or "python"; "": the fastest that works
    "watchdog_s": 0,  # 0: none. Once started, only a reset ends it
    # name: {"kind": "adc", "pin": 26} or {"kind": "pin", "pin": 5} or {"kind": "temperature"} or
    # {"kind": "function", "module": "mine", "function": "read", "values": 3} or
    # {"kind": "fake", "readings": [[0.5], [0.6]]}
    "sensors": {},
}


class ConfigError(Exception):
    """The user's file cannot be used; the text says why."""


def load(path: str) -> dict:
    """The defaults with the user's file over them; ConfigError."""
    settings = dict(DEFAULTS)
    try:
        with open(path) as file:
            own = json.load(file)
    except OSError:
        raise ConfigError("{} is missing: copy maille_example.json to it".format(path)) from None
    except ValueError:
        raise ConfigError("{} is not JSON: look for a missing comma or quote".format(path)) from None
    if not isinstance(own, dict):
        raise ConfigError("{} must hold one object".format(path))
    for key, value in own.items():
        if key not in DEFAULTS:
            raise ConfigError("{}: unknown setting {}".format(path, key))
        settings[key] = value
    if not settings["id"]:
        settings["id"] = default_id()
    for key in ("mesh", "id"):
        if not isinstance(settings[key], str) or not is_id(settings[key]):
            text = "{}: {} must be 1 to 32 of a-z, 0-9 and inner hyphens"
            raise ConfigError(text.format(path, key))
    for key in ("port", "keepalive_s", "max_message_bytes", "max_model_bytes", "arena_bytes"):
        if type(settings[key]) is not int or settings[key] <= 0:
            raise ConfigError("{}: {} must be a number above 0".format(path, key))
    return settings


def default_id() -> str:
    """An id of the chip's own serial number."""
    try:
        from machine import unique_id

        return "board-" + "".join(["{:02x}".format(byte) for byte in unique_id()])
    except ImportError:
        return "board"
