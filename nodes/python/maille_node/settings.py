"""Settings of one PC node, checked when they are made."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

from maille_broker import Endpoint
from maille_node.errors import SettingsError
from maille_protocol.limits import ID_PATTERN

MAX_SLOTS = 1024
SLOTS_PER_CORE = 32
MAX_DEFAULT_SLOTS = 256
MAX_DEFAULT_WORKERS = 4
_MAX_NAME_CHARACTERS = 64
_SMALLEST_CACHE_BYTES = 1024 * 1024


def default_cache_directory() -> Path:
    """Where artefacts lie unless told otherwise."""
    return Path(platformdirs.user_cache_dir("maille")) / "artefacts"


def default_state_directory() -> Path:
    """Where a machine's node ids and measurements lie unless told otherwise."""
    return Path(platformdirs.user_state_dir("maille")) / "node"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What a node needs to know; the defaults suit a PC. SettingsError for what cannot work."""

    endpoint: Endpoint
    """The broker."""
    mesh: str = "home"
    node: str | None = None
    """The node's id; None: this machine's own, kept in the state directory."""
    name: str | None = None
    """What people see; None: the host's name."""
    slots: int | None = None
    """Tasks held at a time (and one more); None: 32 for each core, at most 256."""
    workers: int | None = None
    """Batches run at a time; None: one for each core, at most 4."""
    max_batch: int = 64
    cache_directory: Path = field(default_factory=default_cache_directory)
    cache_limit_bytes: int = 10 * 1024**3
    state_directory: Path = field(default_factory=default_state_directory)
    model_memory_limit_bytes: int | None = None
    """For all models in memory together; None: half of the machine's memory."""
    key: str | None = field(default=None, repr=False)
    """Shown to the coordinator's HTTP API."""
    http_url: str | None = None
    """The coordinator's HTTP address; None: as the coordinator announces it."""
    stage_threads: int = 1
    """Threads that compute one slice of a language model."""
    drain_timeout_s: float = 30.0
    connect_timeout_s: float | None = 30.0
    """How long the first connection to the broker may take; None: for ever."""
    remeasure: bool = False
    """Measure the machine even if that was done within a day."""

    def __post_init__(self) -> None:
        """Check every field; the first that cannot work is named."""
        for what, value in (("mesh", self.mesh), ("node id", self.node)):
            if value is not None and not re.fullmatch(ID_PATTERN, value):
                raise SettingsError(
                    f"the {what} {value!r} cannot stand in a topic: use 1 to 32 of a-z, 0-9 and "
                    "inner hyphens"
                )
        if self.name is not None and not 1 <= len(self.name) <= _MAX_NAME_CHARACTERS:
            raise SettingsError(f"the name has to have 1 to {_MAX_NAME_CHARACTERS} characters")
        for what, number, least, most in (
            ("slots", self.slots, 1, MAX_SLOTS),
            ("workers", self.workers, 1, 256),
            ("stage_threads", self.stage_threads, 1, 256),
            ("max_batch", self.max_batch, 1, 1024),
            ("cache_limit_bytes", self.cache_limit_bytes, _SMALLEST_CACHE_BYTES, 1 << 60),
            ("model_memory_limit_bytes", self.model_memory_limit_bytes, 1 << 20, 1 << 60),
        ):
            if number is not None and not least <= number <= most:
                raise SettingsError(f"{what} is {number}, it has to be {least} to {most}")
        if not 0 <= self.drain_timeout_s <= 86400:
            raise SettingsError("drain_timeout_s has to be 0 to 86400 seconds")
        if self.connect_timeout_s is not None and not self.connect_timeout_s > 0:
            raise SettingsError("connect_timeout_s has to be above 0, or None for ever")
        if self.http_url is not None:
            check_http_url(self.http_url)
        if self.key is not None and not (self.key.isascii() and self.key.isprintable()):
            raise SettingsError("the key has to be of printable ASCII characters")


def check_http_url(text: str) -> None:
    """SettingsError unless `text` is an http or https address."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.username is not None:
        raise SettingsError(
            "the coordinator's address cannot be used: write it as http://host:7700"
        )
