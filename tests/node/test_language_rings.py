"""Whatever is lost, doubled, late or killed: the tokens are those of an undisturbed run."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from language_mesh import VOCABULARY
from language_ring import Mesh, undisturbed


def prompt_of(mesh: Mesh, length: int) -> list[int]:
    return [mesh.random.randrange(VOCABULARY) for _ in range(length)]


def finish(mesh: Mesh, limit_ms: float = 60_000) -> None:
    """Let all end, compare, close, and see that every node has freed everything."""
    generations = list(mesh.generations.values())
    done = mesh.run(lambda: all(found.finished for found in generations), limit_ms)
    assert done, [(found.number, len(found.answer), found.count) for found in generations]
    for found in generations:
        assert found.answer == undisturbed(found.prompt, mesh.stages, found.count)
    assert not mesh.wrong
    mesh.loss = mesh.reorder = 0.0
    mesh.run(lambda: False, 100)
    for found in generations:
        mesh.close(found)
    mesh.run(lambda: False, 100)
    for node in mesh.nodes.values():
        if not node.dead:
            assert node.core.session_count == 0
            assert node.caches == {}


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_on_a_good_bus_each_token_is_one_hop_a_stage(stages: int, nodes: int) -> None:
    mesh = Mesh(1, stages=stages, nodes=nodes)
    mesh.arrange()
    mesh.run(lambda: False, 50)
    found = mesh.generate(1, prompt_of(mesh, 70), 40, by_open=True)
    finish(mesh)
    crossings = sum(mesh.route[at] != mesh.route[(at + 1) % stages] for at in range(stages))
    wrap = mesh.route[-1] != mesh.route[0]
    # Three prefill steps of 32, and 39 tokens go round; the last token goes nowhere.
    assert mesh.hops <= crossings * (found.count + 3) - wrap * 3
    for node in mesh.nodes.values():
        counters = node.core.counters
        assert counters.gaps == counters.repeated == counters.unknown == 0, counters


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),
    stages=st.integers(2, 4),
    shadows=st.integers(0, 1),
    sessions=st.integers(1, 3),
    loss=st.sampled_from([0.0, 0.01, 0.04]),
    repeat=st.sampled_from([0.0, 0.1]),
    reorder=st.sampled_from([0.0, 0.05]),
    kills=st.lists(st.tuples(st.integers(20, 400), st.integers(0, 3)), max_size=3),
    fence=st.booleans(),
)
def test_histories(
    seed: int,
    stages: int,
    shadows: int,
    sessions: int,
    loss: float,
    repeat: float,
    reorder: float,
    kills: list[tuple[int, int]],
    fence: bool,
) -> None:
    mesh = Mesh(
        seed,
        stages=stages,
        nodes=stages + 1 + len(kills),
        shadows=shadows,
        slow_repair=not fence,
    )
    mesh.arrange()
    mesh.run(lambda: False, 50)
    mesh.loss, mesh.repeat, mesh.reorder = loss, repeat, reorder
    for number in range(sessions):
        mesh.generate(number + 1, prompt_of(mesh, mesh.random.randint(1, 80)), 30)
    for after_ms, stage in kills:
        mesh.at(after_ms, lambda stage=stage: mesh.kill(stage % stages))  # type: ignore[misc]
    finish(mesh)


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("shadows", [0, 1])
def test_one_loss_is_repaired_without_computing_known_tokens_twice(
    stage: int, shadows: int
) -> None:
    mesh = Mesh(4, stages=3, nodes=5, shadows=shadows)
    mesh.arrange()
    mesh.run(lambda: False, 50)
    found = mesh.generate(1, prompt_of(mesh, 60), 60)
    mesh.run(lambda: len(found.answer) >= 30, 5000)
    mesh.kill(stage)
    finish(mesh, 5000)
    for node in mesh.nodes.values():
        assert node.core.counters.gaps == 0


def test_a_ring_that_was_only_slow_is_not_doubled_by_a_repair() -> None:
    mesh = Mesh(5, stages=3, nodes=3, slow_repair=True)
    mesh.arrange()
    mesh.run(lambda: False, 50)
    found = mesh.generate(1, prompt_of(mesh, 10), 300)
    for turn in range(1, 6):
        mesh.run(lambda turn=turn: len(found.answer) >= 10 * turn, 5000)  # type: ignore[misc]
        mesh.inject(found)
    mesh.run(lambda: len(found.answer) >= 100, 5000)
    before = mesh.hops
    mesh.run(lambda: len(found.answer) >= 200, 5000)
    assert 295 <= mesh.hops - before <= 305
    finish(mesh)
