"""Brings slices onto nodes: has them cut, orders them loaded, unloads what is not needed."""

from maille_coordinator.language.measuring import Measurer
from maille_coordinator.language.planning import Planner
from maille_coordinator.language.state import Load, Model, Pipeline, World
from maille_protocol import Reference, StageCommand, StageOrder

_LOOK_EVERY_MS = 1000.0
_ASK_AGAIN_MS = 3000.0
_SILENT_MS = 120_000.0
_UNLOAD_AGAIN_MS = 5000.0


class Loader:
    """Keeps the loads of pipelines going."""

    def __init__(self, world: World, measurer: Measurer, planner: Planner) -> None:
        self._world = world
        self._measurer = measurer
        self._planner = planner

    def load(self, model: Model, pipeline: Pipeline) -> str | None:
        """Order what is missing; why that cannot come to an end, or None.

        Wants to look again while something is missing.
        """
        world = self._world
        missing = False
        for stage, slot in enumerate(pipeline.slots):
            for name in [name for name in slot.loads if name not in slot.wanted]:
                self.unload(pipeline, stage, name)
            run = (slot.first, slot.last, True)
            reference = model.slices.get(run)
            if reference is None:
                if run in model.uncut:
                    return model.uncut[run]
                self._measurer.cut(model, run)
                missing = True
                continue
            for name in slot.wanted:
                load = slot.loads.get(name)
                if load is not None and load.ready:
                    continue
                missing = True
                if load is None:
                    load = Load(world.nonce(), world.now_ms, world.now_ms)
                    slot.loads[name] = load
                elif world.now_ms - load.heard_ms < _ASK_AGAIN_MS:
                    continue
                elif world.now_ms - load.asked_ms > _SILENT_MS:
                    return f"{name} did not load its slice in {_SILENT_MS / 1000:g} s"
                load.heard_ms = world.now_ms
                node = world.nodes.get(name)
                if node is not None:
                    node.leftovers.discard((pipeline.number, stage))
                self._order(model, pipeline, stage, name, reference, load.nonce)
        world.write_stages(pipeline.number)
        if missing:
            world.timers.set(("load", pipeline.number), world.now_ms + _LOOK_EVERY_MS)
        return None

    def _order(
        self,
        model: Model,
        pipeline: Pipeline,
        stage: int,
        node: str,
        reference: Reference,
        nonce: int,
    ) -> None:
        limit = self._planner.cache_limit_bytes(model, pipeline, stage)
        self._world.send(
            node,
            StageOrder(StageCommand.LOAD, pipeline.number, stage, reference, limit, nonce),
        )

    def unload(self, pipeline: Pipeline, stage: int, node: str) -> None:
        """Have a node drop a stage, now or when it is back."""
        pipeline.slots[stage].loads.pop(node, None)
        self.drop(node, pipeline.number, stage)

    def drop(self, node: str, pipeline: int, stage: int) -> None:
        """Have a node drop a stage of whatever pipeline, and say it again until it is gone."""
        known = self._world.nodes.get(node)
        if known is None:
            return
        known.leftovers.add((pipeline, stage))
        self._world.write_stages(pipeline)
        self.unload_leftovers(node)

    def unload_leftovers(self, node: str) -> None:
        """Order all stages unloaded that a node is not to have."""
        world = self._world
        known = world.nodes.get(node)
        if known is None or not known.alive or not known.leftovers:
            return
        if known.spared_until_ms > world.now_ms:
            world.timers.set(("unload", node), known.spared_until_ms)
            return
        for pipeline, stage in sorted(known.leftovers):
            world.send(
                node, StageOrder(StageCommand.UNLOAD, pipeline, stage, None, 0, world.nonce())
            )
        world.timers.set(("unload", node), world.now_ms + _UNLOAD_AGAIN_MS)

    def unload_spared(self) -> bool:
        """Order what was spared unloaded: it has served, or its room is needed. Whether any was."""
        spared = [
            node
            for node in self._world.nodes.values()
            if node.spared_until_ms > self._world.now_ms and node.leftovers
        ]
        for node in spared:
            node.spared_until_ms = 0.0
            self.unload_leftovers(node.node)
        return bool(spared)

    def unload_all(self, pipeline: Pipeline) -> None:
        """Drop every stage of a pipeline."""
        for stage, slot in enumerate(pipeline.slots):
            for node in list(slot.loads):
                self.unload(pipeline, stage, node)
