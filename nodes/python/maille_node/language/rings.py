"""What becomes of activations: caches in step, work in turn, results sent on round the ring."""

import logging
from collections import OrderedDict, deque
from dataclasses import dataclass, field, replace

import numpy as np

from maille_node.language import stage_events as events
from maille_node.language.choosing import Answer, settings_of, uint32s
from maille_node.language.errors import SettingsOutOfRange
from maille_node.language.history import Step
from maille_node.language.parts import Unjoinable, split
from maille_node.language.sessions import (
    MAX_ACTIVATION_POSITIONS,
    HeldStage,
    Resend,
    Running,
    Session,
    Work,
)
from maille_node.language.stage_events import SliceFacts, StageAction
from maille_node.language.waiting import WAIT_MS, WaitingRoom
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
    Token,
    Tokens,
    pack,
)

__all__ = ["Counters", "Pipeline", "Rings"]

EXPIRY_MS = 120_000.0
GAP_AGAIN_MS = 200.0
RESEND_BYTES = 1 << 20
RESEND_PAUSE_MS = 5.0
MAX_CLOSED = 256
MAX_SESSIONS = 256
TOKENS_PER_MESSAGE = 64
_ENDLESS = 1 << 40


@dataclass(slots=True)
class Counters:
    """What was dropped, by why."""

    repeated: int = 0
    """Delivered twice, or a second ring of the same session."""
    old_layout: int = 0
    stale_epoch: int = 0
    unknown: int = 0
    """Of a pipeline, stage or session that is not here."""
    misshapen: int = 0
    """Wrong kind, size or place, or parts that do not follow."""
    not_finite: int = 0
    gaps: int = 0
    overflow: int = 0
    """More than any correct sender has under way."""
    refused: int = 0
    """By the slice itself."""
    misplaced: int = 0
    """Messages of a type that is not for stages."""


@dataclass(slots=True, eq=False)
class Pipeline:
    """One ring, as far as this node knows it."""

    number: int
    layout: int = -1
    epoch: int = 0
    route: tuple[tuple[str, ...], ...] = ()
    stages: dict[int, HeldStage] = field(default_factory=dict)
    waiting: WaitingRoom = field(default_factory=WaitingRoom)
    closed: OrderedDict[int, None] = field(default_factory=OrderedDict)
    """Sessions lately closed: what still comes for them is dropped at once."""

    def forget(self, session: int) -> None:
        """Remember that a session is closed."""
        self.closed[session] = None
        if len(self.closed) > MAX_CLOSED:
            self.closed.popitem(last=False)


class Rings:
    """See the module's text. Belongs to a `StageCore`, which hands in its list of actions."""

    wait_ms = WAIT_MS
    """How long a message may wait for what it needs."""

    def __init__(self, node: str, boot: int, actions: list[StageAction]) -> None:
        self._node = node
        self._boot = boot
        self._actions = actions
        self._seq = 0
        self._jobs = 0
        self._caches = 0
        self._orders = 0
        self._running: dict[int, tuple[Pipeline, HeldStage]] = {}
        self._resending: list[tuple[Pipeline, HeldStage]] = []
        self.counters = Counters()
        self.local: deque[Activation] = deque()
        """From one stage of this node to another."""
        self.resume_at_ms = float("inf")
        """When `tick` should be called, to go on sending history."""

    # --- layouts -------------------------------------------------------------------------------

    def is_named(self, pipeline: Pipeline, held: HeldStage) -> bool:
        """Whether the layout gives this stage to this node, as primary or shadow."""
        route = pipeline.route
        return held.stage < len(route) and self._node in route[held.stage]

    def is_primary(self, pipeline: Pipeline, held: HeldStage) -> bool:
        """Whether this node speaks for the stage."""
        route = pipeline.route
        return held.stage < len(route) and route[held.stage][0] == self._node

    # --- sessions ------------------------------------------------------------------------------

    def open(self, pipeline: Pipeline, held: HeldStage, order: SessionOrder, now_ms: float) -> None:
        """Make room for a session, or tell the last stage more about one that is here.

        Tokens are work for a stage 0 that has not had the session yet, and for the last stage
        what is known before the next token. An OPEN with sampling also ends the prompt: tokens of
        later ones are answer.
        """
        facts = held.facts
        if facts is None:
            self._fail(held, order.session, ErrorCode.BUSY, "the slice is still loading")
            return
        session = held.sessions.get(order.session)
        if session is not None and replace(order, layout=session.opened.layout) == session.opened:
            session.touched_ms = now_ms
            return
        tokens = uint32s(order.tokens)
        if tokens and max(tokens) >= facts.vocabulary_size:
            text = f"a token of {max(tokens)}, the model has {facts.vocabulary_size}"
            self._fail(held, order.session, ErrorCode.INPUT_MALFORMED, text)
            return
        made = session is None
        if session is None:
            session = self._make(held, facts, order, now_ms)
            if session is None:
                return
        if order.position + len(tokens) > session.capacity:
            text = (
                f"{order.position + len(tokens)} tokens do not fit the {session.capacity} "
                "positions of the session; open it with more"
            )
            self._fail(held, order.session, ErrorCode.INPUT_TOO_LARGE, text)
        elif facts.with_head and order.position > _known_count(session):
            text = f"tokens from position {order.position}, {_known_count(session)} are known"
            self._fail(held, order.session, ErrorCode.UNKNOWN_SESSION, text)
        else:
            session.touched_ms = now_ms
            # A prompt that one stage alone gets in pieces is started by the coordinator.
            whole = order.sampling is not None or not facts.with_head
            try:
                if facts.with_head:
                    _learn(session, order, tokens)
            except SettingsOutOfRange as error:
                self._fail(held, order.session, ErrorCode.INPUT_MALFORMED, str(error))
            else:
                if facts.with_embedding and tokens and made and whole:
                    self._feed(pipeline, held, session, order, ActivationFlag.SAMPLE, now_ms)
                return
        if made:
            self.close(held, order.session)

    def _make(
        self, held: HeldStage, facts: SliceFacts, order: SessionOrder, now_ms: float
    ) -> Session | None:
        capacity = order.capacity
        if not 0 < capacity <= facts.context_length:
            text = f"{capacity} positions asked for, the model has {facts.context_length}"
            self._fail(held, order.session, ErrorCode.INPUT_TOO_LARGE, text)
            return None
        needed = held.session_bytes(facts, capacity)
        free = max(0, held.cache_limit_bytes - held.reserved_bytes())
        if needed > free or len(held.sessions) >= MAX_SESSIONS:
            text = (
                f"a session of {capacity} positions needs {needed} bytes, {free} of "
                f"{held.cache_limit_bytes} are free: close a session or ask for a shorter context"
            )
            self._say(
                StageReport(
                    StageState.FAILED,
                    held.pipeline,
                    held.stage,
                    held.nonce,
                    ErrorCode.CACHE_FULL,
                    text,
                    resident_bytes=needed,
                    free_bytes=free,
                    session=order.session,
                )
            )
            return None
        self._caches += 1
        session = Session(order.session, self._caches, capacity, now_ms, order)
        held.sessions[order.session] = session
        return session

    def close(self, held: HeldStage, number: int) -> None:
        """Free everything of a session, if it is here."""
        session = held.sessions.pop(number, None)
        if session is not None:
            session.closed = True
            session.drop_queue()
            self._actions.append(events.FreeCache(session.cache))

    def expired(self, held: HeldStage, now_ms: float) -> list[int]:
        """Sessions that nobody has spoken of for two minutes."""
        return [
            session.number
            for session in held.sessions.values()
            if session.touched_ms + EXPIRY_MS <= now_ms
        ]

    def repair(
        self, pipeline: Pipeline, held: HeldStage, order: SessionOrder, now_ms: float
    ) -> None:
        """REPLAY, REBUILD, INJECT or RESEND for a session that is on this stage."""
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
            case SessionCommand.RESEND:
                if session.answer is not None and self.is_primary(pipeline, held):
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
            self._fail(held, session.number, ErrorCode.INPUT_MALFORMED, text)
            return
        if max(uint32s(order.tokens)) >= facts.vocabulary_size:
            text = f"a token is not one of the model's {facts.vocabulary_size}"
            self._fail(held, session.number, ErrorCode.INPUT_MALFORMED, text)
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

    def _tell_again(self, held: HeldStage, session: Session, answer: Answer, position: int) -> None:
        start, tokens = answer.from_position(position)
        for at in range(0, len(tokens), TOKENS_PER_MESSAGE):
            piece = tokens[at : at + TOKENS_PER_MESSAGE]
            finish = answer.finish if at + len(piece) == len(tokens) else Finish.NONE
            self._say(Tokens(held.pipeline, session.number, start + at, piece, finish))

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
        if now_ms < self.resume_at_ms:
            return
        self.resume_at_ms = float("inf")
        resending, self._resending = self._resending, []
        for pipeline, held in resending:
            self._advance(pipeline, held, now_ms)

    def _advance(self, pipeline: Pipeline, held: HeldStage, now_ms: float) -> None:
        """Send history that is asked for, and begin the next step if none runs."""
        facts = held.facts
        if facts is None:
            return
        for session in held.sessions.values():
            self._resend(pipeline, held, session, now_ms)
        while held.running is None:
            chosen = held.next_session(now_ms)
            step = None if chosen is None else chosen.take()
            if chosen is None or step is None:
                break
            self._begin(pipeline, held, facts, chosen, step, now_ms)
            self._resend(pipeline, held, chosen, now_ms)

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
                self._send_on(pipeline, held, session, known, step.flags, step.until)
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
            self._gap(pipeline, held, session, step, now_ms)
            return
        sample = None
        if facts.with_head and step.flags & ActivationFlag.SAMPLE and not step.replay:
            answer = session.answer
            sample = None if answer is None else answer.wanted(step.position + step.count)
            if sample is None:
                text = "the tokens so far, or how to choose the next, are not known; open it anew"
                self._fail(held, session.number, ErrorCode.UNKNOWN_SESSION, text)
                return
        if step.position < session.length:
            session.history.cut(step.position)
            session.length = step.position
        self._jobs += 1
        held.running = Running(self._jobs, session, step)
        self._running[self._jobs] = (pipeline, held)
        if not step.decode:
            held.prefill_ms = now_ms
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
        self, pipeline: Pipeline, held: HeldStage, session: Session, step: Work, now_ms: float
    ) -> None:
        self.counters.gaps += 1
        if step.ring and self.is_primary(pipeline, held):
            # The coordinator set this stage back to start another ring: the old one ends here.
            return
        if now_ms - session.gap_ms < GAP_AGAIN_MS:
            return
        session.gap_ms = now_ms
        text = f"position {step.position} came, {session.length} are held"
        self._fail(held, session.number, ErrorCode.CACHE_GAP, text, session.length)

    # --- out -----------------------------------------------------------------------------------

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
        if event.code is ErrorCode.MODEL_ERROR:
            # Would be so on any node: the request cannot be answered.
            position = step.position + step.count
            if session.answer is not None:
                session.answer.finish = Finish.FAILED
            self._say(
                Tokens(
                    held.pipeline, session.number, position, (), Finish.FAILED, event.text[:1000]
                )
            )
            return
        self._fail(held, session.number, event.code, event.text)

    def _keep(
        self,
        pipeline: Pipeline,
        held: HeldStage,
        session: Session,
        step: Work,
        event: events.Computed,
    ) -> None:
        session.length = step.position + step.count
        current = step.layout == pipeline.layout
        if event.output:
            known = Step(step.position, step.count, event.output)
            session.history.append(known)
            if current:
                self._send_on(pipeline, held, session, known, step.flags, step.until)
        answer = session.answer
        if event.sampled is None or answer is None:
            return
        finish = answer.chosen(session.length, event.sampled)
        if not self.is_primary(pipeline, held):
            return
        # To the ring first: the coordinator's message is nobody's next step.
        if finish is Finish.NONE and current:
            self._send_token(pipeline, held, session, event.sampled)
        self._say(Tokens(held.pipeline, session.number, session.length, (event.sampled,), finish))

    def _send_on(
        self,
        pipeline: Pipeline,
        held: HeldStage,
        session: Session,
        known: Step,
        flags: int,
        until: int,
    ) -> None:
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

    def _send_token(
        self, pipeline: Pipeline, held: HeldStage, session: Session, token: Token
    ) -> None:
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

    def _resend(self, pipeline: Pipeline, held: HeldStage, session: Session, now_ms: float) -> None:
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
                    self._send_on(pipeline, held, session, known, flags, resend.until)
                    resend.position = known.position + known.count
                    sent_bytes += len(known.data)
            session.queue.popleft()

    def _fail(
        self, held: HeldStage, session: int, code: ErrorCode, text: str, length: int = 0
    ) -> None:
        where = f"stage {held.stage} of pipeline {held.pipeline}, session {session}"
        self._actions.append(events.Note(logging.WARNING, f"{where}: {text}"))
        self._say(
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

    def _say(self, message: StageReport | Tokens) -> None:
        self._actions.append(events.Say(message))


def _known_count(session: Session) -> int:
    return 0 if session.answer is None else len(session.answer.tokens)


def _learn(session: Session, order: SessionOrder, tokens: list[int]) -> None:
    """Take what an OPEN tells the last stage.

    Raises:
        SettingsOutOfRange: a setting is out of its range.
    """
    settings = None if order.sampling is None else settings_of(order.sampling)
    answer = session.answer
    if answer is None:
        answer = Answer(settings, session.capacity)
    elif settings is not None:
        answer.settings = settings
    answer.learn(order.position, tokens)
    if order.sampling is not None:
        answer.end_tokens = frozenset(uint32s(order.end_tokens))
        answer.prompt_length = order.position + len(tokens)
        answer.stop = answer.prompt_length + (order.max_tokens or _ENDLESS)
        answer.finish = Finish.NONE
    session.answer = answer
