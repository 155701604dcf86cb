"""The decisions of a node about its slices: orders, layouts, reports. No I/O, no clock, no chance.

`StageCore.handle` is the only mutator. `rings` holds what becomes of activations; the rules are
those of docs/decisions/0006-token-slices.md.
"""

import logging
from collections.abc import Callable

from maille_node.language import stage_events as events
from maille_node.language.rings import Pipeline, Rings
from maille_node.language.sessions import HeldStage
from maille_node.language.stage_events import SliceFacts, StageAction, StageEvent
from maille_node.language.waiting import Early, Repeats
from maille_protocol import (
    Activation,
    ErrorCode,
    Reference,
    Route,
    SessionCommand,
    SessionOrder,
    StageCommand,
    StageOrder,
    StageReport,
    StageState,
)

__all__ = ["StageCore"]

MAX_STAGES = 64
MAX_PIPELINES = 256
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
        self._pipelines: dict[int, Pipeline] = {}
        self._facts: dict[bytes, SliceFacts | None] = {}
        """Slices loaded, or None while they load."""
        self._measuring: dict[bytes, list[StageOrder]] = {}
        self._repeats = Repeats()
        self._epoch = 0
        self._wake_at_ms = float("inf")
        self._sweep_at_ms = float("inf")

    # --- what the shell may ask ----------------------------------------------------------------

    @property
    def serving(self) -> int:
        """Stages with sessions that a layout still gives to this node."""
        return sum(
            bool(held.sessions) and self._rings.is_named(pipeline, held)
            for pipeline in self._pipelines.values()
            for held in pipeline.stages.values()
        )

    @property
    def stage_count(self) -> int:
        """Stages held, loaded or loading."""
        return sum(len(pipeline.stages) for pipeline in self._pipelines.values())

    @property
    def session_count(self) -> int:
        """Sessions open on all stages together."""
        return sum(
            len(held.sessions)
            for pipeline in self._pipelines.values()
            for held in pipeline.stages.values()
        )

    @property
    def unfilled_bytes(self) -> int:
        """Promised to open sessions and not yet taken from the system."""
        return sum(
            held.reserved_bytes() - held.filled_bytes()
            for pipeline in self._pipelines.values()
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
                    self._hear(envelope.message, envelope.epoch, now_ms)
            case events.Computed():
                self._rings.computed(event, now_ms)
            case events.SliceReady(sha256=sha256, facts=facts):
                self._slice_ready(sha256, facts)
            case events.SliceFailed(sha256=sha256, code=code, text=text):
                self._slice_failed(sha256, code, text)
            case events.Tick():
                self._wake_at_ms = float("inf")
                self._rings.tick(now_ms)
        while self._rings.local:
            self._activation(
                Early(self._rings.local.popleft(), now_ms + self._rings.wait_ms), now_ms
            )
        if now_ms >= self._sweep_at_ms:
            self._sweep(now_ms)
        self._ask_to_be_woken(now_ms)
        taken = self._actions[:]
        self._actions.clear()
        return taken

    def _ask_to_be_woken(self, now_ms: float) -> None:
        rings = self._rings
        if self._sweep_at_ms == float("inf") and (self.session_count or self._waiting_count()):
            self._sweep_at_ms = now_ms + SWEEP_MS
        wanted_ms = min(self._sweep_at_ms, rings.resume_at_ms)
        if wanted_ms < self._wake_at_ms:
            self._wake_at_ms = wanted_ms
            self._do(events.WakeAt(wanted_ms))

    def _waiting_count(self) -> int:
        return sum(len(pipeline.waiting) for pipeline in self._pipelines.values())

    def _do(self, action: StageAction) -> None:
        self._actions.append(action)

    # --- messages ------------------------------------------------------------------------------

    def _hear(self, message: object, epoch: int, now_ms: float) -> None:
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
        match message:
            case StageOrder():
                self._stage_order(message)
            case Route():
                self._route(message, epoch, now_ms)
            case SessionOrder():
                self._session_order(Early(message, now_ms + self._rings.wait_ms), now_ms)

    def _activation(self, early: Early, now_ms: float) -> None:
        activation = early.message
        if not isinstance(activation, Activation):
            raise TypeError("an activation is expected")
        pipeline = self._pipelines.get(activation.pipeline)
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
        elif activation.session in held.sessions and self._rings.is_named(pipeline, held):
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

    def _pipeline(self, number: int) -> Pipeline | None:
        """The pipeline, made if need be; None if there are too many."""
        pipeline = self._pipelines.get(number)
        if pipeline is None:
            if len(self._pipelines) >= MAX_PIPELINES:
                idle = next((found for found in self._pipelines.values() if not found.stages), None)
                if idle is None:
                    return None
                del self._pipelines[idle.number]
            pipeline = self._pipelines[number] = Pipeline(number)
        return pipeline

    def _route(self, route: Route, epoch: int, now_ms: float) -> None:
        pipeline = self._pipeline(route.pipeline)
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

    # --- slices --------------------------------------------------------------------------------

    def _stage_order(self, order: StageOrder) -> None:
        match order.command:
            case StageCommand.PING:
                self._report(order, StageState.PONG)
            case StageCommand.UNLOAD:
                self._unload(order)
            case StageCommand.LOAD | StageCommand.MEASURE:
                if order.slice is None:
                    text = "the order names no slice; send its SHA-256 and size"
                    self._report(order, StageState.FAILED, ErrorCode.INPUT_MALFORMED, text)
                elif order.command is StageCommand.LOAD:
                    self._load(order, order.slice)
                else:
                    self._measure(order, order.slice)

    def _load(self, order: StageOrder, reference: Reference) -> None:
        pipeline = self._pipeline(order.pipeline)
        held = None if pipeline is None else pipeline.stages.get(order.stage)
        if pipeline is None or (held is None and self.stage_count >= MAX_STAGES):
            text = f"this node holds {self.stage_count} stages; unload one first"
            self._report(order, StageState.FAILED, ErrorCode.BUSY, text)
            return
        if held is not None and held.reference != reference:
            self._drop_stage(pipeline, held)
            held = None
        if held is None:
            held = HeldStage(
                order.pipeline, order.stage, reference, order.cache_limit_bytes, order.nonce
            )
            pipeline.stages[order.stage] = held
        held.cache_limit_bytes = order.cache_limit_bytes
        held.nonce = order.nonce
        facts = self._want(reference)
        if facts is None:
            self._report(order, StageState.LOADING)
        else:
            held.facts = facts
            self._say_ready(order, StageState.READY, facts)

    def _measure(self, order: StageOrder, reference: Reference) -> None:
        facts = self._want(reference)
        if facts is not None:
            self._say_ready(order, StageState.MEASURED, facts)
            self._drop_slice_unless_used(reference)
            return
        waiting = self._measuring.setdefault(reference.sha256, [])
        if len(waiting) < MAX_STAGES:
            waiting.append(order)
        self._report(order, StageState.LOADING)

    def _want(self, reference: Reference) -> SliceFacts | None:
        """What is known of a slice; if it is not here, it is asked for."""
        if reference.sha256 not in self._facts:
            self._facts[reference.sha256] = None
            self._do(events.LoadSlice(reference))
        return self._facts[reference.sha256]

    def _slice_ready(self, sha256: bytes, facts: SliceFacts) -> None:
        if sha256 not in self._facts:
            return  # nobody wants it any more, and the shell was told so
        self._facts[sha256] = facts
        for pipeline in self._pipelines.values():
            for held in pipeline.stages.values():
                if held.reference.sha256 == sha256 and held.facts is None:
                    held.facts = facts
                    self._say_ready(held, StageState.READY, facts)
        for order in self._measuring.pop(sha256, ()):
            self._say_ready(order, StageState.MEASURED, facts)
        self._drop_slice_unless_used(Reference(sha256, 0))

    def _slice_failed(self, sha256: bytes, code: ErrorCode, text: str) -> None:
        if sha256 not in self._facts:
            return
        del self._facts[sha256]
        for pipeline in self._pipelines.values():
            for held in list(pipeline.stages.values()):
                if held.reference.sha256 == sha256:
                    self._report(held, StageState.FAILED, code, text)
                    del pipeline.stages[held.stage]
        for order in self._measuring.pop(sha256, ()):
            self._report(order, StageState.FAILED, code, text)

    def _unload(self, order: StageOrder) -> None:
        pipeline = self._pipelines.get(order.pipeline)
        held = None if pipeline is None else pipeline.stages.get(order.stage)
        if pipeline is not None and held is not None:
            self._drop_stage(pipeline, held)
        if pipeline is not None and not pipeline.stages:
            del self._pipelines[pipeline.number]
        self._report(order, StageState.GONE)

    def _drop_stage(self, pipeline: Pipeline, held: HeldStage) -> None:
        for number in list(held.sessions):
            self._rings.close(held, number)
        del pipeline.stages[held.stage]
        self._drop_slice_unless_used(held.reference)

    def _drop_slice_unless_used(self, reference: Reference) -> None:
        sha256 = reference.sha256
        used = sha256 in self._measuring or any(
            held.reference.sha256 == sha256
            for pipeline in self._pipelines.values()
            for held in pipeline.stages.values()
        )
        if not used and sha256 in self._facts:
            del self._facts[sha256]
            self._do(events.DropSlice(sha256))

    def _say_ready(
        self, order: StageOrder | HeldStage, state: StageState, facts: SliceFacts
    ) -> None:
        self._do(
            events.Say(
                StageReport(
                    state,
                    order.pipeline,
                    order.stage,
                    order.nonce,
                    decode_us=facts.decode_us,
                    prefill_us=facts.prefill_us,
                    resident_bytes=facts.resident_bytes,
                    free_bytes=self._free_bytes(),
                    fingerprint=facts.fingerprint,
                )
            )
        )

    def _report(
        self,
        order: StageOrder | HeldStage,
        state: StageState,
        code: ErrorCode = ErrorCode.NONE,
        text: str = "",
    ) -> None:
        if code is not ErrorCode.NONE:
            where = f"stage {order.stage} of pipeline {order.pipeline}"
            self._do(events.Note(logging.WARNING, f"{where}: {text}"))
        self._do(
            events.Say(
                StageReport(
                    state,
                    order.pipeline,
                    order.stage,
                    order.nonce,
                    code,
                    text[:1000],
                    free_bytes=self._free_bytes(),
                )
            )
        )

    # --- sessions ------------------------------------------------------------------------------

    def _session_order(self, early: Early, now_ms: float) -> None:
        order = early.message
        if not isinstance(order, SessionOrder):
            raise TypeError("a session order is expected")
        pipeline = self._pipelines.get(order.pipeline)
        if pipeline is None or not pipeline.stages:
            if order.command is not SessionCommand.CLOSE:
                self._unknown_session(order, "this node holds no stage of the pipeline")
            return
        if order.command is SessionCommand.CLOSE:
            pipeline.forget(order.session)
            for stage in pipeline.stages.values():
                self._rings.close(stage, order.session)
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
            pipeline.closed.pop(order.session, None)
            self._rings.open(pipeline, held, order, now_ms)
            self._hear_early(pipeline, now_ms)
        elif order.session not in held.sessions:
            if order.session in pipeline.closed:
                self.counters.unknown += 1
            else:
                self._let_wait(pipeline, early, now_ms)
        else:
            self._rings.repair(pipeline, held, order, now_ms)

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
        for pipeline in self._pipelines.values():
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
                for number in self._rings.expired(held, now_ms):
                    text = f"session {number}: nothing heard for two minutes, its memory is free"
                    self._do(events.Note(logging.INFO, text))
                    self._rings.close(held, number)
