"""A virtual node: the real core and wire format, with runs that take virtual time."""

from collections.abc import Mapping
from random import Random

from maille_node import events
from maille_node.core import CoreSettings, NodeCore
from maille_node.events import Action, Event
from maille_node.feeding import Feeder
from maille_node.language.service import STAGE_MESSAGES
from maille_protocol import (
    Envelope,
    ErrorCode,
    Measured,
    ModelFormat,
    NodeInfo,
    NodeKind,
    NodeState,
    Offers,
    StageReport,
    Tokens,
    topics,
    unpack,
)
from maille_protocol.limits import MAX_PUBLISH_BYTES
from maille_protocol.topics import Party, Topic
from maille_simulator.virtual.broker import VirtualBroker
from maille_simulator.virtual.language.run import LanguageRun
from maille_simulator.virtual.language.stages import VirtualStages
from maille_simulator.virtual.ledger import Ledger, answer_to
from maille_simulator.virtual.process import Process
from maille_simulator.virtual.profile import NodeProfile, VirtualModel
from maille_simulator.virtual.recorder import Recorder
from maille_simulator.virtual.schedule import Schedule
from maille_simulator.virtual.violation import Violation

FETCH_MS = 5.0
"""For an input that is not in the offer."""


class VirtualNode(Process):
    """One process from its start to its end.

    Args:
        schedule: the virtual clock.
        broker: the mesh's broker.
        identity: the node's id.
        random: for heartbeats, back-off, boot and the times of runs.
        profile: its machine.
        models: by SHA-256.
        ledger: the run's account.
        recorder: takes what the report shows, or None.
        language: what this node holds slices of, or None.
    """

    def __init__(
        self,
        schedule: Schedule,
        broker: VirtualBroker,
        identity: str,
        random: Random,
        *,
        profile: NodeProfile,
        models: Mapping[bytes, VirtualModel],
        ledger: Ledger,
        recorder: Recorder | None = None,
        language: LanguageRun | None = None,
    ) -> None:
        super().__init__(schedule, broker, Party.NODE, identity, random)
        self.boot = random.getrandbits(63) | 1
        self.profile = profile
        self.sick = False
        """Whether every run fails by the node's fault."""
        self._models = models
        self._ledger = ledger
        self._recorder = recorder
        self._clock_ms = random.random() * 1e9
        self._obeyed = 0
        self._wake_ms: float | None = None
        self._loaded: set[bytes] = set()
        self._running: dict[int, events.RunBatch] = {}
        memory_bytes = 0 if language is None else language.plan.memory_bytes
        info = NodeInfo(
            NodeKind.SIMULATED,
            identity,
            "virtual",
            profile.slots,
            (ModelFormat.ONNX,) if language is None else (ModelFormat.ONNX, ModelFormat.SLICE),
            MAX_PUBLISH_BYTES,
            Measured(cores=profile.cores, memory_bytes=memory_bytes),
        )
        self.core = NodeCore(
            CoreSettings(
                info=info, boot=self.boot, workers=profile.workers, max_batch=profile.max_batch
            ),
            jitter=self._jitter,
            now_ms=self.now_ms,
        )
        self._feeder: Feeder[Event, Action] = Feeder(
            self.core.handle, self._carry_out, lambda: self.now_ms
        )
        self.stages = None if language is None else self._new_stages(language)
        """The slices that it holds, if it may hold any."""
        self.connect()
        self.feed(events.Tick())

    @property
    def now_ms(self) -> float:
        """This machine's own clock; no two agree."""
        return self._schedule.now_ms + self._clock_ms

    def _jitter(self) -> float:
        return 2 * self.random.random() - 1

    def _new_stages(self, language: LanguageRun) -> VirtualStages:
        return VirtualStages(
            self.identity,
            self.boot,
            plan=language.plan,
            layer_us=language.plan.model.layer_us / self.profile.speed,
            disk=language.disk(self.identity),
            now_ms=lambda: self.now_ms,
            later=self.later,
            say=self._say_of_stage,
            send=lambda node, payload: self.send(topics.NODE_ACTIVATION, node, payload),
            on_serving=lambda count: self.feed(events.StagesServed(count)),
            sick=lambda: self.sick,
        )

    def _say_of_stage(self, message: StageReport | Tokens) -> None:
        topic = topics.NODE_TOKENS if isinstance(message, Tokens) else topics.NODE_STAGE_REPORT
        self.feed(events.Speak(topic, message))

    # --- the connection --------------------------------------------------------------------

    def will(self) -> tuple[Topic, bytes] | None:
        """See `Process`."""
        return topics.NODE_STATE, self.core.will()

    def came_up(self) -> None:
        """See `Process`."""
        self.feed(events.LinkUp())

    def went_down(self, reason: str) -> None:
        """See `Process`."""
        self.feed(events.LinkDown(reason))

    def take(self, topic: Topic, _identity: str, payload: bytes, _retained: bool) -> None:
        """See `Process`."""
        if not payload:
            return
        envelope = unpack(payload, frozenset({topic.message}))
        if topic.message in STAGE_MESSAGES:
            if self.stages is not None:
                self.stages.heard(envelope)
            return
        if envelope.epoch >= self._obeyed:
            self._obeyed = envelope.epoch
            self.feed(events.Heard((envelope,)))
        else:
            self._take_stale(envelope)

    def _take_stale(self, envelope: Envelope) -> None:
        """What an older coordinator says must change nothing."""
        before, state = set(self.core.held), self.core.state
        self.feed(events.Heard((envelope,)))
        added = self.core.held.keys() - before
        if added or self.core.state is not state:
            text = f"{self.identity} obeys epoch {envelope.epoch} after {self._obeyed}"
            raise Violation("no older epoch takes effect", text)
        if not isinstance(envelope.message, Offers) and before - self.core.held.keys():
            now_ms = self.now_ms
            text = f"{self.identity} forgets a task for epoch {envelope.epoch} at {now_ms}"
            raise Violation("no older epoch takes effect", text)

    # --- the core --------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """Hand an event to the core and carry out what it wants, without nesting."""
        if not self._feeder.feed(event):
            return
        if self.core.held_count > self.profile.slots + 1:
            text = f"{self.identity} holds {self.core.held_count}, it has {self.profile.slots}"
            raise Violation("slots are respected", text)

    def _carry_out(self, action: Action) -> None:
        match action:
            case events.Publish(topic=topic, payload=payload, results=results):
                if not self.send(topic, self.identity, payload) and results:
                    self.feed(events.NotPublished(results))
            case events.WakeAt(at_ms=at_ms):
                self._wake_ms = at_ms
                self.later(at_ms - self.now_ms + 0.01, self._wake, at_ms)
            case events.RunBatch():
                self._run(action)
            case events.Prepare(model=model):
                if model.sha256 in self._loaded:
                    self.feed(events.ModelReady(model.sha256, joinable=False))
                else:
                    load_ms = self._models[model.sha256].load_ms / self.profile.speed
                    self.later(load_ms, self._loaded_model, model.sha256)
            case events.FetchInput(task_id=task_id):
                self.later(FETCH_MS, self.feed, events.InputReady(task_id))
            case events.AbortBatch(batch=batch):
                self._end_batch(batch)
            case events.Stop():
                self.end(gracefully=True)
            case _:
                pass  # notes, releases: nothing to be done in virtual time

    def _wake(self, at_ms: float) -> None:
        if at_ms == self._wake_ms:
            self._wake_ms = None
            self.feed(events.Tick())

    def _loaded_model(self, sha256: bytes) -> None:
        self._loaded.add(sha256)
        self.feed(events.ModelReady(sha256, joinable=False))

    # --- runs ------------------------------------------------------------------------------

    def _run(self, order: events.RunBatch) -> None:
        model = self._models[order.sha256]
        self._running[order.batch] = order
        if len(self._running) > self.profile.workers:
            text = f"{self.identity} runs {len(self._running)} batches"
            raise Violation("slots are respected", text)
        ends: list[events.RunEnd] = []
        took_ms = self.profile.overhead_ms
        for item in order.items:
            self._ledger.started(self.identity, item.task_id, item.content)
            run_ms = self.profile.run_ms(model, self.random)
            if self._recorder is not None:
                start_ms = self._schedule.now_ms + took_ms
                self._recorder.attempt(self.identity, item.task_id, start_ms, start_ms + run_ms)
            took_ms += run_ms
            code, content = ErrorCode.NONE, answer_to(item.content)
            if self.sick:
                code, content = ErrorCode.NODE_ERROR, b"sick"
            elif model.broken:
                code, content = ErrorCode.MODEL_ERROR, b"broken"
            ends.append(events.RunEnd(item.task_id, code, content, int(run_ms * 1000)))
        self.later(took_ms, self._end_batch, order.batch, tuple(ends))

    def _end_batch(self, batch: int, ends: tuple[events.RunEnd, ...] = ()) -> None:
        if self._running.pop(batch, None) is None:
            return
        self.feed(events.BatchEnded(batch, ends, joinable=False))

    # --- faults ----------------------------------------------------------------------------

    def leave(self, timeout_ms: float) -> None:
        """As SIGTERM: finish what is held, then end."""
        self._guarded(self.feed, (events.DrainRequested(timeout_ms),))

    def read_battery(self, percent: int) -> None:
        """The machine's battery is at this level."""
        self._guarded(self.feed, (events.BatteryRead(percent),))

    @property
    def answers(self) -> bool:
        """Whether this process is there, connected and wants work."""
        running = self.alive and not self.stopped and self.is_up
        return running and self.core.state is NodeState.READY
