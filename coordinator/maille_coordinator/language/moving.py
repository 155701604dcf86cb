"""Moves stages to other nodes: when theirs are lost, fail, or want to leave."""

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from maille_coordinator.language.loading import Loader
from maille_coordinator.language.planning import Planner
from maille_coordinator.language.repair import Repairs
from maille_coordinator.language.state import (
    Measuring,
    Model,
    ModelState,
    Node,
    Pipeline,
    PipelineState,
    World,
)
from maille_coordinator.placement import PlacementImpossible, Plan

if TYPE_CHECKING:
    from maille_coordinator.language.arranging import Arranger

_AVOID_MS = 30_000.0
_RETRY_MS = 1000.0
_CATCH_UP_MS = 3000.0
"""An heir that is slower than the ring never catches up: after so long the ring waits for it."""


class Mover:
    """Finds new places for stages of running pipelines."""

    def __init__(
        self,
        world: World,
        planner: Planner,
        loader: Loader,
        repairs: Repairs,
        arranger: "Arranger",
    ) -> None:
        self._world = world
        self._planner = planner
        self._loader = loader
        self._repairs = repairs
        self._arranger = arranger

    def node_gone(self, node: Node) -> None:
        """A node is gone, or has started anew.

        What it held is ordered unloaded when it is back: it may have lost nothing but its
        connection, and what seemed a new start may have been another device with its id.
        """
        node.gone_ms = self._world.now_ms
        node.skills = {
            key: skill for key, skill in node.skills.items() if skill.state is Measuring.MEASURED
        }
        for pipeline in self._world.live_pipelines():
            for stage, slot in enumerate(pipeline.slots):
                if slot.loads.pop(node.node, None) is not None:
                    node.leftovers.add((pipeline.number, stage))
            self._world.write_stages(pipeline.number)
            self._without(pipeline, {node.node}, "is gone")

    def replace(
        self, pipeline: Pipeline, names: Iterable[str], why: str, *, silent: bool = False
    ) -> None:
        """Nodes that are in the mesh but fail their stages, or only do not answer."""
        gone = set(names)
        for name in sorted(gone):
            node = self._world.nodes.get(name)
            if node is not None:
                node.avoided[pipeline.key] = self._world.now_ms + _AVOID_MS
                if silent:
                    node.silent.add(pipeline.key)
                else:
                    node.silent.discard(pipeline.key)
            self._world.report("stage.failed", name, f"{pipeline.key[0]}: {why}")
            for stage, slot in enumerate(pipeline.slots):
                if name in slot.loads:
                    self._loader.unload(pipeline, stage, name)
        self._world.timers.set(
            ("model", f"{pipeline.key[0]}:{pipeline.key[1]}"), self._world.now_ms + _AVOID_MS + 1
        )
        self._without(pipeline, gone, why)

    def _without(self, pipeline: Pipeline, gone: set[str], why: str) -> None:
        model = self._world.models.get(pipeline.key)
        if model is None:
            return
        hit = False
        for slot in pipeline.slots:
            slot.shadows = [name for name in slot.shadows if name not in gone]
            slot.copies = [name for name in slot.copies if name not in gone]
            if slot.heir in gone:
                slot.heir = None
            hit = hit or slot.primary in gone
        for session in pipeline.sessions.values():
            for held in session.holds:
                held.difference_update(gone)
            for place in [place for place in session.behind if place[1] in gone]:
                del session.behind[place]
            for place in [place for place in session.caught_up if place[1] in gone]:
                del session.caught_up[place]
        for kept in pipeline.kept.values():
            for held in kept.holds:
                held.difference_update(gone)
        if not hit:
            if pipeline.state is PipelineState.LOADING:
                self._arranger.advance(pipeline)
            self.let_leave(pipeline)
        elif pipeline.state in (PipelineState.LOADING, PipelineState.CHECKING):
            self._abandon_at_once(model, pipeline, f"{', '.join(sorted(gone))} {why}")
        else:
            self._world.counters.stages_replaced += 1
            self.mend(model, pipeline)

    def _abandon_at_once(self, model: Model, pipeline: Pipeline, text: str) -> None:
        self._arranger.close(pipeline)
        model.failures += 1
        if model.failures > 5:
            model.retry_ms = self._world.now_ms + _RETRY_MS * min(model.failures, 30)
            self._world.timers.set(("model", model.name), model.retry_ms)
        if model.pipeline is None:
            model.state, model.text = ModelState.WAITING, text
        elif model.pipeline.state is PipelineState.REPAIRING:
            self.mend(model, model.pipeline)
        self._arranger.consider(model)

    def mend(self, model: Model, pipeline: Pipeline) -> None:
        """Find places for the stages whose nodes are gone."""
        gone = {
            slot.primary
            for slot in pipeline.slots
            if not self._arranger.present(slot.primary, pipeline)
        }
        pipeline.state = PipelineState.REPAIRING
        for session in pipeline.sessions.values():
            self._world.timers.cancel(("session", session.handle))
            patience_ms = self._world.now_ms + self._world.limits.patience_ms
            self._world.timers.set(("wait", session.handle), patience_ms)
        try:
            plan = self._planner.without(model, pipeline.plan, gone)
        except PlacementImpossible as error:
            self._arranger.impossible(model, error)
            return
        model.impossible_since_ms = None
        model.state = ModelState.RECOVERING
        model.text = f"{', '.join(sorted(gone))} is gone: its layers move"
        if not self._in_place(pipeline, plan, gone):
            self._succeed(model, pipeline, plan)
            return
        self._adopt(pipeline, plan, gone)
        self._arranger.advance(pipeline)

    def _in_place(self, pipeline: Pipeline, plan: Plan, gone: Collection[str]) -> bool:
        """Whether a plan has the same cut and moves nothing but what is gone."""
        return len(pipeline.slots) == len(plan.stages) and all(
            (slot.first, slot.last) == (stage.first_layer, stage.last_layer)
            and (slot.primary == stage.node or slot.primary in gone)
            for slot, stage in zip(pipeline.slots, plan.stages, strict=True)
        )

    def _succeed(self, model: Model, pipeline: Pipeline, plan: Plan) -> None:
        """Load another cut; it takes the sessions over when it is ready."""
        if model.successor is not None:
            self._arranger.close(model.successor)
        model.successor = self._arranger.build(model, plan)
        if pipeline.state is PipelineState.REPAIRING:
            # What the new cut does not use makes room for it.
            used = {(slot.primary, slot.first, slot.last) for slot in model.successor.slots}
            for stage, slot in enumerate(pipeline.slots):
                for name in list(slot.loads):
                    if (name, slot.first, slot.last) not in used:
                        self._loader.unload(pipeline, stage, name)
        self._arranger.advance(model.successor)

    def _adopt(self, pipeline: Pipeline, plan: Plan, gone: Collection[str]) -> None:
        """Put the stages of a plan with the same cut where it says."""
        pipeline.plan = plan
        for slot in pipeline.slots:
            slot.heir = None  # the plan is a new one
        for place, (slot, stage) in enumerate(zip(pipeline.slots, plan.stages, strict=True)):
            if slot.primary != stage.node and slot.primary in gone:
                slot.primary = stage.node
                slot.shadows = [name for name in slot.shadows if name != stage.node]
                slot.copies = [name for name in slot.copies if name != stage.node]
            for copy in plan.replicas:
                if copy.stage == place and copy.node not in (*slot.routed, *slot.copies):
                    slot.copies.append(copy.node)

    # --- a planned leave -------------------------------------------------------------------

    def leave(self, node: str) -> None:
        """Let others take over what a node holds, while it still works."""
        for pipeline in self._world.live_pipelines():
            self._leave(pipeline, node)

    def let_leave(self, pipeline: Pipeline) -> None:
        """Find heirs for those that want to leave and have none, or none any more."""
        for slot in pipeline.slots:
            node = self._world.nodes.get(slot.primary)
            if node is not None and node.alive and node.leaving and slot.heir is None:
                self._leave(pipeline, node.node)

    def _leave(self, pipeline: Pipeline, node: str) -> None:
        model = self._world.models.get(pipeline.key)
        slots = [slot for slot in pipeline.slots if slot.primary == node]
        if model is None or not slots or pipeline.state is not PipelineState.READY:
            return
        try:
            plan = self._planner.without(model, pipeline.plan, {node})
        except PlacementImpossible as error:
            if node not in pipeline.stuck:
                pipeline.stuck.add(node)
                self._world.report("node.stays", node, f"nobody can take its layers: {error}")
            return
        if self._in_place(pipeline, plan, {node}):
            for slot, stage in zip(pipeline.slots, plan.stages, strict=True):
                if slot.primary == node and stage.node != node:
                    slot.heir = stage.node
            pipeline.plan = plan
            self._arranger.advance(pipeline)
        elif model.successor is None:
            self._succeed(model, pipeline, plan)

    def hand_over(self, pipeline: Pipeline, *, at_token: bool = False) -> None:
        """Heirs that are shadows and have caught up take over, at the end of a token."""
        if pipeline.state is not PipelineState.READY or (pipeline.busy and not at_token):
            return
        soonest_ms = self._world.now_ms - _CATCH_UP_MS
        behind = {
            place
            for session in pipeline.sessions.values()
            for place, since_ms in session.behind.items()
            if since_ms > soonest_ms
        }
        heirs = [
            (stage, slot, slot.heir)
            for stage, slot in enumerate(pipeline.slots)
            if slot.heir is not None
        ]
        # All at once: each new layout makes the answers wait for a round.
        if not heirs or any(
            heir not in slot.shadows or (stage, heir) in behind for stage, slot, heir in heirs
        ):
            return
        for stage, slot, heir in heirs:
            former, slot.primary, slot.heir = slot.primary, heir, None
            slot.shadows = [name for name in slot.shadows if name != slot.primary]
            self._loader.unload(pipeline, stage, former)
            self._world.report("stage.handed-over", former, f"to {slot.primary}")
        self._world.write_stages(pipeline.number)
        self._repairs.relayout(pipeline, promoted=[stage for stage, _, _ in heirs])
