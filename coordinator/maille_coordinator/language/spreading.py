"""Puts slices on the disks of nodes that would take over, so that a loss costs no download.

For each node of a running pipeline the planner is asked what it would do without that node; the
slices of the answer are fetched by the nodes it names (by measuring them there), one at a time.
"""

from collections.abc import Iterator

from maille_coordinator.language.measuring import Measurer
from maille_coordinator.language.planning import Planner
from maille_coordinator.language.state import Model, Node, Pipeline, PipelineState, World
from maille_coordinator.placement import PlacementImpossible
from maille_protocol import StageCommand, StageOrder, StageReport, StageState

_AT_MOST_MS = 60_000.0
_LATER_MS = 2000.0


class Spreader:
    """Keeps spare slices where they may be needed."""

    def __init__(self, world: World, measurer: Measurer, planner: Planner) -> None:
        self._world = world
        self._measurer = measurer
        self._planner = planner
        self._wanted: dict[int, list[tuple[str, int, int]]] = {}
        """By pipeline: node, first and last layer."""
        self._planned_for: dict[int, tuple[object, ...]] = {}
        self._asked: dict[int, tuple[str, str, int, int, float]] = {}
        """By nonce: model, node, first and last layer, until when it counts as under way."""

    @property
    def missing(self) -> int:
        """Spare slices that are still to be fetched."""
        live = self._world.pipelines
        wanted = sum(len(wanted) for number, wanted in self._wanted.items() if number in live)
        return wanted + len(self._asked)

    def spread(self, pipeline: Pipeline) -> None:
        """Have the next spare slice fetched, while nobody's generation is disturbed."""
        world = self._world
        model = world.models.get(pipeline.key)
        if model is None or model.pipeline is not pipeline:
            return
        if pipeline.state is not PipelineState.READY or len(pipeline.slots) == 0:
            return
        if pipeline.busy:
            world.timers.set(("spread", pipeline.number), world.now_ms + _LATER_MS)
            return
        self._look_for(model, pipeline)
        self._asked = {
            nonce: asked for nonce, asked in self._asked.items() if asked[4] > world.now_ms
        }
        if any(asked[0] == model.name for asked in self._asked.values()):
            return
        wanted = self._wanted.get(pipeline.number, [])
        while wanted:
            name, first, last = wanted[0]
            node = world.nodes.get(name)
            if node is None or not node.ready or (first, last) in node.disk.get(model.key, ()):
                wanted.pop(0)
                continue
            run = (first, last, True)
            reference = model.slices.get(run)
            if reference is None:
                self._measurer.cut(model, run)
                if run in model.uncut:
                    wanted.pop(0)
                    continue
                return
            wanted.pop(0)
            nonce = world.nonce()
            self._asked[nonce] = (model.name, name, first, last, world.now_ms + _AT_MOST_MS)
            world.send(name, StageOrder(StageCommand.MEASURE, 0, 0, reference, 0, nonce))
            world.timers.set(("spread", pipeline.number), world.now_ms + _AT_MOST_MS + 1)
            return

    def node_gone(self, name: str) -> None:
        """A node is gone, or its process is another one: what it was asked for it does not do."""
        lost = [nonce for nonce, asked in self._asked.items() if asked[1] == name]
        for nonce in lost:
            del self._asked[nonce]
        if lost:
            # Whoever is asked next may be the same node, when it is back.
            self._planned_for.clear()
            for pipeline in self._world.live_pipelines():
                self._world.spread_soon(pipeline)

    def reported(self, node: Node, report: StageReport) -> None:
        """An answer to the measuring of a spare slice."""
        asked = self._asked.get(report.nonce)
        if asked is None or asked[1] != node.node or report.state is StageState.LOADING:
            return
        del self._asked[report.nonce]
        for model in self._world.models.values():
            if model.name != asked[0]:
                continue
            if report.state is StageState.MEASURED:
                node.disk.setdefault(model.key, set()).add((asked[2], asked[3]))
            if model.pipeline is not None:
                self.spread(model.pipeline)

    def _look_for(self, model: Model, pipeline: Pipeline) -> None:
        """Ask the planner once for each set of nodes and places."""
        offered = tuple(sorted(offer.node for offer in self._measurer.offers(model)))
        situation = (offered, tuple(slot.routed for slot in pipeline.slots))
        if self._planned_for.get(pipeline.number) == situation:
            return
        live = self._world.pipelines
        self._planned_for = {n: s for n, s in self._planned_for.items() if n in live}
        self._wanted = {n: w for n, w in self._wanted.items() if n in live}
        self._planned_for[pipeline.number] = situation
        self._wanted[pipeline.number] = list(dict.fromkeys(self._spares(model, pipeline)))

    def _spares(self, model: Model, pipeline: Pipeline) -> Iterator[tuple[str, int, int]]:
        held = {(slot.primary, slot.first, slot.last) for slot in pipeline.slots}
        for name in sorted(pipeline.plan.nodes):
            try:
                plan = self._planner.without(model, pipeline.plan, {name}, from_disk=False)
            except PlacementImpossible:
                continue
            for stage in plan.stages:
                spare = (stage.node, stage.first_layer, stage.last_layer)
                if spare not in held:
                    yield spare
