"""Who keeps further copies of the stages' slices: elsewhere than the stage, failing otherwise."""

from collections.abc import Iterable, Mapping, Sequence

from maille_coordinator.placement.shortage import format_bytes
from maille_coordinator.placement.values import NodeOffer, Replica, Stage, Wish

__all__ = ["place_replicas", "room_left"]


def room_left(
    stages: Iterable[Stage], replicas: Iterable[Replica], offers: Mapping[str, NodeOffer]
) -> dict[str, int]:
    """Usable bytes of each node beyond the stages and replicas that it has."""
    room = {node: offer.usable_bytes for node, offer in offers.items()}
    held = [(stage.node, stage.size_bytes) for stage in stages]
    held += [(copy.node, copy.size_bytes) for copy in replicas]
    for node, size in held:
        if node in room:
            room[node] -= size
    return room


def place_replicas(
    stages: Sequence[Stage],
    offers: Mapping[str, NodeOffer],
    wish: Wish,
    kept: Sequence[Replica] = (),
) -> tuple[tuple[Replica, ...], tuple[str, ...]]:
    """Place as many copies as wished, the largest slices first.

    A copy goes to a node in another failure domain than its stage and its other copies, among
    those to one without a stage, among those to the fastest; within the same domain only if there
    is no other.

    Args:
        stages: of the plan.
        offers: of all nodes.
        wish: tells the copies and who is excluded.
        kept: replicas that stay where they are.

    Returns:
        The replicas by stage, and a note for each copy that has no place.
    """
    replicas = list(kept)
    notes: list[str] = []
    room = room_left(stages, replicas, offers)
    with_stage = {stage.node for stage in stages}
    largest = sorted(range(len(stages)), key=lambda place: (-stages[place].size_bytes, place))
    for _ in range(wish.copies - 1):
        for place in largest:
            stage = stages[place]
            holders = {stage.node} | {copy.node for copy in replicas if copy.stage == place}
            if sum(copy.stage == place for copy in replicas) >= wish.copies - 1:
                continue
            domains = {
                offers[node].failure_domain if node in offers else f"node {node}"
                for node in holders
            }
            fitting = [
                offer
                for offer in offers.values()
                if offer.node not in holders
                and offer.node not in wish.excluded
                and room[offer.node] >= stage.size_bytes
            ]
            if not fitting:
                notes.append(
                    f"no second place for layers {stage.first_layer} to {stage.last_layer}: "
                    f"another node needs {format_bytes(stage.size_bytes)} to spare"
                )
                continue
            chosen = min(
                fitting,
                key=lambda offer: (
                    offer.failure_domain in domains,
                    offer.node in with_stage,
                    offer.layer_decode_s * (1 + offer.reluctance),
                    offer.node,
                ),
            )
            elsewhere = chosen.failure_domain not in domains
            if not elsewhere:
                notes.append(
                    f"the copy of layers {stage.first_layer} to {stage.last_layer} on "
                    f"{chosen.node} is in the same failure domain as another one"
                )
            room[chosen.node] -= stage.size_bytes
            replicas.append(Replica(chosen.node, place, stage.size_bytes, elsewhere))
    replicas.sort(key=lambda replica: (replica.stage, replica.node))
    return tuple(replicas), tuple(notes)
