"""What a stage sends: activations to the next stage, tokens round the ring, history again, reports."""

import logging
from collections import deque

from maille_node.language import stage_events as events
from maille_node.language.history import Step
from maille_node.language.parts import split
from maille_node.language.pipelines import Pipeline
from maille_node.language.sessions import HeldStage, Resend, Session
from maille_node.language.stage_events import StageAction
from maille_protocol import (
    Activation,
    ActivationFlag,
    ActivationKind,
    ErrorCode,
    StageReport,
    StageState,
    Token,
    Tokens,
    pack,
)

__all__ = ["Sender"]

RESEND_BYTES = 1 << 20
RESEND_PAUSE_MS = 5.0


class Sender:
    """Adds what is to be sent to a list of actions.

    Args:
        node: this node's id.
        boot: of this process.
        actions: of the core.
    """

    def __init__(self, node: str, boot: int, actions: list[StageAction]) -> None:
        self._node = node
        self._boot = boot
        self._actions = actions
        self._seq = 0
        self._resending: list[tuple[Pipeline, HeldStage]] = []
        self.local: deque[Activation] = deque()
        """From one stage of this node to another."""
        self.resume_at_ms = float("inf")
        """When history should be sent on."""

    def is_named(self, pipeline: Pipeline, held: HeldStage) -> bool:
        """Whether the layout gives this stage to this node, as primary or shadow."""
        route = pipeline.route
        return held.stage < len(route) and self._node in route[held.stage]

    def is_primary(self, pipeline: Pipeline, held: HeldStage) -> bool:
        """Whether this node speaks for the stage."""
        route = pipeline.route
        return held.stage < len(route) and route[held.stage][0] == self._node

    def send_on(
        self,
        pipeline: Pipeline,
        held: HeldStage,
        session: Session,
        known: Step,
        flags: int,
        until: int,
    ) -> None:
        """What was computed to the next stage, unless this node is not to speak for its own."""
        replay = bool(flags & ActivationFlag.REPLAY)
        following = held.stage + 1
        if (
            not self.is_primary(pipeline, held)
            or (replay and held.stage >= until)
            or following >= len(pipeline.route)
        ):
            return
        self._send(
            pipeline,
            Activation(
                held.pipeline,
                pipeline.layout,
                session.number,
                following,
                known.position,
                known.count,
                ActivationKind.HIDDEN,
                int(flags),
                until if replay else 0,
                0,
                1,
                known.data,
            ),
        )

    def send_token(
        self, pipeline: Pipeline, held: HeldStage, session: Session, token: Token
    ) -> None:
        """A chosen token to stage 0."""
        self._send(
            pipeline,
            Activation(
                held.pipeline,
                pipeline.layout,
                session.number,
                0,
                session.length,
                1,
                ActivationKind.TOKEN,
                int(ActivationFlag.SAMPLE),
                0,
                0,
                1,
                token.token.to_bytes(4, "little"),
            ),
        )

    def _send(self, pipeline: Pipeline, activation: Activation) -> None:
        others = []
        for node in pipeline.route[activation.stage]:
            if node == self._node:
                self.local.append(activation)
            else:
                others.append(node)
        if not others:
            return
        for part in split(activation):
            self._seq += 1
            payload = pack(part, boot=self._boot, seq=self._seq, epoch=0)
            self._actions.extend(events.SendActivation(node, payload) for node in others)

    def resend(self, pipeline: Pipeline, held: HeldStage, session: Session, now_ms: float) -> None:
        """Send history that is next in a session's queue, so much at a time as a link takes."""
        running = held.running
        if (pipeline, held) in self._resending:
            return  # the link was given its share for now
        while session.queue and isinstance(session.queue[0], Resend):
            resend = session.queue[0]
            if running is not None and running.session is session:
                return  # what it computes now belongs behind what is sent again
            if resend.layout == pipeline.layout:
                sent_bytes = 0
                flags = int(ActivationFlag.REPLAY)
                for known in session.history.between(resend.position, session.history.length):
                    if sent_bytes >= RESEND_BYTES:
                        self.resume_at_ms = min(self.resume_at_ms, now_ms + RESEND_PAUSE_MS)
                        self._resending.append((pipeline, held))
                        return
                    self.send_on(pipeline, held, session, known, flags, resend.until)
                    resend.position = known.position + known.count
                    sent_bytes += len(known.data)
            session.queue.popleft()

    def fail(
        self, held: HeldStage, session: int, code: ErrorCode, text: str, length: int = 0
    ) -> None:
        """Tell the coordinator that a session cannot go on here."""
        where = f"stage {held.stage} of pipeline {held.pipeline}, session {session}"
        self._actions.append(events.Note(logging.WARNING, f"{where}: {text}"))
        self.say(
            StageReport(
                StageState.FAILED,
                held.pipeline,
                held.stage,
                held.nonce,
                code,
                text[:1000],
                session=session,
                length=length,
            )
        )

    def say(self, message: StageReport | Tokens) -> None:
        """Tell the coordinator."""
        self._actions.append(events.Say(message))

    def interrupted(self) -> list[tuple[Pipeline, HeldStage]]:
        """Stages whose history goes on now; takes them."""
        self.resume_at_ms = float("inf")
        taken, self._resending = self._resending, []
        return taken
