"""The decisions of a PC node: presence, orders, epochs, stopping. No I/O, no clock, no chance.

`NodeCore.handle` is the only mutator. `tasks` holds what becomes of offers, `voice` what is said.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from maille_node import events
from maille_node.events import Action, Event, StopReason
from maille_node.tasks import NodeTasks
from maille_node.voice import Voice
from maille_node.work import Held
from maille_protocol import (
    BoardState,
    Cancel,
    Control,
    ControlOrder,
    CoordinatorState,
    Envelope,
    ErrorCode,
    NodeInfo,
    NodeState,
    Offers,
    TaskFlag,
)


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """What the core must know of its node."""

    info: NodeInfo
    boot: int
    """Random and not 0, drawn when the process starts."""
    workers: int
    """Batches that may run at the same time."""
    max_batch: int


class NodeCore:
    """One node's decisions; see the module's text.

    Args:
        settings: constants of this process.
        jitter: gives numbers from -1 to 1 that spread heartbeats.
        now_ms: the time of the start.
    """

    def __init__(
        self, settings: CoreSettings, *, jitter: Callable[[], float], now_ms: float
    ) -> None:
        self._voice = Voice(settings.info, settings.boot, jitter=jitter, now_ms=now_ms)
        self._tasks = NodeTasks(self._voice, workers=settings.workers, max_batch=settings.max_batch)
        self._stages_served = 0
        self._http_url = ""
        self._coordinator_online = False
        self._drained_by_order = False
        self._order_boot = 0
        self._order_seq = 0
        """Of the last order: a copy of an earlier one must not undo it."""
        self._stopping = False
        self._stopped = False
        self._stop_at_ms = 0.0

    # --- what the shell may ask ----------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The newest epoch obeyed."""
        return self._voice.epoch

    @property
    def state(self) -> NodeState:
        """What the node says of itself."""
        if self._stopped:
            return NodeState.DISCONNECTED
        draining = self._stopping or self._drained_by_order
        return NodeState.DRAINING if draining else NodeState.READY

    @property
    def held_count(self) -> int:
        """Tasks accepted and not yet answered."""
        return len(self._tasks.held)

    @property
    def held(self) -> Mapping[bytes, Held]:
        """Those tasks by id, to look at."""
        return self._tasks.held

    def remaining_ms(self, task_id: bytes, now_ms: float) -> int:
        """Until the deadline of a held task; 0 if it has passed or the task is not held."""
        held = self._tasks.held.get(task_id)
        return 0 if held is None else max(0, round(held.deadline_ms - now_ms))

    def is_at_most_once(self, task_id: bytes) -> bool:
        """Whether a held task must never run twice."""
        held = self._tasks.held.get(task_id)
        return held is not None and held.at_most_once

    def set_board(self, state: BoardState) -> None:
        """What the node's board has from now on; said with every birth."""
        self._voice.board = state

    def will(self) -> bytes:
        """What the broker is to publish on the state topic when the node vanishes."""
        return self._voice.will()

    # --- the one mutator -----------------------------------------------------------------------

    def handle(self, event: Event, now_ms: float) -> list[Action]:
        """Take in what happened; what must be done now, in this order."""
        if self._stopped:
            return []
        voice, tasks = self._voice, self._tasks
        match event:
            case events.Speak(topic=topic, message=message):
                if voice.up:
                    voice.publish(topic, message)
                return voice.taken()
            case events.Heard(envelopes=envelopes):
                for envelope in envelopes:
                    self._hear(envelope, now_ms)
            case events.BatchEnded():
                tasks.batch_ended(event, now_ms)
            case events.Tick():
                self._tick(now_ms)
            case events.LinkUp():
                voice.up = True
                self._birth(now_ms)
            case events.LinkDown(reason=reason):
                voice.up = False
                voice.warn(f"the broker is gone ({reason}); reconnecting")
            case events.BatteryRead(percent=percent):
                voice.battery_percent = percent
            case events.ModelReady(sha256=sha256, joinable=joinable):
                tasks.model_ready(sha256, joinable=joinable)
            case events.ModelFailed(sha256=sha256, code=code, text=text):
                tasks.model_failed(sha256, code, text, now_ms)
            case events.ModelForgotten(sha256=sha256):
                tasks.warm.pop(sha256, None)
            case events.InputReady(task_id=task_id):
                tasks.input_ready(task_id)
            case events.InputFailed(task_id=task_id, code=code, text=text):
                tasks.input_failed(task_id, code, text, now_ms)
            case events.Uploaded(task_id=task_id, reference=reference):
                tasks.uploaded(task_id, reference, now_ms)
            case events.UploadFailed(task_id=task_id, code=code, text=text):
                tasks.upload_failed(task_id, code, text, now_ms)
            case events.NotPublished(results=results):
                tasks.not_published(results)
                # Sent again after the next event, not at once: the link is full.
                return voice.taken()
            case events.StagesServed(count=count):
                self._stages_served = count
            case events.DrainRequested(timeout_ms=timeout_ms):
                self._drain_requested(timeout_ms, now_ms)
        if not self._stopped:
            tasks.dispatch(now_ms)
            tasks.send_results()
            self._stop_if_done(now_ms)
        return voice.taken()

    # --- messages ------------------------------------------------------------------------------

    def _hear(self, envelope: Envelope, now_ms: float) -> None:
        voice, tasks = self._voice, self._tasks
        message = envelope.message
        stale = envelope.epoch < voice.epoch
        newer = envelope.epoch > voice.epoch
        if newer:
            voice.epoch = envelope.epoch
        match message:
            case Offers(model=model, offers=offers):
                accepting = self.state is NodeState.READY
                for offer in offers:
                    if offer.flags & TaskFlag.AT_MOST_ONCE and offer.boot != voice.boot:
                        # Another process with this id may run it. A refusal by this one would
                        # say nothing of that, so it says nothing at all.
                        continue
                    if stale:
                        text = f"epoch {envelope.epoch} is over, this node obeys {voice.epoch}"
                        tasks.refuse(offer, envelope.epoch, ErrorCode.STALE_EPOCH, text)
                    else:
                        tasks.offered(model, offer, now_ms, accepting=accepting)
            case Cancel(attempts=attempts) if not stale:
                for task_id, attempt in attempts:
                    tasks.cancelled(task_id, attempt, now_ms)
            case ControlOrder() if not stale:
                if envelope.boot != self._order_boot or envelope.seq > self._order_seq:
                    self._order_boot, self._order_seq = envelope.boot, envelope.seq
                    self._ordered(message, now_ms)
            case CoordinatorState() if not stale:
                self._coordinator_state(message, now_ms, newer=newer)
            case _:
                return
        if newer and voice.up:
            # A coordinator that has just started learns at once what runs here.
            voice.heartbeat(tasks.held.values(), tasks.warm, now_ms, everything=True)

    def _coordinator_state(self, state: CoordinatorState, now_ms: float, *, newer: bool) -> None:
        voice = self._voice
        if state.http_url != self._http_url and state.online:
            self._http_url = state.http_url
            voice.do(events.UseCoordinator(state.http_url))
        if state.online:
            if newer or not self._coordinator_online:
                voice.note(logging.INFO, f"coordinator found, epoch {voice.epoch}")
            self._tasks.send_again(now_ms)
        elif self._coordinator_online:
            voice.warn("the coordinator is gone; waiting for it")
        self._coordinator_online = state.online

    def _ordered(self, order: ControlOrder, now_ms: float) -> None:
        voice = self._voice
        if order.boot not in {0, voice.boot}:
            return
        match order.command:
            case Control.REBIRTH:
                if voice.up:
                    self._birth(now_ms)
            case Control.DRAIN | Control.RESUME:
                wanted = order.command is Control.DRAIN
                if wanted != self._drained_by_order and not self._stopping:
                    self._drained_by_order = wanted
                    what = "draining" if wanted else "resuming"
                    voice.note(logging.INFO, f"{what}: {order.reason}")
                    voice.say_state(self.state, order.reason)
            case Control.STOP_DUPLICATE:
                if order.boot == voice.boot:
                    self._stopped = True
                    reason = f" ({order.reason})" if order.reason else ""
                    text = (
                        f"another node with this id is in the mesh{reason}: "
                        "stop the other one, or give this one another id (`maille node --id ...`)"
                    )
                    # No farewell on the state topic: it belongs to the other node.
                    voice.do(events.Stop(StopReason.DUPLICATE, text))

    # --- presence ------------------------------------------------------------------------------

    def _birth(self, now_ms: float) -> None:
        tasks = self._tasks
        self._voice.birth(self.state, tasks.held.values(), tasks.warm, now_ms)

    def _tick(self, now_ms: float) -> None:
        voice, tasks = self._voice, self._tasks
        tasks.tick(now_ms)
        if now_ms >= voice.heartbeat_at_ms:
            voice.heartbeat(tasks.held.values(), tasks.warm, now_ms)
        elif not self._stopping:
            voice.do(events.WakeAt(voice.heartbeat_at_ms))
        if self._stopping:
            voice.do(events.WakeAt(min(voice.heartbeat_at_ms, self._stop_at_ms)))

    # --- stopping ------------------------------------------------------------------------------

    def _drain_requested(self, timeout_ms: float, now_ms: float) -> None:
        voice = self._voice
        if self._stopping:
            self._stop_at_ms = now_ms
            return
        self._stopping = True
        self._stop_at_ms = now_ms + timeout_ms
        if self.held_count or self._stages_served:
            text = (
                f"draining: {self.held_count} tasks to finish and {self._stages_served} stages to "
                f"hand over within {timeout_ms / 1000:.0f} s"
            )
            voice.note(logging.INFO, text)
        voice.do(events.WakeAt(min(voice.heartbeat_at_ms, self._stop_at_ms)))
        voice.say_state(self.state, "stopping")

    def _stop_if_done(self, now_ms: float) -> None:
        if not self._stopping:
            return
        given_up, stages = self.held_count, self._stages_served
        if given_up or stages:
            if now_ms < self._stop_at_ms:
                return
            self._tasks.give_back_all(now_ms)
            self._tasks.send_results()
        self._stopped = True
        self._voice.say_state(self.state, "stopped")
        if given_up or stages:
            text = f"stopped with {given_up} tasks unfinished; they were given back"
            if stages:
                text += f"; {stages} stages of language models were not taken over in time"
            self._voice.do(events.Stop(StopReason.STOPPED, text))
        else:
            self._voice.do(events.Stop(StopReason.DRAINED, "everything held was finished"))
