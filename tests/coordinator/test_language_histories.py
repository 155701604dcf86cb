"""Whatever happens to the mesh, every answer has the tokens of an undisturbed run, and none hangs."""

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from language_world import KEY, Mesh, Weather, answer

from maille_coordinator.language.events import SessionCancelled
from maille_coordinator.language.records import SessionStart
from maille_coordinator.language.state import LanguageLimits, ModelState

NAMES = ("a", "b", "c", "d")


@dataclass(frozen=True)
class Step:
    """Something that happens after a while."""

    kind: str
    which: int
    after_ms: int


steps = some.builds(
    Step,
    some.sampled_from(
        ("kill", "silent", "start", "drain", "restart", "broker", "ask", "cancel", "ping")
    ),
    some.integers(0, 3),
    some.integers(0, 400),
)


def happen(mesh: Mesh, step: Step, starts: list[SessionStart], cancelled: set[str]) -> None:
    """Do one step, unless it would leave the mesh without enough nodes for good."""
    name = NAMES[step.which]
    node = mesh.nodes[name]
    match step.kind:
        case "kill":
            if node.alive:
                mesh.kill(name, heard_after_ms=(2.0, 50.0, 2800.0)[step.which % 3])
        case "silent":
            node.deaf = not node.deaf
        case "start":
            if not node.alive:
                mesh.start_node(name, 800 + 300 * step.which)
        case "drain":
            if node.alive and not node.deaf:
                mesh.drain(name)
        case "restart":
            mesh.restart()
        case "broker":
            mesh.lose_broker(100.0 + 700.0 * step.which)
        case "ask":
            number = len(starts)
            prompt = tuple(range(1, 2 + 5 * step.which))
            starts.append(
                mesh.ask(f"s{number}", prompt, count=30, seed=number, penalty=bool(step.which % 2))
            )
        case "cancel":
            if starts:
                session = starts[step.which % len(starts)].session
                if session not in mesh.ends:
                    cancelled.add(session)
                    mesh.tell(SessionCancelled(session, "cancelled"))
        case _:
            pass


@pytest.mark.timeout(120)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    seed=some.integers(0, 1 << 32),
    copies=some.sampled_from((1, 2)),
    least_nodes=some.sampled_from((1, 3)),
    lost=some.sampled_from((0.0, 0.0, 0.002, 0.02)),
    overtaken=some.sampled_from((0.0, 0.05)),
    history=some.lists(steps, max_size=10),
)
def test_every_answer_is_that_of_an_undisturbed_run(
    *,
    seed: int,
    copies: int,
    least_nodes: int,
    lost: float,
    overtaken: float,
    history: list[Step],
) -> None:
    limits = LanguageLimits(
        context_tokens=64,
        sessions=3,
        copies=copies,
        least_nodes=least_nodes,
        patience_ms=100_000.0,
    )
    mesh = Mesh(seed, limits=limits)
    mesh.weather = Weather(lost, doubled=lost, overtaken=overtaken)
    for place, name in enumerate(NAMES):
        mesh.start_node(name, 800 + 300 * place)
    mesh.run(lambda: mesh.core.models[KEY].state is ModelState.READY)
    starts = [mesh.ask("s0", count=40), mesh.ask("s1", (9, 8, 7, 6), count=40, penalty=True)]
    cancelled: set[str] = set()
    for step in history:
        mesh.pause(step.after_ms)
        happen(mesh, step, starts, cancelled)
    # In the end there are nodes again, and what is left must come to its end.
    for place, name in enumerate(NAMES):
        node = mesh.nodes[name]
        if not node.alive or node.deaf or node.draining:
            mesh.kill(name)
            mesh.pause(5)
            mesh.start_node(name, 800 + 300 * place)
    mesh.run(lambda: mesh.finished(*(start.session for start in starts)), 150_000.0)
    for start in starts:
        expected = answer(start)
        given_out = mesh.tokens.get(start.session, [])
        assert given_out == expected[: len(given_out)]
        end = mesh.ends[start.session]
        # Refused while too few nodes were there: rightly, and before its first token.
        refused = end.code == "model_impossible" and not given_out
        if start.session not in cancelled and not refused:
            assert end.finish == "length", end
            assert given_out == expected
    assert mesh.core.counters.tokens_contradicting == 0
    # Whatever was lost on the way, memory comes free and stages that nobody wants are dropped.
    mesh.weather = Weather()
    mesh.pause(20_000)
    assert not mesh.core.open_sessions
    pipeline = mesh.core.models[KEY].pipeline
    assert pipeline is not None
    held = {
        (node.name, place)
        for node in mesh.nodes.values()
        for place, slot in enumerate(pipeline.slots)
        if node.name in slot.loads
    }
    assert sum(node.core.stage_count for node in mesh.nodes.values()) == len(held)
