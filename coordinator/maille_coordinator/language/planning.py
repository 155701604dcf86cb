"""Asks the planner: for a new ring, for one without the nodes that are gone, for a better one."""

from collections.abc import Collection

from maille_coordinator.language.measuring import Measurer
from maille_coordinator.language.records import RingKept
from maille_coordinator.language.state import Model, Pipeline, World
from maille_coordinator.placement import (
    Links,
    NodeOffer,
    Objective,
    PlacementImpossible,
    Plan,
    Wish,
    keep,
    place,
    replan,
)

_BETTER = 0.8
"""A new plan's cost may be at most this share of the running one's to be worth the move."""
_SAME_CUT = 2.0
"""A ring of the same cut, in which the other stages keep their caches, may cost so much more."""
_CACHE_SLACK_POSITIONS = 64
"""Each session takes a position more than it asks for."""
_VALUE_BYTES = 4


class Planner:
    """Makes plans from what nodes measured. All methods raise PlacementImpossible."""

    def __init__(self, world: World, measurer: Measurer) -> None:
        self._world = world
        self._measurer = measurer

    def wish(self, model: Model) -> Wish:
        """What a pipeline of this model is for."""
        limits = self._world.limits
        context = min(limits.context_tokens, model.context_length)
        pinned: list[str] = []
        if limits.least_nodes > 1:
            offers = self._measurer.offers(model)
            offers.sort(key=lambda offer: (offer.layer_decode_s, offer.node))
            pinned = [offer.node for offer in offers[: min(limits.least_nodes, _layers(model))]]
        return Wish(
            context_tokens=context,
            sessions=limits.sessions,
            copies=limits.copies,
            pinned=frozenset(pinned),
            # Layers in even shares, or those that must take part would get one layer each.
            objective=Objective.THROUGHPUT if pinned else Objective.LATENCY,
        )

    def cache_tokens(self, model: Model) -> int:
        """Positions that all sessions of a pipeline may take together."""
        wish = self.wish(model)
        return wish.context_tokens * wish.sessions

    def cache_limit_bytes(self, model: Model, pipeline: Pipeline, stage: int) -> int:
        """What a stage may use for caches and histories."""
        slot = pipeline.slots[stage]
        layers = slot.last - slot.first + 1
        shape = model.shape
        a_position = layers * shape.kv_bytes_per_token + _VALUE_BYTES * shape.hidden_size
        return a_position * (pipeline.cache_tokens + _CACHE_SLACK_POSITIONS)

    def new(self, model: Model, *, with_explanation: bool = False) -> Plan:
        """The best plan from the present measurements."""
        return place(
            model.shape,
            self._measurer.offers(model),
            self._measurer.links(),
            self.wish(model),
            with_explanation=with_explanation,
        )

    def former(self, model: Model, ring: RingKept) -> Plan | None:
        """The plan of a ring that was at work, once all its nodes are here and have measured."""
        offers = self._measurer.offers(model)
        if not {node for node, _, _ in ring.stages} <= {offer.node for offer in offers}:
            return None
        links = self._measurer.links()
        return keep(model.shape, offers, links, self.wish(model), ring.stages)

    def better(self, model: Model, running: Plan) -> Plan | None:
        """A plan that is worth the move, if there is one."""
        plan = self.new(model)
        if len(running.nodes) < self._world.limits.least_nodes:
            return plan if len(plan.nodes) > len(running.nodes) else None
        if len(plan.nodes) < min(len(running.nodes), self._world.limits.least_nodes):
            return None
        return plan if plan.prediction.cost_ms < _BETTER * running.prediction.cost_ms else None

    def without(
        self, model: Model, plan: Plan, gone: Collection[str], *, from_disk: bool = True
    ) -> Plan:
        """What to do when nodes are gone: what survives stays where it is."""
        nodes = self._world.nodes
        kept = plan.nodes - set(gone)
        offers = [offer for offer in self._measurer.offers(model, kept) if offer.node not in gone]
        prints = {
            skill.fingerprint
            for name in gone
            if name in nodes and (skill := nodes[name].skills.get(model.key)) is not None
        }
        disk = {name: node.disk.get(model.key, set()) for name, node in nodes.items() if from_disk}

        def alike(offer: NodeOffer) -> bool:
            skill = nodes[offer.node].skills[model.key]
            return offer.node in plan.nodes or skill.fingerprint in prints

        links = self._measurer.links()
        same = [offer for offer in offers if alike(offer)]
        first = next(iter(gone), "")
        if len(same) < len(offers) and same:
            # Kernels that give other bits could make a rebuilt cache differ in the last place.
            try:
                return _least_change(plan, first, same, disk, links)
            except PlacementImpossible:
                pass
        return _least_change(plan, first, offers, disk, links)


def _least_change(
    plan: Plan,
    lost: str,
    offers: list[NodeOffer],
    disk: dict[str, set[tuple[int, int]]],
    links: Links,
) -> Plan:
    """The same cut, unless another one is much faster: that takes its time when nobody waits."""
    free = replan(plan, lost, offers, disk, links=links)
    same = replan(plan, lost, offers, disk, links=links, same_cut=True)
    return same if same.prediction.cost_ms <= _SAME_CUT * free.prediction.cost_ms else free


def _layers(model: Model) -> int:
    return len(model.shape.layers)
