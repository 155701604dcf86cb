"""What becomes of activations: caches in step, work in turn, results sent on round the ring."""

from dataclasses import replace

import numpy as np

from maille_node.language import stage_events as events
from maille_node.language.choosing import Answer, uint32s
from maille_node.language.history import Step
from maille_node.language.opening import Opener
from maille_node.language.parts import Unjoinable
from maille_node.language.pipelines import Counters, Pipeline
from maille_node.language.sending import Sender
from maille_node.language.sessions import (
    MAX_ACTIVATION_POSITIONS,
    HeldStage,
    Resend,
    Running,
    Session,
    Work,
)
from maille_node.language.stage_events import SliceFacts, StageAction
from maille_node.language.waiting import WAIT_MS, Sent
from maille_protocol import (
    Activation,
    ActivationFlag,
    ActivationKind,
    ErrorCode,
    Finish,
    SessionCommand,
    SessionOrder,
    StageReport,
    StageState,
    Tokens,
)

__all__ = ["Rings"]

GAP_AGAIN_MS = 200.0
TOKENS_PER_MESSAGE = 64


class Rings:
    """See the module's text. Belongs to a `StageCore`, which hands in its list of actions."""

    wait_ms = WAIT_MS
    """How long a message may wait for what it needs."""

    def __init__(self, node: str, boot: int, actions: list[StageAction]) -> None:
        self._actions = actions
        self._jobs = 0
        self._orders = 0
        self._running: dict[int, tuple[Pipeline, HeldStage]] = {}
        self.counters = Counters()
        self.sender = Sender(node, boot, actions)
        self.opener = Opener(self.sender, actions)

    # --- sessions ------------------------------------------------------------------------------

    def open(
        self,
        pipeline: Pipeline,
        held: HeldStage,
        order: SessionOrder,
        sent: Sent,
        now_ms: float,
    ) -> None:
        """Open a session or tell more of it, and begin with its tokens where that is due."""
        if self.opener.open(held, order, sent, now_ms):
            session = held.sessions[order.session]
            # What is shared is in the cache; one position at least is computed, for its output.
            shared = min(session.length, order.position + len(order.tokens) // 4 - 1)
            skipped = max(0, shared - order.position)
            rest = replace(
                order, position=order.position + skipped, tokens=order.tokens[4 * skipped :]
            )
            self._feed(pipeline, held, session, rest, ActivationFlag.SAMPLE, now_ms)

    def repair(
        self,
        pipeline: Pipeline,
        held: HeldStage,
        order: SessionOrder,
        sent: Sent,
        now_ms: float,
    ) -> None:
        """Any command but OPEN and CLOSE for a session that is on this stage."""
        facts = held.facts
        session = held.sessions[order.session]
        session.touched_ms = now_ms
        if facts is None:
            return
        match order.command:
            case SessionCommand.REPLAY if held.stage < order.until and not facts.with_head:
                session.queue.append(Resend(pipeline.layout, order.position, order.until))
                self._advance(pipeline, held, now_ms)
            case SessionCommand.REBUILD | SessionCommand.INJECT if facts.with_embedding:
                rebuild = order.command is SessionCommand.REBUILD
                flags = ActivationFlag.REPLAY if rebuild else ActivationFlag.SAMPLE
                self._feed(pipeline, held, session, order, flags, now_ms)
            case SessionCommand.KEEP:
                if sent.overtaken_by(session.sent):
                    self.counters.overtaken += 1
                    return
                pipeline.forget(session.number, sent)
                self.opener.keep(held, session.number, order.position, now_ms)
            case SessionCommand.CHECK:
                session.awaited = order.position
                self._tell_if_caught_up(held, session)
            case SessionCommand.RESEND:
                if session.answer is not None and self.sender.is_primary(pipeline, held):
                    self._tell_again(held, session, session.answer, order.position)
            case _:
                self.counters.misshapen += 1

    def _feed(
        self,
        pipeline: Pipeline,
        held: HeldStage,
        session: Session,
        order: SessionOrder,
        flags: ActivationFlag,
        now_ms: float,
    ) -> None:
        """Give stage 0 tokens of the coordinator."""
        count = len(order.tokens) // 4
        facts = held.facts
        if facts is None or not count or order.position + count > session.capacity:
            self.counters.misshapen += 1
            text = f"{count} tokens at position {order.position} of {session.capacity}"
            self.sender.fail(held, session.number, ErrorCode.INPUT_MALFORMED, text)
            return
        if max(uint32s(order.tokens)) >= facts.vocabulary_size:
            text = f"a token is not one of the model's {facts.vocabulary_size}"
            self.sender.fail(held, session.number, ErrorCode.INPUT_MALFORMED, text)
            return
        work = Work(
            pipeline.layout,
            order.position,
            count,
            order.tokens,
            int(flags),
            order.until,
            self._next_order(),
            now_ms,
        )
        self._queue(held, facts, session, work)
        self._advance(pipeline, held, now_ms)

    def _tell_if_caught_up(self, held: HeldStage, session: Session) -> None:
        if session.awaited is None or session.length < session.awaited:
            return
        session.awaited = None
        self.sender.say(
            StageReport(
                StageState.HOLDING,
                held.pipeline,
                held.stage,
                held.nonce,
                session=session.number,
                length=session.length,
            )
        )

    def _tell_again(self, held: HeldStage, session: Session, answer: Answer, position: int) -> None:
        start, tokens = answer.from_position(position)
        for at in range(0, len(tokens), TOKENS_PER_MESSAGE):
            piece = tokens[at : at + TOKENS_PER_MESSAGE]
            finish = answer.finish if at + len(piece) == len(tokens) else Finish.NONE
            self.sender.say(Tokens(held.pipeline, session.number, start + at, piece, finish))

    # --- in ------------------------------------------------------------------------------------

    def arrived(
        self,
        pipeline: Pipeline,
        held: HeldStage,
        facts: SliceFacts,
        activation: Activation,
        now_ms: float,
    ) -> None:
        """An activation of the present layout for a session that is here."""
        session = held.sessions[activation.session]
        count = activation.count
        kind = ActivationKind.TOKEN if facts.with_embedding else ActivationKind.HIDDEN
        row_bytes = held.row_bytes(facts)
        if (
            activation.kind is not kind
            or not 1 <= count <= MAX_ACTIVATION_POSITIONS
            or activation.position + count > session.capacity
        ):
            self.counters.misshapen += 1
            return
        session.touched_ms = now_ms
        try:
            data = session.joiner.add(activation, count * row_bytes)
        except Unjoinable:
            self.counters.misshapen += 1
            return
        if data is None:
            return
        if facts.with_embedding:
            if max(uint32s(data)) >= facts.vocabulary_size:
                self.counters.misshapen += 1
                return
        elif not np.isfinite(np.frombuffer(data, np.float32)).all():
            self.counters.not_finite += 1
            return
        work = Work(
            activation.layout,
            activation.position,
            count,
            data,
            activation.flags,
            activation.until,
            self._next_order(),
            now_ms,
            ring=facts.with_embedding,
        )
        self._queue(held, facts, session, work)
        self._advance(pipeline, held, now_ms)

    def _queue(self, held: HeldStage, facts: SliceFacts, session: Session, work: Work) -> None:
        if work.ring:
            # What comes round the ring to stage 0 never goes back: that does only the
            # coordinator. So of two rings, after a repair that was not needed, one ends here.
            waiting = any(
                isinstance(other, Work) and other.position >= work.position
                for other in session.queue
            )
            running = held.running
            busy = (
                running is not None
                and running.session is session
                and running.step.position >= work.position
            )
            if work.position < session.length or waiting or busy:
                self.counters.repeated += 1
                return
        if not session.add(work, held.row_bytes(facts)):
            self.counters.overflow += 1

    def _next_order(self) -> int:
        self._orders += 1
        return self._orders

    # --- in turn -------------------------------------------------------------------------------

    def tick(self, now_ms: float) -> None:
        """Go on sending history."""
        if now_ms < self.sender.resume_at_ms:
            return
        for pipeline, held in self.sender.interrupted():
            self._advance(pipeline, held, now_ms)

    def _advance(self, pipeline: Pipeline, held: HeldStage, now_ms: float) -> None:
        """Send history that is asked for, and begin the next step if none runs."""
        facts = held.facts
        if facts is None:
            return
        for session in held.sessions.values():
            self.sender.resend(pipeline, held, session, now_ms)
        while held.running is None:
            for session in held.sessions.values():
                if session.ahead:
                    session.join_ahead()
            chosen = held.turns.choose(held.sessions.values(), now_ms)
            if chosen is None:
                break
            most = held.turns.step_positions(
                chosen, held.sessions, facts, len(pipeline.route), now_ms
            )
            step = chosen.take(most)
            if step is None:
                break
            self._begin(pipeline, held, facts, chosen, step, now_ms)
            self.sender.resend(pipeline, held, chosen, now_ms)

    def _begin(
        self,
        pipeline: Pipeline,
        held: HeldStage,
        facts: SliceFacts,
        session: Session,
        step: Work,
        now_ms: float,
    ) -> None:
        if step.layout != pipeline.layout:
            self.counters.old_layout += 1
            return
        if step.replay and step.position < session.length:
            covered = min(step.count, session.length - step.position)
            stop = step.position + covered
            for known in session.history.between(step.position, stop):
                self.sender.send_on(pipeline, held, session, known, step.flags, step.until)
            if covered == step.count:
                return
            row_bytes = len(step.data) // step.count
            step = replace(
                step,
                position=stop,
                count=step.count - covered,
                data=step.data[covered * row_bytes :],
            )
        if step.position > session.length:
            self._gap(pipeline, held, facts, session, step, now_ms)
            return
        sample = None
        if facts.with_head and step.flags & ActivationFlag.SAMPLE and not step.replay:
            answer = session.answer
            sample = None if answer is None else answer.wanted(step.position + step.count)
            if sample is None:
                text = "the tokens so far, or how to choose the next, are not known; open it anew"
                self.sender.fail(held, session.number, ErrorCode.UNKNOWN_SESSION, text)
                return
        if step.position < session.length:
            session.history.cut(step.position)
            session.length = step.position
        self._jobs += 1
        held.running = Running(self._jobs, session, step, now_ms)
        self._running[self._jobs] = (pipeline, held)
        self._actions.append(
            events.Compute(
                self._jobs,
                held.reference.sha256,
                session.cache,
                session.capacity,
                step.position,
                step.count,
                step.data,
                sample,
            )
        )

    def _gap(
        self,
        pipeline: Pipeline,
        held: HeldStage,
        facts: SliceFacts,
        session: Session,
        step: Work,
        now_ms: float,
    ) -> None:
        self.counters.gaps += 1
        if step.ring and self.sender.is_primary(pipeline, held):
            # The coordinator set this stage back to start another ring: the old one ends here.
            return
        session.hold(step, held.row_bytes(facts))
        if now_ms - session.gap_ms < GAP_AGAIN_MS:
            return
        session.gap_ms = now_ms
        text = f"position {step.position} came, {session.length} are held"
        self.sender.fail(held, session.number, ErrorCode.CACHE_GAP, text, session.length)

    def computed(self, event: events.Computed, now_ms: float) -> None:
        """A step has ended: keep what came of it, send it on, begin the next."""
        found = self._running.pop(event.job, None)
        if found is None:
            return
        pipeline, held = found
        running = held.running
        if running is None or running.job != event.job:
            return
        held.running = None
        session, step = running.session, running.step
        held.turns.ended(session, step, running.began_ms, now_ms)
        if not session.closed:
            if event.code is not ErrorCode.NONE:
                self._not_computed(held, session, step, event)
            else:
                self._keep(pipeline, held, session, step, event)
        self._advance(pipeline, held, now_ms)

    def _not_computed(
        self, held: HeldStage, session: Session, step: Work, event: events.Computed
    ) -> None:
        self.counters.refused += 1
        if event.code is ErrorCode.CACHE_GAP:
            # The cache was to begin with a copy that could not be made.
            session.length = 0
            session.history.cut(0)
            self.sender.fail(held, session.number, event.code, event.text)
            return
        if event.code is ErrorCode.MODEL_ERROR:
            # Would be so on any node: the request cannot be answered.
            position = step.position + step.count
            if session.answer is not None:
                session.answer.finish = Finish.FAILED
            self.sender.say(
                Tokens(
                    held.pipeline, session.number, position, (), Finish.FAILED, event.text[:1000]
                )
            )
            return
        self.sender.fail(held, session.number, event.code, event.text)

    def _keep(
        self,
        pipeline: Pipeline,
        held: HeldStage,
        session: Session,
        step: Work,
        event: events.Computed,
    ) -> None:
        session.length = step.position + step.count
        self._tell_if_caught_up(held, session)
        current = step.layout == pipeline.layout
        if event.output:
            known = Step(step.position, step.count, event.output)
            session.history.append(known)
            if current:
                self.sender.send_on(pipeline, held, session, known, step.flags, step.until)
        answer = session.answer
        if event.sampled is None or answer is None:
            return
        finish = answer.chosen(session.length, event.sampled)
        if not self.sender.is_primary(pipeline, held):
            return
        # To the ring first: the coordinator's message is nobody's next step.
        if finish is Finish.NONE and current:
            self.sender.send_token(pipeline, held, session, event.sampled)
        self.sender.say(
            Tokens(held.pipeline, session.number, session.length, (event.sampled,), finish)
        )
