"""Language models in virtual time: arranged, generated, repaired, handed over, restarted."""

from dataclasses import replace
from itertools import pairwise

import pytest
from language_world import KEY, LAYERS, MEMORY, PROCESS_BYTES, Mesh, answer

from maille_coordinator.language.events import NodeChanged, SessionCancelled, StageReported
from maille_coordinator.language.state import LanguageLimits, ModelState
from maille_coordinator.placement import Objective
from maille_protocol import ErrorCode, StageReport, StageState


def ready_mesh(count: int = 3, seed: int = 0, limits: LanguageLimits | None = None) -> Mesh:
    """Nodes `a`, `b`, ... with the model ready on them."""
    mesh = Mesh(seed, limits=limits) if limits else Mesh(seed)
    for place in range(count):
        mesh.start_node("abcdefgh"[place], 1000 + 100 * place)
    mesh.run(lambda: mesh.core.models[KEY].state is ModelState.READY)
    return mesh


def primaries(mesh: Mesh) -> list[str]:
    """Who has the stages, in order."""
    pipeline = mesh.core.models[KEY].pipeline
    assert pipeline is not None
    return [slot.primary for slot in pipeline.slots]


def test_a_model_is_measured_cut_loaded_and_checked_before_it_is_ready() -> None:
    mesh = ready_mesh(3)
    pipeline = mesh.core.models[KEY].pipeline
    assert pipeline is not None
    assert len(pipeline.slots) >= 2
    assert pipeline.slots[0].first == 0
    assert pipeline.slots[-1].last == LAYERS - 1
    assert not pipeline.sessions
    assert not mesh.tokens


def test_a_generation_gives_the_tokens_of_the_model() -> None:
    mesh = ready_mesh()
    start = mesh.ask("one", (3, 1, 4, 1, 5), count=20)
    mesh.run(lambda: mesh.finished("one"))
    assert mesh.tokens["one"] == answer(start)
    assert mesh.ends["one"].finish == "length"


def test_an_end_token_stops_it() -> None:
    mesh = ready_mesh()
    tokens = answer(mesh.ask("whole", count=10))
    start = mesh.ask("cut", count=10, end_tokens=(tokens[6],))
    mesh.run(lambda: mesh.finished("whole", "cut"))
    assert mesh.tokens["cut"] == answer(start) == tokens[:7]
    assert mesh.ends["cut"].finish == "stop"


def test_several_run_at_once_and_others_wait_for_room() -> None:
    mesh = ready_mesh()
    starts = [mesh.ask(f"s{seed}", count=40, seed=seed) for seed in range(8)]
    mesh.run(lambda: mesh.finished(*(start.session for start in starts)))
    for start in starts:
        assert mesh.tokens[start.session] == answer(start)


def test_asked_before_a_node_is_there() -> None:
    mesh = Mesh()
    start = mesh.ask("early")
    mesh.start_node("a")
    mesh.start_node("b")
    mesh.run(lambda: mesh.finished("early"))
    assert mesh.tokens["early"] == answer(start)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_loss_of_any_stage_changes_no_token(place: int) -> None:
    mesh = ready_mesh(4, limits=LanguageLimits(context_tokens=64, least_nodes=3))
    start = mesh.ask("one", count=40, penalty=True)
    mesh.run(lambda: len(mesh.tokens.get("one", [])) >= 10)
    mesh.kill(primaries(mesh)[place])
    mesh.run(lambda: mesh.finished("one"))
    assert mesh.tokens["one"] == answer(start)
    assert mesh.ends["one"].finish == "length"


def test_a_node_that_falls_silent_is_replaced() -> None:
    mesh = ready_mesh(4)
    start = mesh.ask("one", count=40)
    mesh.run(lambda: len(mesh.tokens.get("one", [])) >= 10)
    before_ms = mesh.now_ms
    mesh.nodes[primaries(mesh)[1]].deaf = True
    mesh.run(lambda: mesh.finished("one"))
    assert mesh.tokens["one"] == answer(start)
    assert mesh.now_ms - before_ms < 4000


def test_a_drained_node_hands_over_without_a_pause() -> None:
    mesh = ready_mesh(4)
    start = mesh.ask("one", count=60)
    mesh.run(lambda: len(mesh.tokens.get("one", [])) >= 5)
    leaver = primaries(mesh)[0]
    mesh.drain(leaver)
    mesh.run(lambda: leaver not in primaries(mesh))
    mesh.run(lambda: mesh.finished("one"))
    assert mesh.tokens["one"] == answer(start)
    times = mesh.came_ms["one"]
    assert max(after - before for before, after in pairwise(times)) < 300
    mesh.pause(100)
    assert mesh.nodes[leaver].core.stage_count == 0


@pytest.mark.parametrize("place", [0, 1])
def test_an_heir_that_lags_behind_takes_over_without_a_gap(place: int) -> None:
    mesh = ready_mesh(2)
    pipeline = mesh.core.models[KEY].pipeline
    assert pipeline is not None
    # A step takes it as long as one of the ring, with two answers: it lags behind.
    mesh.start_node("slow", 1400, memory_bytes=2 * MEMORY)
    mesh.pause(6000)
    starts = [mesh.ask(name, seed=seed, count=90) for seed, name in enumerate(("one", "two"))]
    mesh.run(lambda: len(mesh.tokens.get("two", [])) >= 5)
    leaver = primaries(mesh)[place]
    repairs, layout = mesh.core.counters.repairs, pipeline.layout
    mesh.drain(leaver)
    mesh.run(lambda: "slow" in primaries(mesh))
    assert not mesh.ends
    mesh.run(lambda: mesh.finished("one", "two"))
    for start in starts:
        assert mesh.tokens[start.session] == answer(start)
    assert mesh.core.counters.repairs == repairs
    assert pipeline.layout == layout + 2  # the heir comes in, then takes over


def test_a_replica_takes_over_within_a_moment() -> None:
    mesh = ready_mesh(4, limits=LanguageLimits(context_tokens=64, sessions=2, copies=2))
    pipeline = mesh.core.models[KEY].pipeline
    assert pipeline is not None
    assert all(slot.shadows for slot in pipeline.slots)
    start = mesh.ask("one", count=60, penalty=True)
    mesh.run(lambda: len(mesh.tokens.get("one", [])) >= 20)
    mesh.kill(primaries(mesh)[-1])
    mesh.run(lambda: mesh.finished("one"))
    assert mesh.tokens["one"] == answer(start)
    times = mesh.came_ms["one"]
    assert max(after - before for before, after in pairwise(times)) < 100


def test_only_a_spread_plans_for_many_sessions_together() -> None:
    limits = LanguageLimits(context_tokens=64, sessions=3)
    alone = ready_mesh(4, limits=limits).core.plan(KEY)
    assert (alone.wish.sessions, alone.wish.objective) == (3, Objective.LATENCY)
    spread = ready_mesh(4, limits=replace(limits, least_nodes=3)).core.plan(KEY)
    assert spread.wish.objective is Objective.THROUGHPUT
    assert len(spread.nodes) >= 3


def test_the_coordinator_restarts() -> None:
    mesh = ready_mesh(3)
    start = mesh.ask("one", count=60)
    mesh.run(lambda: len(mesh.tokens.get("one", [])) >= 20)
    mesh.restart()
    mesh.run(lambda: mesh.finished("one"))
    assert mesh.tokens["one"] == answer(start)
    mesh.pause(10_000)
    held = sum(node.core.stage_count for node in mesh.nodes.values())
    assert held == len(primaries(mesh))


def test_a_restarted_coordinator_takes_up_the_same_ring() -> None:
    mesh = ready_mesh(4)
    start = mesh.ask("one", count=60)
    mesh.run(lambda: len(mesh.tokens.get("one", [])) >= 20)
    leaver = primaries(mesh)[0]
    mesh.drain(leaver)
    mesh.run(lambda: leaver not in primaries(mesh))
    mesh.start_node(leaver, 100, memory_bytes=4 * MEMORY)  # a new plan would put all of it here
    mesh.pause(5)
    before = mesh.core.models[KEY].pipeline
    assert before is not None
    cut = [(slot.primary, slot.first, slot.last) for slot in before.slots]
    stopped_ms = mesh.now_ms
    mesh.restart()
    mesh.run(lambda: mesh.core.models[KEY].state is ModelState.READY)
    assert mesh.now_ms - stopped_ms < 100
    after = mesh.core.models[KEY].pipeline
    assert after is not None
    assert [(slot.primary, slot.first, slot.last) for slot in after.slots] == cut
    mesh.run(lambda: mesh.finished("one"))
    assert mesh.tokens["one"] == answer(start)


def test_a_ring_goes_on_with_the_same_nodes_when_the_broker_is_back() -> None:
    mesh = ready_mesh(4)
    start = mesh.ask("one", count=60)
    mesh.run(lambda: len(mesh.tokens.get("one", [])) >= 20)
    before = mesh.core.models[KEY].pipeline
    assert before is not None
    cut = [(slot.primary, slot.first, slot.last) for slot in before.slots]
    mesh.lose_broker(2000.0)
    mesh.run(lambda: len(mesh.tokens["one"]) > 40)
    after = mesh.core.models[KEY].pipeline
    assert after is not None
    assert [(slot.primary, slot.first, slot.last) for slot in after.slots] == cut
    mesh.run(lambda: mesh.finished("one"))
    assert mesh.tokens["one"] == answer(start)
    times = mesh.came_ms["one"]
    assert max(later - earlier for earlier, later in pairwise(times)) < 3000
    mesh.pause(20_000)
    assert sum(node.core.stage_count for node in mesh.nodes.values()) == len(cut)


def test_a_spare_slice_asked_of_a_node_that_is_gone_is_not_waited_for() -> None:
    mesh = ready_mesh(4, limits=LanguageLimits(context_tokens=64, sessions=3, least_nodes=3))
    assert mesh.core.spares_missing > 0
    mesh.pause(20)
    gone = next(name for name in mesh.nodes if name not in primaries(mesh))
    mesh.kill(gone)
    mesh.pause(100)
    mesh.start_node(gone)
    mesh.run(lambda: mesh.core.spares_missing == 0, 20_000.0)


def test_a_ring_whose_node_does_not_come_back_is_planned_anew() -> None:
    mesh = ready_mesh(4)
    start = mesh.ask("one", count=60)
    mesh.run(lambda: len(mesh.tokens.get("one", [])) >= 20)
    gone = primaries(mesh)[0]
    mesh.nodes[gone].alive = False
    stopped_ms = mesh.now_ms
    mesh.restart()
    mesh.run(lambda: mesh.core.models[KEY].state is ModelState.READY)
    assert mesh.now_ms - stopped_ms < 5000
    assert gone not in primaries(mesh)
    mesh.run(lambda: mesh.finished("one"))
    assert mesh.tokens["one"] == answer(start)


def test_a_cancel_frees_every_stage() -> None:
    mesh = ready_mesh()
    mesh.ask("one", count=60)
    mesh.run(lambda: len(mesh.tokens.get("one", [])) >= 5)
    mesh.tell(SessionCancelled("one", "cancelled"))
    assert mesh.ends["one"].finish == "cancelled"
    mesh.pause(50)
    assert not any(node.core.session_count for node in mesh.nodes.values())
    assert not any(node.caches for node in mesh.nodes.values())


def test_a_model_that_does_not_fit_says_how_much_is_missing() -> None:
    mesh = Mesh()
    mesh.start_node("a", memory_bytes=PROCESS_BYTES + 2_000_000)
    mesh.run(lambda: mesh.core.models[KEY].state is ModelState.IMPOSSIBLE)
    assert "missing" in mesh.core.models[KEY].text
    mesh.pause(6000)
    mesh.ask("refused")
    assert mesh.ends["refused"].code == "model_impossible"
    mesh.start_node("b")
    mesh.start_node("c")
    mesh.run(lambda: mesh.core.models[KEY].state is ModelState.READY)


def test_what_is_too_long_is_refused_with_what_is_missing() -> None:
    mesh = ready_mesh()
    mesh.ask("context", tuple(range(1, 250)), count=20)
    assert mesh.ends["context"].code == "context_too_long"
    mesh.ask("cache", tuple(range(1, 190)), count=20)
    assert mesh.ends["cache"].code == "cache_too_small"
    assert "missing" in mesh.ends["cache"].text


def test_no_mesh_is_left_to_go_on() -> None:
    mesh = ready_mesh(2)
    mesh.ask("one", count=60)
    mesh.run(lambda: len(mesh.tokens.get("one", [])) >= 5)
    mesh.kill("a")
    mesh.run(lambda: mesh.finished("one"))
    assert mesh.ends["one"].code == "model_unavailable"
    assert "missing" in mesh.ends["one"].text


def test_a_node_that_returns_goes_on_with_it() -> None:
    mesh = ready_mesh(2)
    start = mesh.ask("one", count=60)
    mesh.run(lambda: len(mesh.tokens.get("one", [])) >= 5)
    mesh.kill("b")
    mesh.pause(5000)
    mesh.start_node("b")
    mesh.run(lambda: mesh.finished("one"))
    assert mesh.tokens["one"] == answer(start)


def test_a_much_better_node_is_used_when_nobody_is_disturbed() -> None:
    mesh = ready_mesh(2)
    mesh.start_node("fast", 100, memory_bytes=MEMORY + 20_000_000)
    mesh.run(lambda: primaries(mesh) == ["fast"] if mesh.core.models[KEY].pipeline else False)
    mesh.run(lambda: mesh.core.models[KEY].state is ModelState.READY)
    start = mesh.ask("one")
    mesh.run(lambda: mesh.finished("one"))
    assert mesh.tokens["one"] == answer(start)


# --- common beginnings ---------------------------------------------------------------------------

BEGINNING = tuple(range(100, 130))


def computed(mesh: Mesh) -> int:
    """Positions that all nodes have computed so far."""
    return sum(node.positions for node in mesh.nodes.values())


def shared(mesh: Mesh, name: str) -> int:
    """What a session did not need to compute."""
    return mesh.shared[name]


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_prompt_that_begins_as_a_former_session_is_not_computed_again(nodes: int) -> None:
    limits = LanguageLimits(context_tokens=128, sessions=3, least_nodes=nodes)
    mesh = Mesh(limits=limits)
    for name in "abc"[:nodes]:
        mesh.start_node(name, memory_bytes=PROCESS_BYTES + 40_000_000)
    mesh.run(lambda: mesh.core.models[KEY].state is ModelState.READY)
    first = mesh.ask("first", BEGINNING, count=10)
    mesh.run(lambda: mesh.finished("first"))
    before = computed(mesh)
    # A conversation that goes on: question, answer, and some more.
    again = mesh.ask("again", (*BEGINNING, *mesh.tokens["first"], 7, 8), count=10, penalty=True)
    other = mesh.ask("other", (*BEGINNING[:20], 5, 5, 5), count=10, seed=3)
    mesh.run(lambda: mesh.finished("again", "other"))
    for start in (first, again, other):
        assert mesh.tokens[start.session] == answer(start)
    assert (shared(mesh, "first"), shared(mesh, "again")) == (0, len(BEGINNING) + 9)
    assert shared(mesh, "other") == 20
    # 3 and 3 new positions of the prompts, and the answers' but for their last tokens.
    stages = len(primaries(mesh))
    assert computed(mesh) - before == stages * (3 + 9 + 3 + 9)
    assert mesh.core.counters.repairs == 0


def test_a_beginning_whose_node_is_gone_is_computed_again() -> None:
    mesh = ready_mesh(4, limits=LanguageLimits(context_tokens=64, least_nodes=3))
    mesh.ask("first", BEGINNING, count=10)
    mesh.run(lambda: mesh.finished("first"))
    mesh.kill(primaries(mesh)[1])
    mesh.pause(2000)
    start = mesh.ask("again", (*BEGINNING, 1), count=10)
    mesh.run(lambda: mesh.finished("again"))
    assert mesh.tokens["again"] == answer(start)
    assert shared(mesh, "again") == 0


def test_a_beginning_that_a_node_gave_up_is_found_missing_and_computed_again() -> None:
    mesh = ready_mesh(4, limits=LanguageLimits(context_tokens=64, least_nodes=3))
    mesh.ask("first", BEGINNING, count=10)
    mesh.run(lambda: mesh.finished("first"))
    pipeline = mesh.core.models[KEY].pipeline
    assert pipeline is not None
    (handle,) = pipeline.kept
    mesh.forget_session(primaries(mesh)[1], pipeline.number, handle)
    start = mesh.ask("again", (*BEGINNING, 1), count=10)
    mesh.run(lambda: mesh.finished("again"))
    assert mesh.tokens["again"] == answer(start)
    assert shared(mesh, "again") == 0


def test_what_is_kept_makes_room_for_sessions() -> None:
    mesh = ready_mesh(3, limits=LanguageLimits(context_tokens=64, sessions=2))
    for number in range(6):
        prompt = tuple(range(number * 100, number * 100 + 30))
        start = mesh.ask(f"s{number}", prompt, count=30)
        mesh.run(lambda start=start: mesh.finished(start.session))  # type: ignore[misc]
        assert mesh.tokens[start.session] == answer(start)
        pipeline = mesh.core.models[KEY].pipeline
        assert pipeline is not None
        kept = sum(len(kept.tokens) for kept in pipeline.kept.values())
        assert 0 < kept <= pipeline.cache_tokens
    assert mesh.core.counters.repairs == 0


def test_a_cancelled_session_leaves_nothing() -> None:
    mesh = ready_mesh()
    mesh.ask("one", BEGINNING, count=30)
    mesh.run(lambda: len(mesh.tokens.get("one", [])) >= 3)
    mesh.tell(SessionCancelled("one", "cancelled"))
    mesh.pause(100)
    assert not any(node.caches for node in mesh.nodes.values())


def test_what_seemed_lost_with_a_new_start_is_dropped_by_a_process_that_still_has_it() -> None:
    mesh = ready_mesh(4)
    name = primaries(mesh)[0]
    node = mesh.nodes[name]
    held = node.core.stage_count
    # Another device with this id was heard for a moment, and its boot number made it the node.
    other = node.boot + 1000
    mesh.tell(NodeChanged(name, other, alive=False, ready=False, draining=False))
    mesh.pause(50)
    mesh.tell(NodeChanged(name, node.boot, alive=True, ready=True, draining=False))
    mesh.pause(20_000)
    pipeline = mesh.core.models[KEY].pipeline
    assert pipeline is not None
    wanted = sum(name in slot.loads for slot in pipeline.slots)
    assert held
    assert node.core.stage_count == wanted
    assert not mesh.core.sizes()["leftovers"]


def test_a_model_that_was_impossible_for_a_while_answers_again_when_its_nodes_are_back() -> None:
    mesh = ready_mesh(2)
    name = primaries(mesh)[0]
    mesh.kill(name)
    mesh.pause(6000)
    assert mesh.core.models[KEY].state is ModelState.IMPOSSIBLE
    mesh.start_node(name)
    mesh.run(lambda: mesh.core.models[KEY].state is ModelState.READY)
    start = mesh.ask("one", count=8)
    mesh.run(lambda: mesh.finished("one"))
    assert mesh.ends["one"].finish == "length", mesh.ends["one"]
    assert mesh.tokens["one"] == answer(start)


def test_nodes_that_were_silent_for_a_while_are_taken_again_when_they_answer() -> None:
    mesh = ready_mesh(2)
    start = mesh.ask("one", count=60)
    mesh.run(lambda: len(mesh.tokens.get("one", [])) >= 5)
    for node in mesh.nodes.values():
        node.deaf = True
    mesh.pause(3500)
    assert mesh.core.models[KEY].state is ModelState.IMPOSSIBLE
    for node in mesh.nodes.values():
        node.deaf = False
    mesh.run(lambda: mesh.finished("one"), 5000.0)
    assert mesh.tokens["one"] == answer(start)
    # What they had been told to drop meanwhile is no failure to load it again.
    assert not [report for report in mesh.reports if "could not load" in report]


def test_nobody_is_refused_while_nodes_measure_with_which_it_may_be_possible() -> None:
    mesh = Mesh()
    mesh.start_node("a")
    mesh.run(lambda: mesh.core.models[KEY].state is ModelState.IMPOSSIBLE)
    mesh.pause(6000)
    mesh.ask("early")
    assert mesh.ends["early"].code == "model_impossible"
    assert mesh.ends["early"].text.startswith("no set of the 1 node")
    mesh.start_node("b")
    start = mesh.ask("late", count=8)
    mesh.run(lambda: mesh.finished("late"))
    assert mesh.tokens["late"] == answer(start)


def test_a_stage_without_room_is_asked_again_before_the_only_answer_is_given_up() -> None:
    mesh = ready_mesh()
    start = mesh.ask("one", count=40)
    mesh.run(lambda: len(mesh.tokens.get("one", [])) >= 5)
    pipeline = mesh.core.models[KEY].pipeline
    assert pipeline is not None
    (handle,) = pipeline.sessions
    full = StageReport(
        StageState.FAILED, pipeline.number, 0, 0, ErrorCode.CACHE_FULL, "full", session=handle
    )
    mesh.tell(StageReported(pipeline.slots[0].primary, full))
    assert not mesh.ends
    mesh.run(lambda: mesh.finished("one"))
    assert mesh.tokens["one"] == answer(start)


def test_a_node_whose_steps_fail_is_replaced_in_the_middle_of_an_answer() -> None:
    mesh = ready_mesh(4)
    start = mesh.ask("one", count=40)
    mesh.run(lambda: len(mesh.tokens.get("one", [])) >= 5)
    sick = primaries(mesh)[-1]
    mesh.nodes[sick].sick = True
    mesh.run(lambda: mesh.finished("one"), 10_000.0)
    assert mesh.tokens["one"] == answer(start)
    assert sick not in primaries(mesh)
    assert any("its steps fail" in report for report in mesh.reports)
