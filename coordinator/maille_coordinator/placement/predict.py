"""What a given ring of stages takes for a token. The one place that says how times add up."""

from collections.abc import Mapping, Sequence

from maille_coordinator.placement.values import (
    MESSAGE_BYTES,
    Links,
    ModelShape,
    NodeOffer,
    Prediction,
    Stage,
    Wish,
)

__all__ = ["make_stage", "predict"]


def make_stage(shape: ModelShape, offer: NodeOffer, first: int, last: int, wish: Wish) -> Stage:
    """A stage of the layers `first` to `last`, both included, with what belongs to its ends."""
    with_embedding = first == 0
    with_head = last == len(shape.layers) - 1
    seconds = (
        offer.layer_decode_s * sum(shape.layer_weights[first : last + 1])
        + with_embedding * offer.embedding_s
        + with_head * offer.head_s
    )
    return Stage(
        node=offer.node,
        first_layer=first,
        last_layer=last,
        with_embedding=with_embedding,
        with_head=with_head,
        weight_bytes=shape.weight_bytes(first, last),
        kv_bytes=wish.kv_bytes(shape) * (last - first + 1),
        predicted_ms=seconds * 1000,
    )


def predict(
    stages: Sequence[Stage],
    offers: Mapping[str, NodeOffer],
    shape: ModelShape,
    links: Links,
    wish: Wish,
) -> Prediction:
    """What a ring of stages gives.

    A node with several stages does one at a time. Prefill is as fast as the slowest node or link,
    because chunks follow each other without a gap.
    """
    size = wish.hop_bytes(shape)
    busy: dict[str, float] = {}
    prefill: dict[str, float] = {}
    transfers = [0.0]
    hops = 0.0
    for place, stage in enumerate(stages):
        offer = offers[stage.node]
        busy[stage.node] = busy.get(stage.node, 0.0) + stage.predicted_ms / 1000
        layers = stage.last_layer - stage.first_layer + 1
        seconds = offer.layer_prefill_s * layers + stage.with_embedding * offer.embedding_s
        prefill[stage.node] = prefill.get(stage.node, 0.0) + seconds
        if place + 1 < len(stages):
            follower = stages[place + 1].node
            hops += links.hop_s(stage.node, follower, size)
            transfers.append(links.transfer_s(stage.node, follower, size))
    hops += links.hop_s(stages[-1].node, stages[0].node, MESSAGE_BYTES)
    token = sum(stage.predicted_ms for stage in stages) / 1000 + hops
    slowest = max(*busy.values(), *transfers)
    together = max(token / wish.sessions, slowest)
    return Prediction(
        token_ms=token * 1000,
        hops_ms=hops * 1000,
        slowest_ms=slowest * 1000,
        tokens_per_s=1 / token,
        all_tokens_per_s=1 / together,
        prefill_tokens_per_s=1 / max(*prefill.values(), *transfers),
        cost_ms=max(token / wish.sessions_that_count, slowest) * 1000,
    )
