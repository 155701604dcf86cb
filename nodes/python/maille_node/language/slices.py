"""The slices of a node: orders to load, measure and drop them, and what is told of that."""

import logging
from collections import OrderedDict
from collections.abc import Callable

from maille_node.language import stage_events as events
from maille_node.language.opening import Opener
from maille_node.language.pipelines import Pipeline
from maille_node.language.sessions import HeldStage
from maille_node.language.stage_events import SliceFacts, StageAction
from maille_node.language.waiting import Sent
from maille_protocol import ErrorCode, Reference, StageCommand, StageOrder, StageReport, StageState

__all__ = ["Slices"]

MAX_STAGES = 64
MAX_PIPELINES = 256
MAX_MEASURED = 256
MAX_UNLOADED = 256


class Slices:
    """What is loaded for which stages. Belongs to a `StageCore`.

    Args:
        actions: of the core.
        opener: closes the sessions of a stage that is dropped.
        free_bytes: memory that could still be given to slices and caches.
    """

    def __init__(
        self, actions: list[StageAction], opener: Opener, free_bytes: Callable[[], int]
    ) -> None:
        self._actions = actions
        self._opener = opener
        self._free_bytes = free_bytes
        self._facts: dict[bytes, SliceFacts | None] = {}
        """Slices loaded, or None while they load."""
        self._measuring: dict[bytes, list[StageOrder]] = {}
        self._measured: OrderedDict[bytes, SliceFacts] = OrderedDict()
        """What this process has measured: a coordinator that asks again need not wait."""
        self._unloaded: OrderedDict[tuple[int, int], Sent] = OrderedDict()
        """Stages lately dropped, and by which order."""
        self.pipelines: dict[int, Pipeline] = {}

    @property
    def stage_count(self) -> int:
        """Stages held, loaded or loading."""
        return sum(len(pipeline.stages) for pipeline in self.pipelines.values())

    def pipeline(self, number: int) -> Pipeline | None:
        """The pipeline, made if need be; None if there are too many."""
        pipeline = self.pipelines.get(number)
        if pipeline is None:
            if len(self.pipelines) >= MAX_PIPELINES:
                idle = next((found for found in self.pipelines.values() if not found.stages), None)
                if idle is None:
                    return None
                del self.pipelines[idle.number]
            pipeline = self.pipelines[number] = Pipeline(number)
        return pipeline

    def order(self, order: StageOrder, sent: Sent) -> bool:
        """Do what the coordinator wants of a slice, unless it has sent the contrary since."""
        place = order.pipeline, order.stage
        match order.command:
            case StageCommand.PING:
                self._report(order, StageState.PONG)
            case StageCommand.UNLOAD:
                pipeline = self.pipelines.get(order.pipeline)
                held = None if pipeline is None else pipeline.stages.get(order.stage)
                if held is not None and sent.overtaken_by(held.sent):
                    return False
                self._unloaded[place] = sent
                if len(self._unloaded) > MAX_UNLOADED:
                    self._unloaded.popitem(last=False)
                self._unload(order)
            case StageCommand.LOAD if sent.overtaken_by(self._unloaded.get(place)):
                return False
            case StageCommand.LOAD | StageCommand.MEASURE:
                if order.slice is None:
                    text = "the order names no slice; send its SHA-256 and size"
                    self._report(order, StageState.FAILED, ErrorCode.INPUT_MALFORMED, text)
                elif order.command is StageCommand.LOAD:
                    self._load(order, order.slice, sent)
                else:
                    self._measure(order, order.slice)
        return True

    def _load(self, order: StageOrder, reference: Reference, sent: Sent) -> None:
        pipeline = self.pipeline(order.pipeline)
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
                order.pipeline, order.stage, reference, order.cache_limit_bytes, order.nonce, sent
            )
            pipeline.stages[order.stage] = held
        held.cache_limit_bytes = order.cache_limit_bytes
        held.nonce = order.nonce
        held.sent = sent
        facts = self._want(reference)
        if facts is None:
            self._report(order, StageState.LOADING)
        else:
            held.facts = facts
            self._say_ready(order, StageState.READY, facts)

    def _measure(self, order: StageOrder, reference: Reference) -> None:
        facts = self._measured.get(reference.sha256)
        if facts is not None:
            self._say_ready(order, StageState.MEASURED, facts)
            return
        self._want(reference)
        waiting = self._measuring.setdefault(reference.sha256, [])
        if len(waiting) < MAX_STAGES:
            waiting.append(order)
        self._report(order, StageState.LOADING)

    def _want(self, reference: Reference) -> SliceFacts | None:
        """What is known of a slice; if it is not here, it is asked for."""
        if reference.sha256 not in self._facts:
            self._facts[reference.sha256] = None
            self._actions.append(events.LoadSlice(reference))
        return self._facts[reference.sha256]

    def ready(self, sha256: bytes, facts: SliceFacts) -> None:
        """A slice is in memory and measured."""
        if sha256 not in self._facts:
            return  # nobody wants it any more, and the shell was told so
        self._facts[sha256] = facts
        self._measured[sha256] = facts
        if len(self._measured) > MAX_MEASURED:
            self._measured.popitem(last=False)
        for pipeline in self.pipelines.values():
            for held in pipeline.stages.values():
                if held.reference.sha256 == sha256 and held.facts is None:
                    held.facts = facts
                    self._say_ready(held, StageState.READY, facts)
        for order in self._measuring.pop(sha256, ()):
            self._say_ready(order, StageState.MEASURED, facts)
        self._drop_slice_unless_used(Reference(sha256, 0))

    def failed(self, sha256: bytes, code: ErrorCode, text: str) -> None:
        """A slice cannot be had."""
        if sha256 not in self._facts:
            return
        del self._facts[sha256]
        for pipeline in self.pipelines.values():
            for held in list(pipeline.stages.values()):
                if held.reference.sha256 == sha256:
                    self._report(held, StageState.FAILED, code, text)
                    del pipeline.stages[held.stage]
        for order in self._measuring.pop(sha256, ()):
            self._report(order, StageState.FAILED, code, text)

    def _unload(self, order: StageOrder) -> None:
        pipeline = self.pipelines.get(order.pipeline)
        held = None if pipeline is None else pipeline.stages.get(order.stage)
        if pipeline is not None and held is not None:
            self._drop_stage(pipeline, held)
        if pipeline is not None and not pipeline.stages:
            del self.pipelines[pipeline.number]
        self._report(order, StageState.GONE)

    def _drop_stage(self, pipeline: Pipeline, held: HeldStage) -> None:
        for number in [*held.sessions, *held.kept]:
            self._opener.close(held, number)
        del pipeline.stages[held.stage]
        self._drop_slice_unless_used(held.reference)

    def _drop_slice_unless_used(self, reference: Reference) -> None:
        sha256 = reference.sha256
        used = sha256 in self._measuring or any(
            held.reference.sha256 == sha256
            for pipeline in self.pipelines.values()
            for held in pipeline.stages.values()
        )
        if not used and sha256 in self._facts:
            del self._facts[sha256]
            self._actions.append(events.DropSlice(sha256))

    def _say_ready(
        self, order: StageOrder | HeldStage, state: StageState, facts: SliceFacts
    ) -> None:
        self._actions.append(
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
            self._actions.append(events.Note(logging.WARNING, f"{where}: {text}"))
        self._actions.append(
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
