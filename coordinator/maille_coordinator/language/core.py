"""All decisions about language models: events in, actions out; no I/O, no clock."""

from functools import partial

from maille_coordinator.language.actions import Action, WakeAt
from maille_coordinator.language.arranging import Arranger
from maille_coordinator.language.events import (
    BrokerChanged,
    DrainAsked,
    Event,
    ModelAdded,
    ModelKey,
    ModelRemoved,
    NodeChanged,
    Restored,
    SessionAsked,
    SessionCancelled,
    SliceCut,
    StageReported,
    TimeReached,
    TokensCame,
)
from maille_coordinator.language.loading import Loader
from maille_coordinator.language.measuring import Measurer
from maille_coordinator.language.moving import Mover
from maille_coordinator.language.planning import Planner
from maille_coordinator.language.repair import Repairs
from maille_coordinator.language.sessions import Sessions
from maille_coordinator.language.spreading import Spreader
from maille_coordinator.language.state import (
    SPARED_MS,
    Counters,
    LanguageLimits,
    Model,
    Node,
    Pipeline,
    PipelineState,
    World,
)
from maille_coordinator.language.timers import Subject
from maille_coordinator.placement import Plan
from maille_protocol import ErrorCode, StageReport, StageState

_RINGS_MS = 2000.0
"""After a start, the nodes of a former ring are waited for so long before another one is planned."""


class LanguageCore:
    """All that a coordinator knows and decides about language models."""

    def __init__(self, *, epoch: int, limits: LanguageLimits | None = None) -> None:
        self._world = world = World(epoch, limits or LanguageLimits())
        self._measurer = Measurer(world)
        self._planner = Planner(world, self._measurer)
        self._loader = Loader(world, self._measurer, self._planner)
        self._repairs = Repairs(world, self._measurer)
        self._sessions = Sessions(world, self._repairs)
        self._arranger = Arranger(
            world, self._measurer, self._planner, self._loader, self._repairs, self._sessions
        )
        self._mover = Mover(world, self._planner, self._loader, self._repairs, self._arranger)
        self._arranger.mover = self._mover
        self._spreader = Spreader(world, self._measurer, self._planner)
        self._repairs.end = self._sessions.end
        self._repairs.put_back = self._sessions.put_back
        self._repairs.reload = self._arranger.reload
        self._repairs.replace = partial(self._mover.replace, silent=True)
        self._repairs.exclude = self._mover.replace
        self._sessions.checked = self._arranger.checked
        self._sessions.freed = self._freed
        self._sessions.token_came = partial(self._mover.hand_over, at_token=True)
        self._repairs.caught_up = self._mover.hand_over
        self._awake_at_ms = float("inf")

    # --- the one entry ---------------------------------------------------------------------

    def handle(self, event: Event, now_ms: float) -> list[Action]:
        """Take an event; what is returned must be done, in order."""
        world = self._world
        world.now_ms = now_ms
        match event:
            case TokensCame(node, tokens):
                self._heard(node)
                self._sessions.tokens(node, tokens)
            case StageReported(node, report):
                self._reported(node, report)
            case SessionAsked(start):
                self._sessions.ask(start)
            case SessionCancelled(session, finish):
                self._sessions.cancel(session, finish)
            case NodeChanged():
                self._node_changed(event)
            case ModelAdded():
                self._add_model(event)
            case ModelRemoved(key):
                self._remove_model(key)
            case SliceCut():
                self._slice_cut(event)
            case DrainAsked(name):
                if name in world.nodes:
                    self._leave(world.nodes[name])
            case BrokerChanged(connected):
                self._broker_changed(connected=connected)
            case Restored():
                for name, pipeline, stage in event.stages:
                    holder = self._node(name)
                    holder.spared_until_ms = now_ms + SPARED_MS
                    world.restore_leftover(holder, pipeline, stage)
                world.rings = {(ring.model, ring.version): ring for ring in event.rings}
                world.rings_until_ms = now_ms + _RINGS_MS
                self._sessions.restore(event.sessions)
            case TimeReached():
                self._awake_at_ms = float("inf")
        while (subject := world.timers.due(now_ms)) is not None:
            self._look(subject)
        wake_ms = world.timers.next_ms
        if wake_ms is not None and wake_ms < self._awake_at_ms:
            self._awake_at_ms = wake_ms
            world.add(WakeAt(wake_ms))
        return world.take()

    # --- what people and the shell may read --------------------------------------------------

    @property
    def models(self) -> dict[ModelKey, Model]:
        """By name and version."""
        return self._world.models

    @property
    def counters(self) -> Counters:
        """For /metrics."""
        return self._world.counters

    @property
    def open_sessions(self) -> int:
        """Generations that run or wait."""
        return len(self._world.sessions)

    @property
    def pipelines(self) -> dict[int, Pipeline]:
        """Those that are not closed."""
        return self._world.pipelines

    @property
    def spares_missing(self) -> int:
        """Slices that are still to be put on the disks of those that would take over."""
        return self._spreader.missing

    def sizes(self) -> dict[str, int]:
        """How much the core keeps, for tests and simulations that hold it to its bounds."""
        world = self._world
        return {
            "sessions": len(world.sessions),
            "handles": len(world.handles),
            "queued": sum(len(model.queue) for model in world.models.values()),
            "early": sum(len(waiting) for waiting in world.early.values()),
            "closing": self._sessions.closing,
            "pipelines": len(world.pipelines),
            "kept": sum(len(pipeline.kept) for pipeline in world.pipelines.values()),
            "leftovers": sum(len(node.leftovers) for node in world.nodes.values()),
            "timers": len(world.timers),
            "pings": sum(len(node.pings) for node in world.nodes.values()),
            "nodes": len(world.nodes),
        }

    def plan(self, key: ModelKey) -> Plan:
        """What would be arranged now, explained. PlacementImpossible, KeyError."""
        return self._planner.new(self._world.models[key], with_explanation=True)

    # --- events ----------------------------------------------------------------------------

    def _node(self, name: str) -> Node:
        return self._world.nodes.setdefault(name, Node(name))

    def _heard(self, name: str) -> None:
        node = self._world.nodes.get(name)
        if node is not None:
            self._answered(node)

    def _answered(self, node: Node) -> None:
        node.answered_ms = self._world.now_ms
        if node.silent:
            for key in node.silent:
                node.avoided.pop(key, None)
            node.silent.clear()
            self._consider_all()

    def _reported(self, name: str, report: StageReport) -> None:
        node = self._world.nodes.get(name)
        if node is None:
            self._world.counters.strays += 1
            return
        self._answered(node)
        if report.pipeline == 0 or report.state in (StageState.PONG, StageState.MEASURED):
            if self._measurer.reported(node, report):
                self._consider_all()
                for pipeline in self._world.live_pipelines():
                    self._spreader.spread(pipeline)
            else:
                self._spreader.reported(node, report)
        elif report.session or report.code in (ErrorCode.CACHE_GAP, ErrorCode.UNKNOWN_SESSION):
            self._repairs.reported(name, report)
        else:
            self._arranger.reported(node, report)

    def _node_changed(self, event: NodeChanged) -> None:
        node = self._node(event.node)
        was_alive, was_ready = node.alive, node.ready
        started_anew = node.boot not in (0, event.boot)
        node.boot, node.alive, node.ready = event.boot, event.alive, event.ready
        node.memory_bytes = event.memory_bytes
        if was_alive and (started_anew or not event.alive):
            self._mover.node_gone(node)
            self._spreader.node_gone(node.node)
        if event.alive and (started_anew or not was_alive):
            node.avoided.clear()
            node.silent.clear()
            self._loader.unload_leftovers(node.node)
        if event.ready and (started_anew or not was_ready):
            self._measurer.ping(node)
        if event.draining and event.alive:
            self._leave(node)
        elif event.ready:
            node.leaving = False
        self._consider_all()

    def _leave(self, node: Node) -> None:
        if not node.leaving:
            node.leaving = True
            self._mover.leave(node.node)

    def _add_model(self, event: ModelAdded) -> None:
        world = self._world
        model = world.models.get(event.key)
        if model is None:
            model = world.models[event.key] = Model(
                event.key, event.shape, event.context_length, event.check_tokens
            )
            model.queue += world.early.pop(event.key, [])
        model.uncut.clear()  # its file may have come anew
        self._arranger.consider(model)

    def _remove_model(self, key: ModelKey) -> None:
        world = self._world
        model = world.models.get(key)
        if model is None:
            return
        for session in list(world.sessions.values()):
            if (session.start.model, session.start.version) == key:
                text = f"model {key[0]} version {key[1]} was removed"
                self._sessions.end(session, "error", "unknown_model", text)
        for pipeline in [model.pipeline, model.successor]:
            if pipeline is not None:
                self._arranger.close(pipeline)
        del world.models[key]
        world.forget_ring(key)
        for node in world.nodes.values():
            node.skills.pop(key, None)
            node.disk.pop(key, None)
            node.avoided.pop(key, None)
            node.silent.discard(key)

    def _slice_cut(self, event: SliceCut) -> None:
        model = self._world.models.get(event.key)
        if model is None:
            return
        run = (event.first, event.last, event.with_ends)
        model.cutting.discard(run)
        if event.reference is None:
            model.uncut[run] = event.text
            model.text = event.text
        else:
            model.slices[run] = event.reference
        for pipeline in [model.pipeline, model.successor]:
            if pipeline is not None:
                self._arranger.advance(pipeline)
                self._spreader.spread(pipeline)
        self._arranger.consider(model)

    def _broker_changed(self, *, connected: bool) -> None:
        world = self._world
        world.connected = connected
        if not connected:
            self._arranger.broker_lost()
        else:
            if world.rings_until_ms > world.now_ms:
                world.rings_until_ms = world.now_ms + _RINGS_MS
                self._consider_all()
            for pipeline in self._world.live_pipelines():
                if pipeline.state is PipelineState.READY and pipeline.sessions:
                    # Whatever was on its way may be lost.
                    self._repairs.relayout(pipeline)

    def _consider_all(self) -> None:
        for model in list(self._world.models.values()):
            self._arranger.consider(model)

    def _freed(self, pipeline: Pipeline) -> None:
        self._arranger.freed(pipeline)
        self._spreader.spread(pipeline)

    # --- time ------------------------------------------------------------------------------

    def _look(self, subject: Subject) -> None:
        world = self._world
        match subject:
            case ("session", int(handle)):
                self._repairs.stalled(handle)
            case ("repair", int(handle)):
                self._repairs.repair(handle)
            case ("wait", int(handle)):
                self._sessions.waited(handle)
            case ("write", int(handle)):
                self._sessions.write_soon(handle)
            case ("close", int(handle)):
                self._sessions.close_again(handle)
            case ("load", int(number)):
                pipeline = world.pipelines.get(number)
                if pipeline is not None:
                    self._arranger.advance(pipeline)
            case ("unload", str(name)):
                self._loader.unload_leftovers(name)
            case ("spread", int(number)):
                pipeline = world.pipelines.get(number)
                if pipeline is not None:
                    self._spreader.spread(pipeline)
            case ("impossible", name):
                for model in list(world.models.values()):
                    if model.name == name:
                        self._sessions.refuse_waiting(model)
            case (_, name):
                for model in list(world.models.values()):
                    if model.name == name:
                        self._arranger.consider(model)
