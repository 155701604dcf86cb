"""What a board is told: these defaults, and over them a JSON file that is its user's."""

import json

from .cbor import is_id
from .errors import ConfigError

DEFAULTS: dict = {
    "mesh": "home",
    "node": "",  # its id; "": made of the chip's serial number
    "name": "",  # for people; "": the id
    "wifi": None,  # {"ssid": "...", "password": "..."}; None: the port's own network
    "broker": "mqtt://127.0.0.1:1883",  # mqtts:// for TLS
    # "usb": no network, a gateway (`maille gateway`) speaks for the board, over the port that has
    # the REPL otherwise; {"uart": 0, "tx": 0, "rx": 1}: over a UART. "usb" too where the file names
    # neither broker nor Wi-Fi, or is missing.
    "serial": None,
    "user": None,
    "password": None,
    "cafile": None,  # PEM or DER file that vouches for the broker; None: any certificate will do
    "keepalive_s": 15,
    "max_message_bytes": 768,  # the largest message taken; one byte more costs four of memory
    "max_model_bytes": 8192,
    "arena_bytes": 2048,
    "folder": "models",
    "kernels": "",  # "viper" or "python"; "": the fastest that works
    "watchdog_s": 0,  # 0: none. Once started, only a reset ends it
    # name: {"kind": "adc", "pin": 26} or {"kind": "pin", "pin": 5} or {"kind": "temperature"} or
    # {"kind": "function", "module": "mine", "function": "read", "values": 3} or
    # {"kind": "fake", "readings": [[0.5], [0.6]]}
    "sensors": {},
}

_NUMBERS = ("keepalive_s", "max_message_bytes", "max_model_bytes", "arena_bytes")


def load(path: str) -> dict:
    """The defaults with the user's file over them; ConfigError.

    The broker's URL is taken apart into `host`, `port` and `tls`.
    """
    settings = dict(DEFAULTS)
    try:
        with open(path) as file:
            own = json.load(file)
    except OSError:
        own = {}
    except ValueError:
        text = "{} is not JSON: look for a missing comma or quote"
        raise ConfigError(text.format(path)) from None
    if not isinstance(own, dict):
        raise ConfigError("{} must hold one object".format(path))
    for key, value in own.items():
        if key not in DEFAULTS:
            raise ConfigError("{}: unknown setting {}".format(path, key))
        settings[key] = value
    if settings["serial"] is None and not ("broker" in own or "wifi" in own):
        settings["serial"] = "usb"
    _check_serial(settings["serial"], path)
    if not settings["node"]:
        settings["node"] = default_id()
    for key in ("mesh", "node"):
        if not isinstance(settings[key], str) or not is_id(settings[key]):
            text = "{}: {} must be 1 to 32 of a-z, 0-9 and inner hyphens"
            raise ConfigError(text.format(path, key))
    for key in _NUMBERS:
        if type(settings[key]) is not int or settings[key] <= 0:
            raise ConfigError("{}: {} must be a number above 0".format(path, key))
    settings["host"], settings["port"], secure = take_apart(settings["broker"])
    settings["tls"] = {"cafile": settings["cafile"]} if secure else None
    return settings


def _check_serial(serial, path: str) -> None:
    if serial is None or serial == "usb":
        return
    if not isinstance(serial, dict) or type(serial.get("uart")) is not int:
        text = '{}: serial must be "usb" or {{"uart": 0, "tx": 0, "rx": 1}}'
        raise ConfigError(text.format(path))


def take_apart(url) -> tuple:
    """(host, port, whether with TLS) of a broker's URL; ConfigError."""
    if isinstance(url, str):
        scheme, _, rest = url.partition("://")
        host, colon, port = rest.rstrip("/").rpartition(":")
        if not colon:
            host, port = port, "8883" if scheme == "mqtts" else "1883"
        if scheme in ("mqtt", "mqtts") and host and port.isdigit():
            return host, int(port), scheme == "mqtts"
    raise ConfigError("broker must be mqtt://HOST:PORT or mqtts://HOST:PORT, not {}".format(url))


def default_id() -> str:
    """An id of the chip's own serial number."""
    try:
        from machine import unique_id
    except ImportError:
        return "board"
    return "board-" + "".join(["{:02x}".format(byte) for byte in unique_id()])
