"""What goes from stage to stage, counted at the broker by a listener of its own."""

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from maille.errors import MailleError
from maille_broker import Link, Message, parse_url
from maille_protocol import Activation, ActivationKind, WireError, topics, unpack

__all__ = ["Hops", "listening"]

_START_TIMEOUT_S = 10.0


@dataclass(slots=True)
class Hops:
    """Sizes of the publishes that carry one position, whole payloads.

    Attributes:
        hidden: by what stands around the hidden values in bytes, how often.
        token: by the payload's bytes, how often; from the last stage to the first.
        hidden_size: values of one position.
    """

    hidden: Counter[int] = field(default_factory=Counter)
    token: Counter[int] = field(default_factory=Counter)
    hidden_size: int = 0

    def heard(self, messages: list[Message]) -> None:
        """Take what a read brought."""
        for message in messages:
            try:
                activation = unpack(message.payload).message
            except WireError:
                continue
            if not isinstance(activation, Activation) or activation.count != 1:
                continue
            size_bytes = len(message.payload)
            if activation.kind is ActivationKind.TOKEN:
                self.token[size_bytes] += 1
            else:
                self.hidden_size = len(activation.data) // 4
                self.hidden[size_bytes - len(activation.data)] += 1

    @property
    def most_overhead_bytes(self) -> int:
        """The most that stood around the values of one position."""
        return max(self.hidden, default=0)


@contextlib.asynccontextmanager
async def listening(broker_url: str, mesh: str, nodes: Sequence[str]) -> AsyncGenerator[Hops]:
    """Count the activations that reach these nodes meanwhile.

    Raises:
        MailleError: the broker does not let it listen.
    """
    hops = Hops()
    up = asyncio.Event()
    link = Link(
        parse_url(broker_url),
        f"bench-{secrets.token_hex(4)}",
        subscriptions=[(topics.NODE_ACTIVATION.on(mesh, node), 0) for node in nodes],
        on_messages=hops.heard,
        on_up=up.set,
    )
    running = asyncio.create_task(link.run())
    try:
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await up.wait()
        except TimeoutError as error:
            raise MailleError(
                f"The broker at {broker_url} does not let the bench listen."
            ) from error
        yield hops
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
