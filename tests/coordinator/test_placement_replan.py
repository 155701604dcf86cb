"""A plan after a loss: what survives stays, lost layers go where they are soonest running."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_cases import random_case
from test_placement import MB, SHAPE, check, offer

from maille_coordinator.placement import (
    Links,
    NodeOffer,
    Objective,
    PlacementImpossible,
    Plan,
    Wish,
    place,
    replan,
)

WISH = Wish(1000)
LINKS = Links(default_ms=1)
ROOM = {"a": 62_000_000, "b": 49_200_000, "c": 58_300_000}
"""Full: 9 layers and an end, 13 layers, 8 layers and an end."""

RING = [offer(node, 0.1, room) for node, room in ROOM.items()]


def ring(*more: NodeOffer, wish: Wish = WISH) -> tuple[Plan, list[NodeOffer]]:
    """A plan over a, b and c; the other nodes are too slow to be chosen."""
    offers = [*RING, *more]
    plan = place(SHAPE, offers, LINKS, wish)
    assert plan.nodes == {"a", "b", "c"}
    return plan, offers


def places(plan: Plan) -> list[tuple[str, int, int]]:
    return [(stage.node, stage.first_layer, stage.last_layer) for stage in plan.stages]


@pytest.mark.parametrize("lost", ["a", "b", "c"])
def test_survivors_stay_and_the_best_spare_node_takes_over(lost: str) -> None:
    former, offers = ring(offer("good", 2.0, 200 * MB), offer("bad", 3.0, 200 * MB))
    made = replan(former, lost, offers, {})
    check(made)
    expected = [("good" if node == lost else node, *run) for node, *run in places(former)]
    assert places(made) == expected


def test_a_holder_of_the_layers_is_preferred_to_a_faster_node() -> None:
    former, offers = ring(offer("good", 2.0, 200 * MB), offer("slow", 3.0, 200 * MB))
    middle = former.stages[1]
    run = (middle.first_layer, middle.last_layer)
    made = replan(former, middle.node, offers, {"slow": {run}})
    assert places(made)[1] == ("slow", *run)
    half = (run[0], run[1] - 1)
    made = replan(former, middle.node, offers, {"slow": {half}})
    assert places(made)[1] == ("good", *run)


def test_two_disks_that_have_a_part_each_share_the_lost_run() -> None:
    former, offers = ring(
        offer("good", 2.0, 200 * MB), offer("x", 3.0, 200 * MB), offer("y", 3.0, 200 * MB)
    )
    middle = former.stages[1]
    first, last = middle.first_layer, middle.last_layer
    disk = {"x": {(0, first + 2)}, "y": {(first + 3, 29)}}
    made = replan(former, middle.node, offers, disk)
    check(made)
    assert places(made)[1:3] == [("x", first, first + 2), ("y", first + 3, last)]


def test_a_lost_stage_goes_whole_to_one_node_where_the_cut_is_to_stay() -> None:
    former, offers = ring(offer("x", 3.0, 200 * MB), offer("y", 3.0, 200 * MB))
    middle = former.stages[1]
    first, last = middle.first_layer, middle.last_layer
    disk = {"x": {(0, first + 2)}, "y": {(first + 3, 29)}}
    made = replan(former, middle.node, offers, disk, same_cut=True)
    check(made)
    assert places(made)[1] == ("x", first, last)
    made = replan(former, middle.node, offers, {"y": {(first, last)}}, same_cut=True)
    assert places(made)[1] == ("y", first, last)
    # Where nobody has room for all of it, it is split as ever.
    narrow = [*RING, offer("x", 3.0, 45 * MB), offer("y", 3.0, 45 * MB)]
    split = replan(former, middle.node, narrow, {}, same_cut=True)
    check(split)
    assert places(split) == places(replan(former, middle.node, narrow, {}))
    assert len(split.stages) > len(former.stages)


def test_a_replica_takes_over_and_a_new_one_is_placed() -> None:
    wish = Wish(1000, copies=2)
    former, offers = ring(
        offer("r1", 2.0, 200 * MB), offer("r2", 2.1, 200 * MB), offer("good", 1.9, MB), wish=wish
    )
    holder = next(copy.node for copy in former.replicas if copy.stage == 1)
    lost = former.stages[1]
    made = replan(former, lost.node, offers, {})
    check(made)
    assert places(made)[1] == (holder, lost.first_layer, lost.last_layer)
    assert sorted(copy.stage for copy in made.replicas) == [0, 1, 2]
    for copy in former.replicas:
        if copy.stage != 1:
            assert copy in made.replicas


def test_a_lost_replica_is_placed_again_and_the_stages_stay() -> None:
    former, offers = ring(
        offer("r1", 2.0, 100 * MB), offer("r2", 2.1, 200 * MB), wish=Wish(1000, copies=2)
    )
    assert {copy.node for copy in former.replicas} == {"r1", "r2"}
    made = replan(former, "r1", offers, {})
    assert made.stages == former.stages
    assert {copy.node for copy in made.replicas} == {"r2"}


def test_a_survivor_with_room_takes_a_second_stage() -> None:
    offers = [offer("a", 0.1, 90 * MB), offer("b", 0.3, 150 * MB)]
    former = place(SHAPE, offers, LINKS, WISH)
    assert places(former) == [("a", 0, 15), ("b", 16, 29)]
    later = [offer("b", 0.3, 250 * MB)]
    made = replan(former, "a", later, {})
    assert places(made) == [("b", 0, 15), ("b", 16, 29)]
    # Nothing is sent between them.
    assert made.prediction.hops_ms == 0
    assert made.prediction.slowest_ms == pytest.approx(made.prediction.token_ms)


def test_the_whole_model_moves_only_if_the_survivors_leave_no_room() -> None:
    former, offers = ring()
    lost = former.stages[0].node
    with pytest.raises(PlacementImpossible):
        replan(former, lost, offers, {})
    # Room for all layers, but nowhere for an embedding beside what is there already.
    more = [offer(node, 0.1, room + 27 * MB) for node, room in ROOM.items() if node != lost]
    made = replan(former, lost, [*more, offer("x", 2.0, 27 * MB)], {})
    check(made)
    assert not set(places(made)) & set(places(former))


def test_the_loss_of_a_stranger_changes_nothing() -> None:
    former, offers = ring(offer("spare", 2.0))
    assert replan(former, "stranger", offers, {}).stages == former.stages


def test_a_single_stage_lost_is_placed_anew_and_a_lost_pin_is_dropped() -> None:
    wish = Wish(1000, pinned=frozenset({"a"}))
    offers = [offer("a", 0.1), offer("b", 0.2)]
    former = place(SHAPE, offers, LINKS, wish)
    assert places(former) == [("a", 0, 29)]
    assert places(replan(former, "a", offers, {})) == [("b", 0, 29)]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    nodes=st.integers(2, 9),
    sessions=st.sampled_from((1, 3)),
    copies=st.integers(1, 2),
    objective=st.sampled_from(Objective),
)
def test_losses_one_after_the_other_keep_the_rules(
    seed: int, nodes: int, sessions: int, copies: int, objective: Objective
) -> None:
    random = Random(seed)
    wish = Wish(256, sessions, copies, objective)
    shape, offers, links, _ = random_case(random, nodes=nodes, layers=12, wish=wish, tight=True)
    try:
        plan = place(shape, offers, links, wish)
    except PlacementImpossible:
        return
    while len(offers) > 1:
        lost = random.choice(sorted(plan.nodes))
        offers = [offer for offer in offers if offer.node != lost]
        disk = {offer.node: {(random.randrange(6), random.randrange(6, 12))} for offer in offers}
        former = plan
        try:
            plan = replan(former, lost, offers, disk)
        except PlacementImpossible:
            with pytest.raises(PlacementImpossible):
                place(shape, offers, links, wish)
            return
        check(plan)
        assert lost not in plan.nodes | {copy.node for copy in plan.replicas}
