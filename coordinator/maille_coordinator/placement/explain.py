"""A plan in words: who has what, who was left out, and what taking them in would have cost."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from maille_coordinator.placement.predict import predict
from maille_coordinator.placement.shortage import format_bytes
from maille_coordinator.placement.values import (
    Links,
    ModelShape,
    NodeOffer,
    Objective,
    Plan,
    Prediction,
    Stage,
    Wish,
    by_id,
)

__all__ = ["explain", "render"]

Planner = Callable[[ModelShape, Sequence[NodeOffer], Links, Wish], tuple[Stage, ...] | None]

_MOST_TOGETHER = 6
"""With more nodes than this, a node left out is tried together with the chosen ones only."""


def explain(plan: Plan, planner: Planner) -> tuple[str, ...]:
    """One line for each node, and one for the best single node.

    Args:
        plan: to explain.
        planner: plans again with a node forced in.
    """
    offers = by_id(plan.offers)
    lines = [_chosen(plan, stage, offers) for stage in plan.stages]
    outside = sorted(
        (offer for offer in plan.offers if offer.node not in plan.nodes),
        key=lambda offer: (offer.layer_decode_s, offer.node),
    )
    lines += [_left_out(plan, offer, planner) for offer in outside]
    return (*lines, _single(plan))


def render(plan: Plan) -> list[str]:
    """The whole plan as lines of text for a terminal."""
    given, wish = plan.prediction, plan.wish
    lines = [
        f"{len(plan.shape.layers)} layers, {format_bytes(sum(plan.shape.layers))} in layers; "
        f"room for {wish.sessions} x {wish.context_tokens} tokens; "
        + (
            "best for one session"
            if wish.objective is Objective.LATENCY
            else f"best for {wish.sessions} sessions together"
        )
    ]
    for place, stage in enumerate(plan.stages):
        ends = (" + embedding" if stage.with_embedding else "") + (
            " + head" if stage.with_head else ""
        )
        copies = [copy.node for copy in plan.replicas if copy.stage == place]
        lines.append(
            f"  {_layers(stage):<14}{stage.node}{ends}: {format_bytes(stage.weight_bytes)} + "
            f"{format_bytes(stage.kv_bytes)} cache, {stage.predicted_ms:.2f} ms"
            + (f"; copy on {', '.join(copies)}" if copies else "")
        )
    together = f", {given.all_tokens_per_s:.1f} for {wish.sessions} together"
    lines.append(
        f"predicted: {given.tokens_per_s:.1f} tokens/s for one session"
        f"{together if wish.sessions > 1 else ''}, prefill {given.prefill_tokens_per_s:.0f} "
        f"tokens/s; a token takes {given.token_ms:.2f} ms, {given.hops_ms:.2f} ms of it hops"
    )
    return [*lines, *plan.explanation, *(f"note: {note}" for note in plan.notes)]


def _layers(stage: Stage) -> str:
    if stage.first_layer == stage.last_layer:
        return f"layer {stage.first_layer}"
    return f"layers {stage.first_layer}-{stage.last_layer}"


def _chosen(plan: Plan, stage: Stage, offers: dict[str, NodeOffer]) -> str:
    offer = offers[stage.node]
    pinned = " (pinned)" if stage.node in plan.wish.pinned else ""
    held = sum(other.size_bytes for other in plan.stages if other.node == stage.node)
    biggest = max(plan.shape.layers) + plan.wish.kv_bytes(plan.shape)
    full = offer.usable_bytes - held < biggest and len(plan.stages) > 1
    return (
        f"{stage.node}: chosen{pinned} for {_layers(stage)}: {offer.layer_decode_s * 1000:.3f} ms "
        f"a layer, {stage.predicted_ms:.2f} ms a token, {format_bytes(held)} of "
        f"{format_bytes(offer.usable_bytes)} usable" + ("; its memory is full" if full else "")
    )


def _left_out(plan: Plan, offer: NodeOffer, planner: Planner) -> str:
    wish, shape = plan.wish, plan.shape
    copies = [str(copy.stage) for copy in plan.replicas if copy.node == offer.node]
    also = f"; keeps a copy of stage {', '.join(copies)}" if copies else ""
    if offer.node in wish.excluded:
        return f"{offer.node}: left out: excluded by you"
    one_layer = min(shape.layers) + wish.kv_bytes(shape)
    if offer.usable_bytes < one_layer:
        return (
            f"{offer.node}: left out: a layer with its cache needs {format_bytes(one_layer)}, it "
            f"has {format_bytes(offer.usable_bytes)}"
        )
    others = [other for other in plan.offers if other.node not in wish.excluded]
    if len(others) > _MOST_TOGETHER:
        others = [other for other in others if other.node in {*plan.nodes, offer.node}]
    forced = planner(shape, others, plan.links, replace(wish, pinned=wish.pinned | {offer.node}))
    if forced is None:
        return f"{offer.node}: left out: no ring that fits has a layer for it{also}"
    given = predict(forced, by_id(plan.offers), shape, plan.links, wish)
    more = given.cost_ms - plan.prediction.cost_ms
    share = sum(
        stage.last_layer - stage.first_layer + 1 for stage in forced if stage.node == offer.node
    )
    gain = max(0.0, -more)
    effect = (
        f"would cost {max(more, 0.0):.2f} ms/token more"
        if gain == 0
        else f"would gain only {gain:.3f} ms/token, too little for one more node to lose"
    )
    return (
        f"{offer.node}: left out: {offer.layer_decode_s * 1000:.3f} ms a layer; even the best ring "
        f"with it (it has {share} of {len(shape.layers)} layers) {effect}: {_rate(given, wish)} "
        f"instead of {_rate(plan.prediction, wish)}{also}"
    )


def _single(plan: Plan) -> str:
    if plan.best_single is None:
        return "no single node holds the model"
    node, given = plan.best_single
    if len(plan.stages) == 1 and plan.stages[0].node == node:
        return f"{node} alone is the best: no split is faster"
    ours = plan.prediction.tokens_per_s
    slower = plan.wish.objective is Objective.THROUGHPUT and ours < given.tokens_per_s
    return (
        f"best single node: {node} with {_rate(given, plan.wish)}; this plan gives "
        f"{_rate(plan.prediction, plan.wish)}"
        + (
            f", and {ours:.1f} instead of {given.tokens_per_s:.1f} tokens/s to a session alone: "
            "leave out --spread if that is what counts"
            if slower
            else ""
        )
    )


def _rate(given: Prediction, wish: Wish) -> str:
    if wish.objective is Objective.THROUGHPUT:
        return f"{given.all_tokens_per_s:.1f} tokens/s together"
    return f"{given.tokens_per_s:.1f} tokens/s"
