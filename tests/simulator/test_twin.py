"""The twin: a machine measured by probes, and the same scenario in virtual time."""

from pathlib import Path

import pytest

from maille_simulator.errors import SimulatorError
from maille_simulator.real.run import run_for_real, with_twin
from maille_simulator.scenario.read import find_scenario, read_scenario, shortened
from maille_simulator.virtual.fit import fitted_profile, profile_of, virtual_probes
from maille_simulator.virtual.scenario_run import run_virtually

SCENARIO = """\
name: twin
duration: 4s
nodes:
  - {name: board, kind: light, count: 6}
models:
  - {name: digits, run: 20ms}
load:
  - {kind: bursts, model: digits, burst: 12, every: 0.5s}
"""


@pytest.mark.timeout(60)
def test_a_profile_is_found_again_from_what_its_probes_take() -> None:
    for hop_ms, message_ms in ((0.4, 0.3), (2.0, 0.05)):
        found = fitted_profile(virtual_probes(profile_of(hop_ms, message_ms)))
        assert found.hop_ms == pytest.approx(hop_ms, rel=0.1)
        assert found.message_ms == pytest.approx(message_ms, rel=0.1)


@pytest.mark.timeout(60)
def test_a_slower_machine_is_slower_in_virtual_time() -> None:
    scenario = shortened(read_scenario(find_scenario("classroom")), 12)
    quick = run_virtually(scenario, profile_of(0.3, 0.0)).latencies_ms
    slow = run_virtually(scenario, profile_of(0.3, 0.3)).latencies_ms
    middle = len(quick) // 2
    assert slow[middle] > quick[middle] + 10, "forty at once wait for each other's messages"


@pytest.mark.end_to_end
@pytest.mark.broker
@pytest.mark.timeout(90)
def test_a_measured_run_has_a_twin_and_another_run_has_none(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(SCENARIO)
    record = run_for_real(read_scenario(path), show=False, measured=True)
    twin = with_twin(record).twin
    assert twin is not None
    # How near it is, is measured on a quiet machine; that it is of this machine is not.
    assert 20 < twin.p50_ms_predicted < 1000
    assert twin.tasks_per_s_predicted == pytest.approx(twin.tasks_per_s_measured, rel=0.5)
    assert record.lost == 0
    assert {task.node for task in record.tasks} <= set(record.scenario.nodes)
    record.probes = None
    with pytest.raises(SimulatorError, match="--twin"):
        with_twin(record)
