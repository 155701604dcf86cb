"""Stages by hand: facts of a slice, messages with their envelopes, readers for actions."""

import struct
from collections.abc import Iterable
from typing import TypeVar

from maille_node.language import stage_events as events
from maille_node.language.stage_events import SliceFacts, StageAction, StageEvent
from maille_node.language.stages import StageCore
from maille_protocol import (
    Activation,
    ActivationFlag,
    ActivationKind,
    Envelope,
    Message,
    Reference,
    Route,
    Sampling,
    SessionCommand,
    SessionOrder,
    StageCommand,
    StageOrder,
    StageReport,
    Tokens,
    unpack,
)

PIPELINE = 5
SESSION = 9
HIDDEN = 4
VOCABULARY = 1000
GREEDY = Sampling(temperature_ppm=0)

Kind = TypeVar("Kind")


def uint32s(values: Iterable[int]) -> bytes:
    return b"".join(struct.pack("<I", value) for value in values)


def slice_of(stage: int) -> Reference:
    return Reference(bytes([stage]) * 32, 1000)


def facts_of(
    stage: int, stages: int, *, hidden: int = HIDDEN, context: int = 4096, cache_bytes: int = 100
) -> SliceFacts:
    return SliceFacts(
        with_embedding=stage == 0,
        with_head=stage == stages - 1,
        hidden_size=hidden,
        vocabulary_size=VOCABULARY,
        context_length=context,
        cache_bytes=cache_bytes,
        decode_us=100,
        prefill_us=10,
        resident_bytes=1000,
        fingerprint=bytes(16),
    )


class Driver:
    """One core, the time it is told, and what it wanted done."""

    def __init__(self, node: str = "a", boot: int = 77) -> None:
        self.core = StageCore(node, boot, free_bytes=lambda: 12345)
        self.node = node
        self.now_ms = 1000.0
        self.seq = 0
        self.actions: list[StageAction] = []
        """Of the last event."""
        self.stage = 0
        """The one loaded last: orders are for it unless another is named."""

    def give(self, event: StageEvent) -> list[StageAction]:
        self.actions = self.core.handle(event, self.now_ms)
        return self.actions

    def hear(
        self, message: Message, *, epoch: int = 1, boot: int = 1, seq: int | None = None
    ) -> list[StageAction]:
        self.seq += 1
        envelope = Envelope(boot, self.seq if seq is None else seq, epoch, message)
        return self.give(events.Heard(envelope))

    def all(self, kind: type[Kind]) -> list[Kind]:
        return [action for action in self.actions if isinstance(action, kind)]

    def one(self, kind: type[Kind]) -> Kind:
        found = self.all(kind)
        assert len(found) == 1, self.actions
        return found[0]

    def reports(self) -> list[StageReport]:
        return [say.message for say in self.all(events.Say) if isinstance(say.message, StageReport)]

    def tokens(self) -> list[Tokens]:
        return [say.message for say in self.all(events.Say) if isinstance(say.message, Tokens)]

    def sent(self) -> list[tuple[str, Activation]]:
        found = []
        for action in self.all(events.SendActivation):
            message = unpack(action.payload).message
            assert isinstance(message, Activation)
            found.append((action.node, message))
        return found

    def hold(
        self,
        stage: int,
        route: tuple[tuple[str, ...], ...],
        *,
        facts: SliceFacts | None = None,
        limit: int = 10_000_000,
        layout: int = 1,
    ) -> None:
        """Load a stage and say who has which."""
        self.load(stage, limit=limit)
        self.give(events.SliceReady(slice_of(stage).sha256, facts or facts_of(stage, len(route))))
        self.hear(Route(PIPELINE, layout, route))

    def load(
        self,
        stage: int,
        *,
        command: StageCommand = StageCommand.LOAD,
        limit: int = 10_000_000,
        nonce: int = 3,
        reference: Reference | None = None,
    ) -> list[StageAction]:
        found = reference or slice_of(stage)
        if command is StageCommand.LOAD:
            self.stage = stage
        return self.hear(StageOrder(command, PIPELINE, stage, found, limit, nonce))

    def open(
        self,
        tokens: Iterable[int] = (),
        *,
        session: int = SESSION,
        stage: int | None = None,
        capacity: int = 256,
        position: int = 0,
        sampling: Sampling | None = GREEDY,
        max_tokens: int = 100,
        end_tokens: Iterable[int] = (),
        layout: int = 1,
    ) -> list[StageAction]:
        return self.hear(
            SessionOrder(
                SessionCommand.OPEN,
                PIPELINE,
                layout,
                session,
                self.stage if stage is None else stage,
                position,
                0,
                capacity,
                uint32s(tokens),
                sampling,
                max_tokens,
                uint32s(end_tokens),
            )
        )

    def order(
        self,
        command: SessionCommand,
        *,
        stage: int | None = None,
        position: int = 0,
        until: int = 0,
        tokens: Iterable[int] = (),
        session: int = SESSION,
        layout: int = 1,
    ) -> list[StageAction]:
        return self.hear(
            SessionOrder(
                command,
                PIPELINE,
                layout,
                session,
                self.stage if stage is None else stage,
                position,
                until,
                tokens=uint32s(tokens),
            )
        )

    def activation(
        self,
        position: int,
        *,
        count: int = 1,
        stage: int = 1,
        session: int = SESSION,
        layout: int = 1,
        kind: ActivationKind = ActivationKind.HIDDEN,
        flags: int = ActivationFlag.SAMPLE,
        until: int = 0,
        data: bytes | None = None,
        part: int = 0,
        parts: int = 1,
        pipeline: int = PIPELINE,
        boot: int = 2,
        seq: int | None = None,
    ) -> list[StageAction]:
        if data is None:
            data = bytes(4 * count * (HIDDEN if kind is ActivationKind.HIDDEN else 1))
        return self.hear(
            Activation(
                pipeline,
                layout,
                session,
                stage,
                position,
                count,
                kind,
                int(flags),
                until,
                part,
                parts,
                data,
            ),
            boot=boot,
            seq=seq,
        )
