"""What every probe is made of: its bench of topics and clients, its finding, its weight."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum

from maille_broker.access import DOCTOR_ROOT
from maille_broker.endpoint import Endpoint
from maille_broker.probe_client import ProbeClient


class Severity(Enum):
    """How much a mesh suffers when a probe fails."""

    NEEDED = "needed"
    MATTERS = "matters"
    INFORMATIVE = "informative"


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer of one probe; `passed` None means that it could not be asked here."""

    passed: bool | None
    detail: str
    value: float | None = None
    unit: str = ""


@dataclass(slots=True)
class Bench:
    """What a probe works with: the broker, topics and client ids of its own."""

    endpoint: Endpoint
    token: str
    name: str

    def topic(self, suffix: str) -> str:
        """A topic that no other probe and no mesh uses."""
        return f"{DOCTOR_ROOT}/{self.token}/{self.name}/{suffix}"

    def new_client(self, suffix: str) -> ProbeClient:
        """An unconnected client; the same suffix gives the same client id."""
        # At most 23 letters and digits: what every broker must take.
        name = f"md{self.token}{self.name.replace('_', '')[:9]}{suffix}"
        # Some brokers deliver what nobody asked for: each probe looks at its own topics only.
        return ProbeClient(self.endpoint, name, topic_prefix=self.topic(""))

    @asynccontextmanager
    async def client(self, suffix: str) -> AsyncIterator[ProbeClient]:
        """A connected client with a clean session, disconnected at the end."""
        client = self.new_client(suffix)
        async with client:
            await client.connect()
            yield client

    async def forget(self, suffix: str) -> None:
        """Remove the stored session of a client id."""
        async with self.client(suffix):
            pass


@dataclass(frozen=True, slots=True)
class Probe:
    """One experiment: its name, what failing means in one sentence, and how much that matters.

    `local_only` marks a failure that forbids opening the broker to a network.
    """

    name: str
    meaning: str
    severity: Severity
    run: Callable[[Bench], Awaitable[Finding]]
    local_only: bool = False


def new_token() -> str:
    """A name for one run of the probes."""
    return secrets.token_hex(4)
