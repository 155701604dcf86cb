"""A plan after the loss of a node: what survives stays, only the lost layers move."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from maille_coordinator.placement.planner import finish, place, stages_of
from maille_coordinator.placement.predict import make_stage
from maille_coordinator.placement.problem import Problem, Whole, full_problem
from maille_coordinator.placement.replicas import room_left
from maille_coordinator.placement.search import find_ring
from maille_coordinator.placement.values import (
    MESSAGE_BYTES,
    Links,
    NodeOffer,
    Plan,
    Replica,
    Stage,
    Wish,
    by_id,
)

__all__ = ["replan"]

Disk = Mapping[str, Collection[tuple[int, int]]]


def replan(
    former: Plan,
    lost_node: str,
    offers: Iterable[NodeOffer],
    disk: Disk,
    *,
    links: Links | None = None,
    same_cut: bool = False,
) -> Plan:
    """Place what a lost node had, with the least change.

    Surviving stages keep their nodes and layers. Each run of lost layers goes to a holder of its
    replica; else to nodes that have its layers on their disks; else to the best nodes. A survivor
    may get a second stage. Only if that leaves no room is the whole model placed anew.

    Args:
        former: the plan that was running.
        lost_node: the node that is gone; nothing changes if it had no part.
        offers: of the nodes there are now. `memory_bytes` counts what they already hold.
        disk: runs of layers (first, last; both included) in each node's cache. A run with the
            first or last layer is taken to have the embedding or head with it.
        links: new measurements, None for those of the former plan.
        same_cut: each lost stage goes as it is to one node, if there is room for that, and the
            others keep their caches.

    Raises:
        PlacementImpossible: the remaining nodes cannot hold the model.
        PlacementInputError: an offer is given twice.
    """
    known = by_id(offer for offer in offers if offer.node != lost_node)
    links = links or former.links
    wish = replace(former.wish, pinned=frozenset(former.wish.pinned & known.keys()))
    replicas = [copy for copy in former.replicas if copy.node in known]
    ring: list[Stage | None] = []
    for at, stage in enumerate(former.stages):
        # A node that no longer offers itself is as gone as the lost one.
        if stage.node in known:
            ring.append(_on(known[stage.node], stage, former, wish))
            continue
        holders = [known[copy.node] for copy in replicas if copy.stage == at]
        heir = min(holders, key=lambda offer: (offer.layer_decode_s, offer.node), default=None)
        replicas = [copy for copy in replicas if not (heir and _is(copy, heir.node, at))]
        ring.append(_on(heir, stage, former, wish) if heir else None)
    holes = _Holes(former, known, links, wish, disk)
    if same_cut and any(ring):
        whole = holes.fill_with_whole_stages(ring, replicas)
        if whole is not None:
            return finish(whole, former.shape, tuple(known.values()), links, wish, replicas)
    if all(stage is None for stage in ring):
        return place(former.shape, known.values(), links, wish)
    filled = holes.fill(ring, replicas)
    if filled is None:
        return place(former.shape, known.values(), links, wish)
    stages, origin = filled
    kept = [
        replace(copy, stage=at)
        for copy in replicas
        for at, stage in enumerate(stages)
        if origin[at] == copy.stage and stage.node != copy.node
    ]
    if min(room_left(stages, kept, known).values()) < 0:
        kept = []  # their room went to a lost run
    return finish(stages, former.shape, tuple(known.values()), links, wish, kept)


class _Holes:
    """Fills the gaps that lost stages left in a ring."""

    def __init__(
        self,
        former: Plan,
        known: Mapping[str, NodeOffer],
        links: Links,
        wish: Wish,
        disk: Disk,
    ) -> None:
        self._former = former
        self._known = known
        self._links = links
        self._wish = wish
        self._disk = disk
        self._offers = [known[node] for node in sorted(known) if node not in wish.excluded]

    def fill(
        self, ring: Sequence[Stage | None], replicas: Sequence[Replica]
    ) -> tuple[tuple[Stage, ...], tuple[int | None, ...]] | None:
        """The whole ring, and for each stage its former place, None for a new one.

        None if a gap fits nowhere.
        """
        done: list[tuple[Stage, int | None]] = []
        at = 0
        while at < len(ring):
            stage = ring[at]
            if stage is not None:
                done.append((stage, at))
                at += 1
                continue
            end = at
            while end < len(ring) and ring[end] is None:
                end += 1
            others = [stage for stage, _ in done] + [stage for stage in ring[end:] if stage]
            found = self._fill_gap(
                self._former.stages[at].first_layer,
                self._former.stages[end - 1].last_layer,
                others,
                replicas,
            )
            if found is None:
                return None
            done += [(stage, None) for stage in found]
            at = end
        return tuple(stage for stage, _ in done), tuple(origin for _, origin in done)

    def fill_with_whole_stages(
        self, ring: Sequence[Stage | None], replicas: Sequence[Replica]
    ) -> tuple[Stage, ...] | None:
        """The whole ring in the former cut; None if a stage fits nowhere."""
        done = list(ring)
        for at, lost in enumerate(self._former.stages):
            if done[at] is not None:
                continue
            held = [stage for stage in done if stage is not None]
            room = room_left(held, replicas, self._known)
            busy_ms = dict.fromkeys(self._known, 0.0)
            for stage in held:
                busy_ms[stage.node] += stage.predicted_ms
            run = (lost.first_layer, lost.last_layer)
            fitting = [
                stage
                for offer in self._offers
                if (stage := _on(offer, lost, self._former, self._wish)).size_bytes
                <= room[offer.node]
            ]
            if not fitting:
                return None
            done[at] = min(
                fitting,
                key=lambda stage: (
                    run not in self._disk.get(stage.node, ()),
                    busy_ms[stage.node] + stage.predicted_ms,
                    stage.node,
                ),
            )
        return tuple(stage for stage in done if stage is not None)

    def _fill_gap(
        self, first: int, last: int, others: Sequence[Stage], replicas: Sequence[Replica]
    ) -> tuple[Stage, ...] | None:
        # What is on a disk is running soonest; a replica is given up before layers are sent.
        for only_disk in (True, False):
            for reserved in (replicas, ()):
                problem = self._problem(first, last, others, reserved, only_disk=only_disk)
                answer = find_ring(problem, self._wish.sessions_that_count)
                if answer is not None:
                    return stages_of(answer, self._offers, self._former.shape, self._wish, first)
        return None

    def _problem(
        self,
        first: int,
        last: int,
        others: Sequence[Stage],
        replicas: Sequence[Replica],
        *,
        only_disk: bool,
    ) -> Problem:
        shape, wish, links = self._former.shape, self._wish, self._links
        whole = full_problem(shape, self._offers, links, wish)
        before = [stage for stage in others if stage.last_layer < first]
        after = [stage for stage in others if stage.first_layer > last]
        size = wish.hop_bytes(shape)
        # The ring closes from its end to its start with a token.
        source, source_bytes = (before[-1], size) if before else (after[-1], MESSAGE_BYTES)
        target, target_bytes = (after[0], size) if after else (before[0], MESSAGE_BYTES)
        has_first, has_final = first == 0, last == len(shape.layers) - 1
        room = room_left(others, replicas, self._known)
        busy: dict[str, float] = {}
        for stage in others:
            busy[stage.node] = busy.get(stage.node, 0.0) + stage.predicted_ms / 1000
        names = whole.names
        fixed_s = sum(stage.predicted_ms for stage in others) / 1000
        for stage, follower in pairwise(others):
            if follower.first_layer == stage.last_layer + 1:
                fixed_s += links.hop_s(stage.node, follower.node, size)
        if not has_first and not has_final:
            fixed_s += links.hop_s(others[-1].node, others[0].node, MESSAGE_BYTES)
        return replace(
            whole,
            weight=whole.weight[first : last + 2] - whole.weight[first],
            memory=whole.memory[first : last + 2] - whole.memory[first],
            room=np.array([room[node] for node in names], dtype=np.int64),
            busy_s=np.array([busy.get(node, 0.0) for node in names]),
            first_s=whole.first_s * has_first,
            final_s=whole.final_s * has_final,
            first_bytes=whole.first_bytes * has_first,
            final_bytes=whole.final_bytes * has_final,
            whole_bytes=whole.first_bytes * has_first + whole.final_bytes * has_final,
            reach=self._reach(first, last) if only_disk else None,
            enter_s=np.array([links.hop_s(source.node, node, source_bytes) for node in names]),
            leave_s=np.array([links.hop_s(node, target.node, target_bytes) for node in names]),
            close_s=np.zeros_like(whole.close_s),
            fixed_s=fixed_s,
            fixed_slowest_s=max(busy.values()),
        )

    def _reach(self, first: int, last: int) -> Whole:
        """Lowest start of a run on each node's disk that ends at each border of the gap."""
        count = last - first + 1
        reach = np.empty((len(self._offers), count + 1), dtype=np.int64)
        for row, offer in enumerate(self._offers):
            held = {
                layer
                for low, high in self._disk.get(offer.node, ())
                for layer in range(max(low, first), min(high, last) + 1)
            }
            start = 0
            reach[row, 0] = 0
            for border in range(1, count + 1):
                if first + border - 1 not in held:
                    start = border
                reach[row, border] = start
        return reach


def _on(offer: NodeOffer, stage: Stage, former: Plan, wish: Wish) -> Stage:
    """A stage with the times that a node has now."""
    return make_stage(former.shape, offer, stage.first_layer, stage.last_layer, wish)


def _is(copy: Replica, node: str, stage: int) -> bool:
    return copy.node == node and copy.stage == stage
