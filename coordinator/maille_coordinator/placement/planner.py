"""Where a model's layers go: the whole decision, from offers to a plan."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from maille_coordinator.placement.errors import PlacementInputError
from maille_coordinator.placement.explain import explain
from maille_coordinator.placement.predict import make_stage, predict
from maille_coordinator.placement.problem import Answer, full_problem
from maille_coordinator.placement.replicas import place_replicas
from maille_coordinator.placement.search import find_ring
from maille_coordinator.placement.shortage import impossible
from maille_coordinator.placement.values import (
    Links,
    ModelShape,
    NodeOffer,
    Plan,
    Prediction,
    Replica,
    Stage,
    Wish,
    by_id,
)

__all__ = ["best_single", "best_stages", "finish", "keep", "place", "stages_of"]


def place(
    shape: ModelShape,
    offers: Iterable[NodeOffer],
    links: Links,
    wish: Wish,
    *,
    with_explanation: bool = False,
) -> Plan:
    """Place a model.

    The plan is the best for the wish's objective within 2 % for up to seven nodes, and never worse
    than the best single node that holds the model (unless other nodes are pinned).

    Args:
        shape: of the model.
        offers: one for each node, in any order.
        links: between the nodes.
        wish: what for.
        with_explanation: whether to plan once more for each node left out, to tell what it would
            have cost. Takes that many times longer.

    Raises:
        PlacementImpossible: the nodes cannot hold the model, or a pinned one cannot take part.
        PlacementInputError: an offer is given twice or a pinned node offers nothing.
    """
    everyone = by_id(offers)
    allowed = sorted(
        (offer for offer in everyone.values() if offer.node not in wish.excluded),
        key=lambda offer: offer.node,
    )
    unknown = wish.pinned - everyone.keys()
    if unknown:
        raise PlacementInputError(
            f"{', '.join(sorted(unknown))}: pinned but not among the nodes that offer themselves; "
            "start them or drop the pin"
        )
    stages = best_stages(shape, allowed, links, wish)
    if stages is None:
        raise impossible(shape, allowed, links, wish)
    made = finish(stages, shape, tuple(everyone.values()), links, wish)
    if with_explanation:
        made = replace(made, explanation=explain(made, best_stages))
    return made


def best_stages(
    shape: ModelShape, allowed: Sequence[NodeOffer], links: Links, wish: Wish
) -> tuple[Stage, ...] | None:
    """The best ring over nodes that may all take part, None if none fits."""
    useful = [offer for offer in allowed if _holds_a_layer(shape, offer, wish)]
    if not useful or wish.pinned - {offer.node for offer in useful}:
        return None
    problem = full_problem(shape, useful, links, wish)
    required = [place for place, offer in enumerate(useful) if offer.node in wish.pinned]
    answer = find_ring(problem, wish.sessions_that_count, required)
    if answer is None:
        return None
    stages = stages_of(answer, useful, shape, wish)
    single = best_single(shape, useful, links, wish)
    if single is None or wish.pinned - {single[0]}:
        return stages
    # A reluctant node may be alone the fastest: the promise is about true times.
    given = predict(stages, by_id(useful), shape, links, wish)
    if single[1].cost_ms < given.cost_ms:
        return (make_stage(shape, by_id(useful)[single[0]], 0, len(shape.layers) - 1, wish),)
    return stages


def stages_of(
    answer: Answer, offers: Sequence[NodeOffer], shape: ModelShape, wish: Wish, first: int = 0
) -> tuple[Stage, ...]:
    """A solver's runs as stages; `first` is the layer its problem starts at."""
    return tuple(
        make_stage(shape, offers[place], first + start, first + end - 1, wish)
        for place, start, end in answer.runs
    )


def best_single(
    shape: ModelShape, offers: Iterable[NodeOffer], links: Links, wish: Wish
) -> tuple[str, Prediction] | None:
    """The node that serves the objective best alone, None if none holds the whole model."""
    last = len(shape.layers) - 1
    needed = needed_bytes(shape, wish)
    found = [
        (offer.node, predict((stage,), {offer.node: offer}, shape, links, wish))
        for offer in offers
        if offer.usable_bytes >= needed
        for stage in (make_stage(shape, offer, 0, last, wish),)
    ]
    return min(found, key=lambda pair: (pair[1].cost_ms, pair[0]), default=None)


def needed_bytes(shape: ModelShape, wish: Wish) -> int:
    """Weights and caches of the whole model on one node."""
    count = len(shape.layers)
    return shape.weight_bytes(0, count - 1) + wish.kv_bytes(shape) * count


def keep(
    shape: ModelShape,
    offers: Iterable[NodeOffer],
    links: Links,
    wish: Wish,
    places: Iterable[tuple[str, int, int]],
) -> Plan:
    """The plan of a ring that is at work already, whatever a new one would be.

    Args:
        shape: of the model.
        offers: of all nodes; those of the ring are among them.
        links: between them.
        wish: what the ring is for.
        places: node, first and last layer of each stage, in order.
    """
    known = by_id(offers)
    stages = tuple(
        make_stage(shape, known[node], first, last, wish) for node, first, last in places
    )
    return finish(stages, shape, tuple(known.values()), links, wish)


def finish(
    stages: tuple[Stage, ...],
    shape: ModelShape,
    offers: tuple[NodeOffer, ...],
    links: Links,
    wish: Wish,
    kept: Sequence[Replica] = (),
) -> Plan:
    """A plan of given stages: predicted, and with replicas as wished; `kept` ones stay."""
    known = by_id(offers)
    replicas, notes = place_replicas(stages, known, wish, kept)
    allowed = [offer for offer in offers if offer.node not in wish.excluded]
    return Plan(
        stages=stages,
        replicas=replicas,
        prediction=predict(stages, known, shape, links, wish),
        best_single=best_single(shape, allowed, links, wish),
        notes=notes,
        shape=shape,
        offers=offers,
        links=links,
        wish=wish,
    )


def _holds_a_layer(shape: ModelShape, offer: NodeOffer, wish: Wish) -> bool:
    return offer.usable_bytes >= min(shape.layers) + wish.kv_bytes(shape)
