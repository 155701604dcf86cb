"""Settings of a gateway, checked when they are made."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from maille_broker import Endpoint
from maille_node.errors import SettingsError
from maille_node.settings import check_http_url, default_cache_directory, default_state_directory
from maille_protocol.limits import ID_PATTERN
from maille_protocol.serial.limits import BAUDS

_SMALLEST_CACHE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """What a gateway needs to know. SettingsError for what cannot work."""

    endpoint: Endpoint
    """The broker."""
    mesh: str = "home"
    gateway: str | None = None
    """The gateway's id, which stands in the info of its boards; None: from the host's name."""
    ports: tuple[str, ...] = ()
    """Serial ports, or patterns of them (`/dev/ttyUSB*`); empty: every USB serial port."""
    highest_baud: int = BAUDS[-1]
    """What the speed is raised to at most, where board and line allow it."""
    cache_directory: Path = field(default_factory=default_cache_directory)
    cache_limit_bytes: int = 1024**3
    state_directory: Path = field(default_factory=default_state_directory)
    key: str | None = field(default=None, repr=False)
    """Shown to the coordinator's HTTP API."""
    http_url: str | None = None
    """The coordinator's HTTP address; None: as the coordinator announces it."""
    connect_timeout_s: float | None = 30.0
    """How long the first connection to the broker may take; None: for ever."""

    def __post_init__(self) -> None:
        """Check every field; the first that cannot work is named."""
        for what, value in (("mesh", self.mesh), ("gateway id", self.gateway)):
            if value is not None and not re.fullmatch(ID_PATTERN, value):
                raise SettingsError(
                    f"the {what} {value!r} cannot stand in a topic: use 1 to 32 of a-z, 0-9 and "
                    "inner hyphens"
                )
        if self.highest_baud not in BAUDS:
            speeds = ", ".join(str(baud) for baud in BAUDS)
            raise SettingsError(f"a speed of {self.highest_baud} is not used: choose of {speeds}")
        if self.cache_limit_bytes < _SMALLEST_CACHE_BYTES:
            raise SettingsError(f"cache_limit_bytes has to be {_SMALLEST_CACHE_BYTES} or more")
        if self.http_url is not None:
            check_http_url(self.http_url)
        if self.key is not None and not (self.key.isascii() and self.key.isprintable()):
            raise SettingsError("the key has to be of printable ASCII characters")
