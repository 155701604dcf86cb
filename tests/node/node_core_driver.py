"""Drives a node core by hand: a clock, shorthand for events, readers for actions."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from maille_node import events
from maille_node.core import CoreSettings, NodeCore
from maille_node.events import Action, BatchEnded, Event, RunEnd
from maille_protocol import (
    Cancel,
    Control,
    ControlOrder,
    CoordinatorState,
    Envelope,
    ErrorCode,
    Heartbeat,
    Measured,
    Message,
    ModelFormat,
    ModelReference,
    NodeInfo,
    NodeKind,
    NodeStatus,
    Offer,
    Offers,
    Result,
    Results,
    TaskFlag,
    unpack,
)
from maille_protocol.contents import Content

BOOT = 77
Kind = TypeVar("Kind")


def model(name: str, model_format: ModelFormat = ModelFormat.ONNX) -> ModelReference:
    return ModelReference(name, 1, hashlib.sha256(name.encode()).digest(), 100, model_format)


def task(number: int) -> bytes:
    return number.to_bytes(16, "big")


class Driver:
    """A core and the time it is told."""

    def __init__(
        self,
        *,
        slots: int = 4,
        workers: int = 1,
        max_batch: int = 8,
        jitter: float = 0.0,
        boot: int = BOOT,
    ) -> None:
        info = NodeInfo(
            NodeKind.PC, "test", "maille", slots, (ModelFormat.ONNX,), 49152, Measured()
        )
        self.now_ms = 1000.0
        self.heard = 0
        self.core = NodeCore(
            CoreSettings(info, boot, workers, max_batch), jitter=lambda: jitter, now_ms=self.now_ms
        )
        self.actions: list[Action] = []
        """Of the last event."""

    def give(self, event: Event) -> list[Action]:
        self.actions = self.core.handle(event, self.now_ms)
        return self.actions

    def up(self) -> list[Action]:
        return self.give(events.LinkUp())

    def hear(self, *messages: Message, epoch: int = 1) -> list[Action]:
        envelopes = []
        for message in messages:
            self.heard += 1
            envelopes.append(Envelope(1, self.heard, epoch, message))
        return self.give(events.Heard(tuple(envelopes)))

    def offer(
        self,
        number: int,
        *,
        attempt: int = 1,
        epoch: int = 1,
        name: str = "m",
        remaining_ms: int = 60_000,
        content: Content = b"in",
        once_on: int = 0,
    ) -> list[Action]:
        """`once_on`: the boot that an at-most-once task is for; 0: the task may run twice."""
        flags = TaskFlag.AT_MOST_ONCE if once_on else 0
        offer = Offer(task(number), attempt, remaining_ms, flags, content, once_on)
        return self.hear(Offers(model(name), (offer,)), epoch=epoch)

    def ready(self, name: str = "m", *, joinable: bool = True) -> list[Action]:
        return self.give(events.ModelReady(model(name).sha256, joinable))

    def cancel(self, number: int, attempt: int = 1, *, epoch: int = 1) -> list[Action]:
        return self.hear(Cancel(((task(number), attempt),)), epoch=epoch)

    def order(self, command: Control, *, boot: int = 0, reason: str = "") -> list[Action]:
        return self.hear(ControlOrder(command, boot, reason))

    def announce(
        self, *, online: bool = True, epoch: int = 1, url: str = "http://c"
    ) -> list[Action]:
        return self.hear(CoordinatorState(online, url), epoch=epoch)

    def finish(
        self,
        batch: events.RunBatch,
        *,
        codes: Sequence[ErrorCode] | None = None,
        content: bytes = b"out",
        run_us: int = 10,
    ) -> list[Action]:
        wanted = codes or [ErrorCode.NONE] * len(batch.items)
        ends = tuple(
            RunEnd(item.task_id, code, content, run_us)
            for item, code in zip(batch.items, wanted, strict=True)
        )
        return self.give(BatchEnded(batch.batch, ends, joinable=True))

    # --- reading ---

    def only(self, kind: type[Kind]) -> Kind:
        found = self.all(kind)
        assert len(found) == 1, self.actions
        return found[0]

    def all(self, kind: type[Kind]) -> list[Kind]:
        return [action for action in self.actions if isinstance(action, kind)]

    def messages(self) -> list[Message]:
        return messages_of(self.actions)

    def results(self) -> list[Result]:
        return results_of(self.actions)

    def heartbeats(self) -> list[Heartbeat]:
        return [message for message in self.messages() if isinstance(message, Heartbeat)]

    def states(self) -> list[str]:
        return [
            message.state.name for message in self.messages() if isinstance(message, NodeStatus)
        ]


def messages_of(actions: Sequence[Action]) -> list[Message]:
    return [
        unpack(action.payload, frozenset({action.topic.message})).message
        for action in actions
        if isinstance(action, events.Publish)
    ]


def results_of(actions: Sequence[Action]) -> list[Result]:
    return [
        result
        for message in messages_of(actions)
        if isinstance(message, Results)
        for result in message.results
    ]
