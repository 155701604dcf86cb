"""One MQTT connection that comes back by itself: what coordinator, node and client talk through."""

import asyncio
import logging
import random
import ssl
from collections.abc import Callable, Sequence
from dataclasses import replace

from maille_broker import packets
from maille_broker.connection import Connection
from maille_broker.counters import LinkCounters
from maille_broker.endpoint import Endpoint
from maille_broker.errors import BrokerConfigError, BrokerError, BrokerRefused, BrokerUnavailable
from maille_broker.packets import Message, Will
from maille_protocol.limits import MAX_PUBLISH_BYTES

logger = logging.getLogger(__name__)

KEEPALIVE_S = 15.0
CONNECT_TIMEOUT_S = 5.0
FIRST_RETRY_S = 0.075
LAST_RETRY_S = 5.0
# A broker that is started anew is back within seconds: until then somebody may wait for each retry.
_DOUBLINGS = 3
_STEADY_RETRIES = 12
# A connection that lived this long was a good one: the next retry is fast again. Shorter ones
# (two programs with one client id push each other out) keep backing off.
GOOD_CONNECTION_S = 2.0


def retry_delay_s(attempt: int, randomness: random.Random) -> float:
    """How long to wait before retry number `attempt` (from 0).

    50 to 100 ms, doubling to 400 to 800 ms, so for some seven seconds, then doubling again to 5 s.
    The jitter keeps a fleet that lost its broker from coming back in one moment.
    """
    late = max(0, attempt - _DOUBLINGS - _STEADY_RETRIES)
    doublings = min(attempt, _DOUBLINGS) + min(late, 10)
    return min(LAST_RETRY_S, FIRST_RETRY_S * 2.0**doublings * randomness.uniform(2 / 3, 4 / 3))


class Link:
    """A reconnecting MQTT 3.1.1 connection with a clean session, for one event loop.

    Args:
        endpoint: the broker.
        client_id: unique on that broker; a second connection with it ends the first.
        subscriptions: (filter, QoS 0 or 1), made anew on every connection.
        will: what the broker publishes when the connection ends without `close`.
        on_messages: called in the event loop with all messages that one read brought, in order.
            It must not block. QoS 1 is acknowledged on receipt, whatever the handler does.
        on_up: called each time the subscriptions are confirmed, before any message.
        on_down: called with the reason each time an established connection is lost.
        randomness: for the jitter of the back-off.
        max_payload_bytes: the largest payload sent (more is a ValueError) or received (more is
            skipped and counted).
        keepalive_s: a dead broker is noticed after one and a half times this.

    Nothing is sent twice and nothing is kept over a reconnect: `publish` answers False while
    down. An exception of a handler is logged and counted, and the link lives on.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        client_id: str,
        *,
        subscriptions: Sequence[tuple[str, int]] = (),
        will: Will | None = None,
        on_messages: Callable[[list[Message]], None],
        on_up: Callable[[], None] | None = None,
        on_down: Callable[[str], None] | None = None,
        randomness: random.Random | None = None,
        max_payload_bytes: int = MAX_PUBLISH_BYTES,
        keepalive_s: float = KEEPALIVE_S,
    ) -> None:
        if any(qos not in {0, 1} for _, qos in subscriptions):
            raise ValueError("A link subscribes at QoS 0 or 1.")
        self._endpoint = endpoint
        self._client_id = client_id
        self._subscriptions = tuple(subscriptions)
        self._will = will
        self._on_messages = on_messages
        self._on_up = on_up
        self._on_down = on_down
        self._randomness = randomness or random.Random()
        self._max_payload_bytes = max_payload_bytes
        self._keepalive_s = keepalive_s
        self._connection: Connection | None = None
        self._connecting: asyncio.Timeout | None = None
        self._closed = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()
        self._was_up = False
        self.counters = LinkCounters()
        # Why the last connection or attempt ended; None before the first failure.
        self.last_error: str | None = None

    @property
    def is_up(self) -> bool:
        """Connected, and every subscription confirmed."""
        return self._connection is not None and self._connection.is_up

    @property
    def endpoint(self) -> Endpoint:
        """The broker this link talks to."""
        return self._endpoint

    def set_will(self, payload: bytes) -> None:
        """Change the will's payload from the next connection on."""
        if self._will is None:
            raise ValueError("This link was made without a will.")
        self._will = replace(self._will, payload=payload)

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        """Send without waiting; call it in the event loop.

        Returns:
            False, counted, when the link is down or its queue is full: the message is not sent.

        Raises:
            ValueError: the payload is over the limit, the topic is none, or QoS is not 0 or 1.
        """
        if len(payload) > self._max_payload_bytes:
            raise ValueError(
                f"A payload of {len(payload)} bytes is over the {self._max_payload_bytes} bytes "
                "of one publish: send it in chunks."
            )
        if not topic or "+" in topic or "#" in topic or "\0" in topic:
            raise ValueError(f"'{topic}' cannot be published to: it is empty or has a wildcard.")
        if qos not in {0, 1}:
            raise ValueError(f"QoS {qos} is not used in a mesh: publish at 0 or 1.")
        connection = self._connection
        if connection is None or not connection.publish(topic, payload, qos, retain):
            self.counters.publishes_dropped += 1
            return False
        self.counters.sent += 1
        self.counters.sent_bytes += len(payload)
        return True

    async def run(self, *, first_connect_timeout_s: float | None = None) -> None:
        """Connect, dispatch and reconnect until `close` (returns) or cancellation.

        Cancelling drops the socket, so that the broker publishes the will.

        Args:
            first_connect_timeout_s: give up when no connection came up within this; None tries
                for ever. Once up, the link always comes back.

        Raises:
            BrokerRefused: login or subscription refused, and it never worked before.
            BrokerUnavailable: never connected within `first_connect_timeout_s`.
            BrokerConfigError: the TLS settings cannot be used, or it never connected because the
                broker's certificate is not trusted.
        """
        if not self._ended.is_set():
            raise RuntimeError("This link runs already.")
        self._ended.clear()
        try:
            await self._run(first_connect_timeout_s)
        finally:
            self._ended.set()

    async def flush(self, timeout_s: float) -> bool:
        """Wait until the broker has read (QoS 1: acknowledged) all that was published.

        Returns:
            False when that took longer than `timeout_s` or the link went down.
        """
        connection = self._connection
        if connection is None:
            return False
        try:
            async with asyncio.timeout(timeout_s):
                await connection.flush()
        except TimeoutError:
            return False
        return connection.is_up

    async def close(self, timeout_s: float = 1.0) -> None:
        """Send what is queued, disconnect (no will is published) and end `run`."""
        if self.is_up:
            await self.flush(timeout_s)
        self._closed.set()
        connection = self._connection
        if connection is not None:
            connection.disconnect()
        if self._connecting is not None:
            self._connecting.reschedule(asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()
        except TimeoutError:
            # The broker does not take our last bytes: leave without it.
            if connection is not None:
                connection.fail(BrokerUnavailable("closed by us"))
            await self._ended.wait()

    async def _run(self, first_connect_timeout_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        tls = self._endpoint.tls_context()
        started_s = loop.time()
        attempt = 0
        while not self._closed.is_set():
            limit_s = CONNECT_TIMEOUT_S
            if first_connect_timeout_s is not None and not self._was_up:
                limit_s = min(limit_s, started_s + first_connect_timeout_s - loop.time())
            attempt_s = loop.time()
            connects = self.counters.connects
            error = await self._one_connection(tls, limit_s)
            if self._closed.is_set():
                return
            self.last_error = str(error)
            came_up = self.counters.connects > connects
            if isinstance(error, BrokerRefused):
                self.counters.refused += 1
            if isinstance(error, BrokerRefused | BrokerConfigError) and not self._was_up:
                raise error
            if came_up:
                self._went_down(str(error))
                if loop.time() - attempt_s >= GOOD_CONNECTION_S:
                    attempt = 0
            else:
                self.counters.failed_attempts += 1
            delay_s = retry_delay_s(attempt, self._randomness)
            attempt += 1
            if first_connect_timeout_s is not None and not self._was_up:
                remaining_s = started_s + first_connect_timeout_s - loop.time()
                if remaining_s <= 0:
                    raise BrokerUnavailable(
                        f"No broker answered at {self._endpoint.host}:{self._endpoint.port} "
                        f"within {first_connect_timeout_s:g} s ({error}). "
                        "Check that it runs and that host and port are right."
                    )
                delay_s = min(delay_s, remaining_s)
            try:
                async with asyncio.timeout(delay_s):
                    await self._closed.wait()
            except TimeoutError:
                continue

    async def _one_connection(self, tls: ssl.SSLContext | None, limit_s: float) -> BrokerError:
        """Connect and stay until the connection ends; its reason."""
        loop = asyncio.get_running_loop()
        connection = Connection(
            self._endpoint,
            packets.encode_connect(
                self._client_id,
                keepalive_s=max(1, round(self._keepalive_s)),
                username=self._endpoint.username,
                password=self._endpoint.password,
                will=self._will,
            ),
            subscriptions=self._subscriptions,
            keepalive_s=self._keepalive_s,
            max_payload_bytes=self._max_payload_bytes,
            on_up=self._came_up,
            on_messages=self._on_messages,
            counters=self.counters,
        )
        self._connection = connection
        watchdog: asyncio.TimerHandle | None = None
        try:
            async with asyncio.timeout(limit_s) as self._connecting:
                await loop.create_connection(
                    lambda: connection,
                    self._endpoint.host,
                    self._endpoint.port,
                    ssl=tls,
                )
            self._connecting = None
            if self._closed.is_set():
                connection.disconnect()
            watchdog = loop.call_later(
                max(0.0, limit_s),
                connection.fail_unless_up,
                BrokerUnavailable(f"the login got no answer within {limit_s:.1f} s"),
            )
            return await asyncio.shield(connection.lost)
        except TimeoutError:
            return BrokerUnavailable(f"no connection within {limit_s:.1f} s")
        except ssl.SSLCertVerificationError as error:
            return BrokerConfigError(
                f"The certificate of {self._endpoint.host} is not trusted "
                f"({error.verify_message}). Give the PEM file of the authority that signed it."
            )
        except OSError as error:
            return BrokerUnavailable(str(error))
        finally:
            self._connecting = None
            if watchdog is not None:
                watchdog.cancel()
            connection.fail(BrokerUnavailable("stopped"))
            self._connection = None

    def _came_up(self) -> None:
        self._was_up = True
        logger.info("connected to %s as %s", self._endpoint.url, self._client_id)
        if self._on_up is not None:
            self._on_up()

    def _went_down(self, reason: str) -> None:
        self.counters.drops += 1
        logger.warning("lost %s: %s", self._endpoint.url, reason)
        if self._on_down is not None:
            try:
                self._on_down(reason)
            except Exception:
                self.counters.handler_errors += 1
                logger.exception("the handler of a lost connection failed")
