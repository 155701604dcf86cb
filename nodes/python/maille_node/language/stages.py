"""The decisions of a node about its slices: orders, layouts, reports. No I/O, no clock, no chance.

`StageCore.handle` is the only mutator. `rings` holds what becomes of activations; the rules are
those of docs/decisions/0006-token-slices.md.
"""

import logging
from collections.abc import Callable

from maille_node.language import stage_events as events
from maille_node.language.pipelines import Pipeline
from maille_node.language.rings import Rings
from maille_node.language.slices import Slices
from maille_node.language.stage_events import StageAction, StageEvent
from maille_node.language.vocabularies import Vocabularies
from maille_node.language.waiting import Early, Repeats, Sent
from maille_protocol import (
    Activation,
    Envelope,
    ErrorCode,
    Route,
    SessionCommand,
    SessionOrder,
    StageOrder,
    StageReport,
    StageState,
)

__all__ = ["StageCore"]

SWEEP_MS = 1000.0


class StageCore:
    """All stages of one node; see the module's text.

    Args:
        node: the node's id.
        boot: of this process; with a number of its own it names every activation.
        free_bytes: memory that could still be given to slices and caches.
    """

    def __init__(self, node: str, boot: int, *, free_bytes: Callable[[], int]) -> None:
        self._free_bytes = free_bytes
        self._actions: list[StageAction] = []
        self._rings = Rings(node, boot, self._actions)
        self.counters = self._rings.counters
        self._slices = Slices(self._actions, self._rings.opener, free_bytes)
        self._vocabularies = Vocabularies(self._actions)
        self._repeats = Repeats()
        self._epoch = 0
        self._wake_at_ms = float("inf")
        self._sweep_at_ms = float("inf")

    # --- what the shell may ask ----------------------------------------------------------------

    @property
    def serving(self) -> int:
        """Stages with sessions that a layout still gives to this node."""
        return sum(
            bool(held.sessions) and self._rings.sender.is_named(pipeline, held)
            for pipeline in self._slices.pipelines.values()
            for held in pipeline.stages.values()
        )

    @property
    def stage_count(self) -> int:
        """Stages held, loaded or loading."""
        return self._slices.stage_count

    @property
    def session_count(self) -> int:
        """Sessions open on all stages together."""
        return sum(
            len(held.sessions)
            for pipeline in self._slices.pipelines.values()
            for held in pipeline.stages.values()
        )

    def sizes(self) -> dict[str, int]:
        """How much the core keeps, for tests and simulations that hold it to its bounds."""
        pipelines = self._slices.pipelines.values()
        stages = [held for pipeline in pipelines for held in pipeline.stages.values()]
        return {
            "pipelines": len(pipelines),
            "stages": len(stages),
            "sessions": self.session_count,
            "kept": sum(len(held.kept) for held in stages),
            "waiting": sum(len(pipeline.waiting) for pipeline in pipelines),
            "closed": sum(len(pipeline.closed) for pipeline in pipelines),
            "queued_bytes": sum(
                session.queued_bytes for held in stages for session in held.sessions.values()
            ),
            "overdrawn_bytes": sum(
                max(0, held.reserved_bytes() - held.cache_limit_bytes) for held in stages
            ),
            "remembered": len(self._repeats),
        }

    @property
    def unfilled_bytes(self) -> int:
        """Promised to open sessions and not yet taken from the system."""
        return sum(
            held.reserved_bytes() - held.filled_bytes()
            for pipeline in self._slices.pipelines.values()
            for held in pipeline.stages.values()
        )

    # --- the one mutator -----------------------------------------------------------------------

    def handle(self, event: StageEvent, now_ms: float) -> list[StageAction]:
        """Take in what happened; what must be done now, in this order."""
        match event:
            case events.Heard(envelope=envelope):
                if self._repeats.seen(envelope):
                    self.counters.repeated += 1
                else:
                    self._hear(envelope, now_ms)
            case events.Computed():
                self._rings.computed(event, now_ms)
            case events.SliceReady(sha256=sha256, facts=facts):
                self._slices.ready(sha256, facts)
            case events.SliceFailed(sha256=sha256, code=code, text=text):
                self._slices.failed(sha256, code, text)
            case events.VocabularyReady(sha256=sha256):
                for early in self._vocabularies.ready(sha256):
                    self._session_order(early, now_ms)
            case events.VocabularyFailed(sha256=sha256, code=code, text=text):
                for early in self._vocabularies.failed(sha256):
                    self._no_vocabulary(early, code, text)
            case events.Tick():
                self._wake_at_ms = float("inf")
                self._rings.tick(now_ms)
        local = self._rings.sender.local
        while local:
            self._activation(Early(local.popleft(), now_ms + self._rings.wait_ms), now_ms)
        if now_ms >= self._sweep_at_ms:
            self._sweep(now_ms)
        self._ask_to_be_woken(now_ms)
        taken = self._actions[:]
        self._actions.clear()
        return taken

    def _ask_to_be_woken(self, now_ms: float) -> None:
        rings = self._rings
        if self._sweep_at_ms == float("inf") and self._holds_anything():
            self._sweep_at_ms = now_ms + SWEEP_MS
        wanted_ms = min(self._sweep_at_ms, rings.sender.resume_at_ms)
        if wanted_ms < self._wake_at_ms:
            self._wake_at_ms = wanted_ms
            self._do(events.WakeAt(wanted_ms))

    def _holds_anything(self) -> bool:
        """Whether there is something that may have to go in time."""
        return any(
            len(pipeline.waiting)
            or any(held.sessions or held.kept for held in pipeline.stages.values())
            for pipeline in self._slices.pipelines.values()
        )

    def _do(self, action: StageAction) -> None:
        self._actions.append(action)

    # --- messages ------------------------------------------------------------------------------

    def _hear(self, envelope: Envelope, now_ms: float) -> None:
        message, epoch = envelope.message, envelope.epoch
        if isinstance(message, Activation):
            self._activation(Early(message, now_ms + self._rings.wait_ms), now_ms)
            return
        if not isinstance(message, StageOrder | Route | SessionOrder):
            self.counters.misplaced += 1
            return
        if epoch < self._epoch:
            self.counters.stale_epoch += 1
            return
        self._epoch = epoch
        sent = Sent(envelope.boot, envelope.seq)
        match message:
            case StageOrder():
                if not self._slices.order(message, sent):
                    self.counters.overtaken += 1
            case Route():
                self._route(message, epoch, now_ms)
            case SessionOrder():
                self._session_order(Early(message, now_ms + self._rings.wait_ms, sent), now_ms)

    def _activation(self, early: Early, now_ms: float) -> None:
        activation = early.message
        if not isinstance(activation, Activation):
            raise TypeError("an activation is expected")
        pipeline = self._slices.pipelines.get(activation.pipeline)
        held = None if pipeline is None else pipeline.stages.get(activation.stage)
        if pipeline is None or held is None or held.facts is None:
            self.counters.unknown += 1
            return
        if activation.layout < pipeline.layout:
            self.counters.old_layout += 1
        elif activation.layout > pipeline.layout or (
            activation.session not in held.sessions and activation.session not in pipeline.closed
        ):
            self._let_wait(pipeline, early, now_ms)
        elif activation.session in held.sessions and self._rings.sender.is_named(pipeline, held):
            self._rings.arrived(pipeline, held, held.facts, activation, now_ms)
        else:
            self.counters.unknown += 1

    def _let_wait(self, pipeline: Pipeline, early: Early, now_ms: float) -> None:
        if now_ms >= early.until_ms or not pipeline.waiting.add(early):
            self.counters.unknown += 1

    def _hear_early(self, pipeline: Pipeline, now_ms: float) -> None:
        """A layout or session is known now that some may have waited for."""
        for early in pipeline.waiting.take_all():
            if isinstance(early.message, Activation):
                self._activation(early, now_ms)
            else:
                self._session_order(early, now_ms)

    # --- layouts -------------------------------------------------------------------------------

    def _route(self, route: Route, epoch: int, now_ms: float) -> None:
        pipeline = self._slices.pipeline(route.pipeline)
        if pipeline is None or (epoch <= pipeline.epoch and route.layout < pipeline.layout):
            self.counters.old_layout += 1
            return
        fenced = route.layout != pipeline.layout
        pipeline.epoch = epoch
        pipeline.layout = route.layout
        pipeline.route = route.stages
        if fenced:
            for held in pipeline.stages.values():
                for session in held.sessions.values():
                    self.counters.old_layout += session.drop_queue()
        self._hear_early(pipeline, now_ms)

    # --- sessions ------------------------------------------------------------------------------

    def _session_order(self, early: Early, now_ms: float) -> None:
        order = early.message
        if not isinstance(order, SessionOrder):
            raise TypeError("a session order is expected")
        pipeline = self._slices.pipelines.get(order.pipeline)
        if pipeline is None or not pipeline.stages:
            if order.command is not SessionCommand.CLOSE:
                self._unknown_session(order, "this node holds no stage of the pipeline")
            return
        if order.command is SessionCommand.CLOSE:
            self._close(pipeline, order.session, early.sent)
            return
        if order.layout < pipeline.layout:
            self.counters.old_layout += 1
            return
        if order.layout > pipeline.layout:
            self._let_wait(pipeline, early, now_ms)
            return
        held = pipeline.stages.get(order.stage)
        if held is None:
            self._unknown_session(order, f"this node does not hold stage {order.stage}")
        elif order.command is SessionCommand.OPEN:
            if early.sent.overtaken_by(pipeline.closed.get(order.session)):
                self.counters.overtaken += 1
                return
            if self._vocabularies.lacks(early):
                return
            pipeline.closed.pop(order.session, None)
            self._rings.open(pipeline, held, order, early.sent, now_ms)
            self._hear_early(pipeline, now_ms)
        elif order.session not in held.sessions:
            if order.session in pipeline.closed:
                self.counters.unknown += 1
            else:
                self._let_wait(pipeline, early, now_ms)
        else:
            self._rings.repair(pipeline, held, order, early.sent, now_ms)

    def _close(self, pipeline: Pipeline, session: int, sent: Sent) -> None:
        opened = [held.sessions.get(session) for held in pipeline.stages.values()]
        if any(found is not None and sent.overtaken_by(found.sent) for found in opened):
            self.counters.overtaken += 1
            return
        pipeline.forget(session, sent)
        for held in pipeline.stages.values():
            self._rings.opener.close(held, session)

    def _no_vocabulary(self, early: Early, code: ErrorCode, text: str) -> None:
        order = early.message
        pipeline = self._slices.pipelines.get(order.pipeline)
        held = None if pipeline is None else pipeline.stages.get(order.stage)
        if held is not None:
            self._rings.sender.fail(held, order.session, code, text)

    def _unknown_session(self, order: SessionOrder | Activation, text: str) -> None:
        self.counters.unknown += 1
        self._do(
            events.Say(
                StageReport(
                    StageState.FAILED,
                    order.pipeline,
                    order.stage,
                    0,
                    ErrorCode.UNKNOWN_SESSION,
                    text,
                    free_bytes=self._free_bytes(),
                    session=order.session,
                )
            )
        )

    # --- time ----------------------------------------------------------------------------------

    def _sweep(self, now_ms: float) -> None:
        """Give up what has waited too long and sessions that nobody speaks of."""
        self._sweep_at_ms = float("inf")
        for pipeline in self._slices.pipelines.values():
            told: set[int] = set()
            for early in pipeline.waiting.take_expired(now_ms):
                message = early.message
                if message.session in told:
                    self.counters.unknown += 1
                    continue
                told.add(message.session)
                known = message.layout <= pipeline.layout
                text = (
                    "this node does not have the session"
                    if known
                    else f"this node was told layout {pipeline.layout}, not {message.layout}"
                )
                self._unknown_session(message, text)
            for held in pipeline.stages.values():
                for number in self._rings.opener.expired(held, now_ms):
                    text = f"session {number}: not spoken of for long, its memory is free"
                    self._do(events.Note(logging.INFO, text))
                    self._rings.opener.close(held, number)
