"""Large meshes in virtual time, and what a decision costs; small here, large under `slow`."""

import pytest

from maille.bench.scheduler import measure_scheduler
from maille_simulator.report.decisions import decisions_plot
from maille_simulator.virtual.scale import run_scale


@pytest.mark.timeout(120)
def test_a_thousand_nodes_in_virtual_time() -> None:
    found = run_scale(1000, 10_000)
    assert found.done == 10_000
    assert found.messages > 3 * 1000
    assert found.retried > 0


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_ten_thousand_nodes_and_a_million_tasks_in_virtual_time() -> None:
    found = run_scale(10_000, 1_000_000)
    assert found.done == 1_000_000


@pytest.mark.timeout(60)
def test_decisions_are_measured_and_drawn() -> None:
    cost = measure_scheduler((50, 500), 2000)
    assert [one.nodes for one in cost.times] == [50, 500]
    assert all(0 < one.submit_p50_us <= one.submit_p99_us for one in cost.times)
    assert decisions_plot(cost).startswith("<svg")
