"""What is added to amqtt itself: a login check, and two of its faults put right.

Imported only when amqtt is started: the package belongs to an extra.
"""

import asyncio
import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field

from amqtt.broker import Broker
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

SHUTDOWN_TIMEOUT_S = 2.0


class LoginPlugin(BaseAuthPlugin):  # type: ignore[misc] # amqtt has no types
    """Accepts exactly the configured pairs of user name and password."""

    @dataclass
    class Config:
        """What amqtt fills in from the plugin's part of its configuration."""

        logins: dict[str, str] = field(default_factory=dict, repr=False)

    async def authenticate(self, *, session: Session) -> bool:
        """Whether user name and password belong together."""
        logins: dict[str, str] = self._get_config_option("logins", {})
        expected = logins.get(session.username or "")
        return expected is not None and hmac.compare_digest(
            expected.encode(), (session.password or "").encode()
        )


class _Snapshots(dict[str, list[tuple[Session, int]]]):
    """A dict that may change while someone iterates over it."""

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(super().__iter__()))


class EmbeddedBroker(Broker):  # type: ignore[misc] # amqtt has no types
    """amqtt 0.12 without two faults that disturb a mesh even on one machine.

    It iterates over all subscriptions while other clients subscribe, which ends the connection
    of whoever connects at that moment; and there it sends each new client the retained messages
    of everybody's subscriptions.
    """

    def __init__(self, config: dict[str, object]) -> None:
        super().__init__(config)
        self._subscriptions = _Snapshots()

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        subscribers = self._subscriptions.get(subscription[0], ())
        if any(subscriber.client_id == session.client_id for subscriber, _ in subscribers):
            await super()._publish_retained_messages_for_subscription(subscription, session)

    async def end(self) -> None:
        """Shut down; connections that amqtt cannot empty in time are cut instead.

        Its own shutdown waits without a bound for every client to take what is queued for it, and
        under load one that sends all the while never lets it end.
        """
        try:
            async with asyncio.timeout(SHUTDOWN_TIMEOUT_S):
                await self.shutdown()
        except TimeoutError:
            for server in self._servers.values():
                if server.instance is not None:
                    server.instance.close()
            for _, handler in list(self._sessions.values()):
                stream = getattr(handler.writer, "_writer", None)
                if stream is not None:
                    stream.transport.abort()
