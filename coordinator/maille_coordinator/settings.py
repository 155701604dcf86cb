"""Settings of one coordinator process."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from maille_broker import Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorSettings:
    """What a coordinator needs to know; defaults suit one machine."""

    endpoint: Endpoint
    """The broker, as this coordinator reaches it."""
    state_directory: Path
    """Holds the journal, the catalogue and the artefacts."""
    mesh: str = "home"
    name: str = "coordinator"
    """Id in the topic `maille/1/<mesh>/c/<name>`."""
    http_host: str = "127.0.0.1"
    http_port: int = 7700
    """0 takes a free port."""
    http_url: str | None = None
    """As nodes and clients reach the HTTP API; None: from host and port."""
    broker_url: str | None = None
    """As nodes and clients reach the broker; None: the endpoint's own."""
    websocket_url: str | None = None
    key: str | None = field(default=None, repr=False)
    """Asked of every HTTP caller; required when `http_host` is not loopback."""
    shared_login: tuple[str, str] | None = field(default=None, repr=False)
    """User name and password that programs of this machine use at the broker, told to them by
    the runtime file; None: no login, or one that they derive from the key."""
    journal_sync: Literal["normal", "full"] = "normal"
    """"normal" survives the death of any process, "full" also a power cut, at a disk flush a commit."""
    runtime_directory: Path | None = None
    """Where the runtime file goes by which clients of this machine find the mesh; None: none."""
    advertise: bool = True
    """Whether to announce the mesh by mDNS (on the loopback interface only when HTTP is)."""
    max_open_tasks: int = 200_000
    max_input_bytes: int = 64 * 1024 * 1024
    max_artefact_bytes: int = 4 * 1024 * 1024 * 1024
    max_store_bytes: int = 64 * 1024 * 1024 * 1024
    default_deadline_s: float = 3600.0
    default_max_attempts: int = 5
    keep_ended_tasks: int = 100_000
    keep_ended_s: float = 24 * 3600.0
    language_context_tokens: int = 4096
    """Room for tokens in each session's share of a language model's caches."""
    language_sessions: int = 4
    """How many such shares each stage of a language model has."""
    language_replicas: int = 1
    """On how many nodes each slice of a language model is kept ready: 2 for one to spare."""
    language_least_nodes: int = 1
    """Over how many nodes a language model is cut, if there are so many, even if that is slower."""
