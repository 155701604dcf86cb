"""Start, check, find and talk to MQTT brokers."""

import importlib
from typing import TYPE_CHECKING

from maille_broker.counters import LinkCounters
from maille_broker.doctor import ProbeResult, Report, run_probes
from maille_broker.endpoint import Endpoint, parse_url
from maille_broker.errors import (
    BrokerConfigError,
    BrokerError,
    BrokerMissing,
    BrokerRefused,
    BrokerUnavailable,
    PortInUse,
)
from maille_broker.launch import choose_kind, start_broker
from maille_broker.link import Link
from maille_broker.machine import lan_address, loop_factory
from maille_broker.packets import Message, Will
from maille_broker.running import Certificate, Kind, RunningBroker, is_loopback
from maille_broker.runtime_files import RuntimeRecord, read_runtime_files, write_runtime_file

if TYPE_CHECKING:
    from maille_broker.discovery import Advertisement, MeshRecord, browse

__all__ = [
    "Advertisement",
    "BrokerConfigError",
    "BrokerError",
    "BrokerMissing",
    "BrokerRefused",
    "BrokerUnavailable",
    "Certificate",
    "Endpoint",
    "Kind",
    "Link",
    "LinkCounters",
    "MeshRecord",
    "Message",
    "PortInUse",
    "ProbeResult",
    "Report",
    "RunningBroker",
    "RuntimeRecord",
    "Will",
    "browse",
    "choose_kind",
    "is_loopback",
    "lan_address",
    "loop_factory",
    "parse_url",
    "read_runtime_files",
    "run_probes",
    "start_broker",
    "write_runtime_file",
]


def __getattr__(name: str) -> object:
    """Finding a mesh, whose library only those load who do it."""
    if name not in {"Advertisement", "MeshRecord", "browse"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("maille_broker.discovery"), name)
