"""The life of pipelines: planned, loaded, checked, improved, closed."""

from maille_coordinator.language.loading import Loader
from maille_coordinator.language.measuring import Measurer
from maille_coordinator.language.moving import Mover
from maille_coordinator.language.planning import Planner
from maille_coordinator.language.records import RingKept, SessionStart
from maille_coordinator.language.repair import Repairs
from maille_coordinator.language.sessions import IMPOSSIBLE_MS, Sessions
from maille_coordinator.language.state import (
    SPARED_MS,
    Model,
    ModelState,
    Node,
    Pipeline,
    PipelineState,
    Session,
    Slot,
    World,
)
from maille_coordinator.placement import PlacementImpossible, Plan
from maille_protocol import Sampling, StageReport, StageState

_RETRY_MS = 1000.0
_LONGEST_RETRY_MS = 30_000.0
_BROKER_DIES_MS = 1500.0
"""Between the first will that a dying broker publishes and the end of our own connection."""
_CHECK_TOKENS = 2
"""The first token goes out of the ring, the second one has been all around."""


class Arranger:
    """Makes and keeps the pipelines of all models."""

    def __init__(
        self,
        world: World,
        measurer: Measurer,
        planner: Planner,
        loader: Loader,
        repairs: Repairs,
        sessions: Sessions,
    ) -> None:
        self._world = world
        self._measurer = measurer
        self._planner = planner
        self._loader = loader
        self._repairs = repairs
        self._sessions = sessions
        self.mover: Mover
        """Moves stages when nodes go."""

    # --- planning --------------------------------------------------------------------------

    def consider(self, model: Model) -> None:
        """Do what can be done for a model after something has changed."""
        self._measurer.consider(model)
        world = self._world
        pipeline = model.pipeline
        if model.retry_ms > world.now_ms or model.successor is not None:
            return
        if pipeline is None:
            if world.connected and self._ready_to_plan(model):
                self._arrange(model)
        elif pipeline.state is PipelineState.REPAIRING:
            if any(not self.present(slot.primary, pipeline) for slot in pipeline.slots):
                self.mover.mend(model, pipeline)
            else:
                self.advance(pipeline)  # those that were gone are back
        elif pipeline.state is PipelineState.READY:
            self.mover.let_leave(pipeline)
            if not pipeline.busy and pipeline.state is PipelineState.READY:
                self._improve(model, pipeline)

    def present(self, name: str, pipeline: Pipeline) -> bool:
        """Whether a node is there and may hold a part of a pipeline."""
        node = self._world.nodes.get(name)
        return (
            node is not None
            and node.alive
            and node.avoided.get(pipeline.key, 0.0) <= self._world.now_ms
        )

    def _ready_to_plan(self, model: Model) -> bool:
        able = self._measurer.able(model)
        if not able:
            model.state = ModelState.WAITING
            model.text = (
                "no node that holds slices is in the mesh: start one with `maille node`"
                if not self._world.nodes
                else "no node can take a slice now: see `maille nodes`"
            )
            return False
        ring = self._awaited_ring(model)
        if ring is not None:
            if self._planner.former(model, ring) is not None:
                return True
            self._world.timers.set(("model", model.name), self._world.rings_until_ms)
        if ring is not None or not self._measurer.settled(model):
            if model.state in (ModelState.WAITING, ModelState.IMPOSSIBLE):
                self._measuring(model)
            return False
        return bool(self._measurer.offers(model))

    def _measuring(self, model: Model) -> None:
        model.state, model.text = ModelState.MEASURING, "nodes measure a layer of it"
        model.impossible_since_ms = None  # with them it may be possible

    def _awaited_ring(self, model: Model) -> RingKept | None:
        """The ring of an earlier run, as long as its nodes may still come."""
        world = self._world
        ring = world.rings.get(model.key)
        return ring if ring is not None and world.now_ms < world.rings_until_ms else None

    def _arrange(self, model: Model) -> None:
        ring = self._awaited_ring(model)
        former = None if ring is None else self._planner.former(model, ring)
        if former is not None:
            model.pipeline = self.build(model, former)
            model.pipeline.known = True
            model.state, model.text = ModelState.LOADING, "nodes take up their slices again"
            self.advance(model.pipeline)
            return
        try:
            plan = self._planner.new(model)
        except PlacementImpossible as error:
            if self._loader.unload_spared():
                # With their room it may be possible.
                for node in self._world.nodes.values():
                    node.skills.pop(model.key, None)
                self._measurer.consider(model)
                return
            if self._measurer.expects(model):
                self._measuring(model)
            else:
                self.impossible(model, error)
            return
        model.pipeline = self.build(model, plan)
        model.state, model.text = ModelState.LOADING, "nodes load their slices"
        self.advance(model.pipeline)

    def broker_lost(self) -> None:
        """Nodes that were found gone a moment ago may only have lost the broker, as we have.

        Rings that lost stages so are not mended: they are taken up again when the broker is back.
        """
        world = self._world
        lately_ms = world.now_ms - _BROKER_DIES_MS
        for model in list(world.models.values()):
            ring, pipeline = world.rings.get(model.key), model.pipeline
            if pipeline is None or ring is None or pipeline.state is not PipelineState.REPAIRING:
                continue
            lost = [
                node
                for name, _, _ in ring.stages
                if (node := world.nodes.get(name)) is not None and not node.alive
            ]
            if not lost or any(node.gone_ms < lately_ms for node in lost):
                continue
            for node in world.nodes.values():
                node.spared_until_ms = world.now_ms + SPARED_MS
            if model.successor is not None:
                self.close(model.successor)
            self.close(pipeline)
            world.rings_until_ms = float("inf")
            model.impossible_since_ms = None
            model.state, model.text = ModelState.RECOVERING, "the broker is away"

    def impossible(self, model: Model, error: PlacementImpossible) -> None:
        """Tell that no nodes can hold a model now."""
        text = str(error)
        if model.state is not ModelState.IMPOSSIBLE or model.text != text:
            self._world.report("model.impossible", model.key[0], text)
        model.state, model.text = ModelState.IMPOSSIBLE, text
        if model.impossible_since_ms is None:
            model.impossible_since_ms = self._world.now_ms
            at_ms = self._world.now_ms + IMPOSSIBLE_MS
            self._world.timers.set(("impossible", model.name), at_ms)

    def build(self, model: Model, plan: Plan) -> Pipeline:
        """A pipeline as a plan says, with nothing loaded yet."""
        world = self._world
        model.impossible_since_ms = None
        slots = [
            Slot(
                stage.first_layer,
                stage.last_layer,
                stage.node,
                copies=[copy.node for copy in plan.replicas if copy.stage == place],
            )
            for place, stage in enumerate(plan.stages)
        ]
        pipeline = Pipeline(
            world.next_pipeline(),
            model.key,
            plan,
            slots,
            self._planner.cache_tokens(model),
            token_ms=plan.prediction.token_ms,
            since_ms=world.now_ms,
        )
        world.pipelines[pipeline.number] = pipeline
        places = ", ".join(f"{slot.first}-{slot.last} on {slot.primary}" for slot in slots)
        world.report("model.planned", model.key[0], f"layers {places}")
        return pipeline

    def _improve(self, model: Model, pipeline: Pipeline) -> None:
        """Move to a much better plan while nobody's generation runs."""
        if model.queue:
            return
        try:
            plan = self._planner.better(model, pipeline.plan)
        except PlacementImpossible:
            return
        if plan is not None:
            self._world.report("model.improves", model.key[0], "a better place was found")
            self.close(pipeline)
            model.pipeline = self.build(model, plan)
            model.state, model.text = ModelState.LOADING, "nodes load their slices"
            self.advance(model.pipeline)

    # --- loading and checking --------------------------------------------------------------

    def advance(self, pipeline: Pipeline) -> None:
        """Go on as far as the loads allow."""
        model = self._world.models.get(pipeline.key)
        if model is None or pipeline.state is PipelineState.CLOSED:
            return
        trouble = self._loader.load(model, pipeline)
        if trouble is not None:
            self._abandon(model, pipeline, trouble)
            return
        slots = pipeline.slots
        if not all(slot.ready(slot.primary) for slot in slots):
            return
        match pipeline.state:
            case PipelineState.LOADING:
                if all(slot.ready(name) for slot in slots for name in slot.copies):
                    self._start(model, pipeline)
            case PipelineState.REPAIRING:
                self._join_copies(pipeline)
                pipeline.state = PipelineState.READY
                _is_ready(model)
                self._world.report("model.recovered", model.key[0])
                self._world.spread_soon(pipeline)
                self._repairs.relayout(pipeline)
                self._sessions.start_waiting(model)
            case PipelineState.READY:
                if self._join_copies(pipeline):
                    self._repairs.relayout(pipeline)
                self.mover.hand_over(pipeline)

    def _join_copies(self, pipeline: Pipeline) -> bool:
        """Make the copies and heirs that have loaded shadows; whether there were any."""
        joined = False
        for slot in pipeline.slots:
            for name in dict.fromkeys([*slot.copies, *([slot.heir] if slot.heir else [])]):
                if not slot.ready(name):
                    continue
                if name in slot.copies:
                    slot.copies.remove(name)
                if name not in slot.routed:
                    slot.shadows.append(name)
                    joined = True
        return joined

    def _start(self, model: Model, pipeline: Pipeline) -> None:
        self._join_copies(pipeline)
        if model.successor is pipeline:
            self._take_over(model, pipeline)
            return
        if pipeline.known:
            pipeline.layout += 1
            self._repairs.tell_route(pipeline)
            self._ready(model, pipeline)
            return
        pipeline.state = PipelineState.CHECKING
        model.state, model.text = ModelState.CHECKING, "the first token goes round"
        start = SessionStart(
            "",
            *model.key,
            model.check_tokens,
            Sampling(temperature_ppm=0),
            _CHECK_TOKENS,
            (),
            int(self._world.now_ms),
        )
        check = Session(start, self._world.next_handle(), self._world.now_ms, check=True)
        self._world.handles[check.handle] = check
        pipeline.check = check
        pipeline.layout += 1
        self._repairs.tell_route(pipeline)
        self._sessions.attach(check, pipeline)

    def checked(self, session: Session, finish: str, text: str) -> None:
        """The first round has ended."""
        pipeline = next(
            (found for found in self._world.live_pipelines() if found.check is session), None
        )
        if pipeline is None:
            return
        pipeline.check = None
        model = self._world.models.get(pipeline.key)
        if model is None or pipeline.state is not PipelineState.CHECKING:
            return
        if finish == "error":
            self._abandon(model, pipeline, f"the first token did not come round: {text}")
            return
        self._ready(model, pipeline)

    def _ready(self, model: Model, pipeline: Pipeline) -> None:
        self._world.spread_soon(pipeline)
        pipeline.state = PipelineState.READY
        _is_ready(model)
        model.failures = 0
        self._loader.unload_spared()
        self._world.report(
            "model.ready", model.key[0], f"{len(pipeline.slots)} stages, pipeline {pipeline.number}"
        )
        self._sessions.start_waiting(model)
        self.freed(pipeline)

    def _take_over(self, model: Model, pipeline: Pipeline) -> None:
        """A ring of another shape goes on with the sessions of the former one."""
        former, model.pipeline, model.successor = model.pipeline, pipeline, None
        pipeline.state = PipelineState.READY
        pipeline.layout += 1
        self._repairs.tell_route(pipeline)
        _is_ready(model)
        self._world.report("model.recovered", model.key[0], f"pipeline {pipeline.number}")
        self._world.spread_soon(pipeline)
        if former is not None:
            self.close(former)
        self._sessions.start_waiting(model)

    def _abandon(self, model: Model, pipeline: Pipeline, text: str) -> None:
        """An arrangement came to nothing: try another one later."""
        world = self._world
        self._world.report("model.failed", model.key[0], text)
        self.close(pipeline)
        model.failures += 1
        wait_ms = min(_LONGEST_RETRY_MS, _RETRY_MS * 2 ** min(model.failures, 6))
        model.retry_ms = world.now_ms + wait_ms
        if model.pipeline is None:
            model.state, model.text = ModelState.WAITING, text
        world.timers.set(("model", model.name), model.retry_ms)

    def close(self, pipeline: Pipeline) -> None:
        """Unload a pipeline; its sessions wait for another one."""
        world = self._world
        model = world.models.get(pipeline.key)
        pipeline.state = PipelineState.CLOSED
        for session in reversed(list(pipeline.sessions.values())):
            if session.check:
                pipeline.check = None
                self._sessions.end(session, "error", "", "the pipeline was closed")
            else:
                self._sessions.put_back(session)
        self._loader.unload_all(pipeline)
        world.pipelines.pop(pipeline.number, None)
        world.write_stages(pipeline.number)
        world.timers.cancel(("load", pipeline.number))
        if model is not None and model.pipeline is pipeline:
            model.pipeline = None
        if model is not None and model.successor is pipeline:
            model.successor = None

    # --- what nodes report -----------------------------------------------------------------

    def reported(self, node: Node, report: StageReport) -> None:
        """A node told of a stage as a whole."""
        pipeline = self._world.pipelines.get(report.pipeline)
        slot = (
            pipeline.slots[report.stage]
            if pipeline is not None and report.stage < len(pipeline.slots)
            else None
        )
        if pipeline is None or slot is None or node.node not in slot.loads:
            if report.state is StageState.GONE:
                self._world.forget_leftovers(node, (report.pipeline, report.stage))
            elif report.state in (StageState.READY, StageState.LOADING):
                # Of an earlier run, or from before it was told to unload.
                self._loader.drop(node.node, report.pipeline, report.stage)
            return
        load = slot.loads[node.node]
        if report.state is StageState.GONE and report.nonce < load.nonce:
            return  # it was to drop the stage before it was to load it again
        load.heard_ms = self._world.now_ms
        match report.state:
            case StageState.READY:
                if not load.ready:
                    load.ready = True
                    node.disk.setdefault(pipeline.key, set()).add((slot.first, slot.last))
                    self.advance(pipeline)
            case StageState.LOADING:
                load.asked_ms = self._world.now_ms
            case StageState.GONE | StageState.FAILED:
                if load.ready and report.state is StageState.GONE:
                    self._stage_gone(pipeline, report.stage, node)
                elif node.node in {slot.primary, slot.heir, *slot.shadows, *slot.copies}:
                    self.mover.replace(
                        pipeline, [node.node], report.text or "could not load its slice"
                    )
            case _:
                pass

    def _stage_gone(self, pipeline: Pipeline, stage: int, node: Node) -> None:
        """A node does not have the stage any more: load it again, there."""
        slot = pipeline.slots[stage]
        del slot.loads[node.node]
        for session in pipeline.sessions.values():
            if stage < len(session.holds):
                session.holds[stage].discard(node.node)
        if node.node == slot.primary and pipeline.state is PipelineState.READY:
            pipeline.state = PipelineState.REPAIRING
        elif node.node in slot.shadows:
            slot.shadows.remove(node.node)
            slot.copies.append(node.node)
        self.advance(pipeline)

    def reload(self, pipeline: Pipeline) -> None:
        """Order all stages loaded again: who has one says so at once, who has not gets it."""
        for slot in pipeline.slots:
            slot.loads.pop(slot.primary, None)
        if pipeline.state is PipelineState.READY:
            pipeline.state = PipelineState.REPAIRING
        elif pipeline.state is PipelineState.CHECKING:
            pipeline.state = PipelineState.LOADING
            check, pipeline.check = pipeline.check, None
            if check is not None:
                self._sessions.end(check, "error", "", "")
        self.advance(pipeline)

    def freed(self, pipeline: Pipeline) -> None:
        """A session has ended: there may be time for what waits until nobody is disturbed."""
        model = self._world.models.get(pipeline.key)
        if model is not None and not pipeline.busy and pipeline.state is PipelineState.READY:
            self.advance(pipeline)
            self.consider(model)


def _is_ready(model: Model) -> None:
    model.state, model.text = ModelState.READY, ""
    model.impossible_since_ms = None
