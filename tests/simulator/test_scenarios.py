"""Scenario files: what they may say, what they are told when they are wrong, the ready ones."""

from pathlib import Path
from random import Random

import pytest

from maille_simulator.errors import ScenarioError, SimulatorError
from maille_simulator.real.proxy import FaultProxy
from maille_simulator.scenario.load import arrivals
from maille_simulator.scenario.read import (
    find_scenario,
    read_scenario,
    ready_scenarios,
    seconds,
    shortened,
)
from maille_simulator.scenario.values import EventKind, LinkQuality, LoadKind
from maille_simulator.virtual.scenario_run import run_virtually

GOOD = """\
name: small
duration: 10s
models:
  - name: digits
    run: 5ms
nodes:
  - {name: board, kind: light, count: 3}
  - {name: pc, kind: pc}
load:
  - {kind: constant, model: digits, per_s: 10}
events:
  - {at: 2s, do: kill, nodes: board-1, for: 1s}
expect: {lost: 0}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "scenario.yaml"
    path.write_text(text)
    return path


def test_a_scenario_is_read(tmp_path: Path) -> None:
    scenario = read_scenario(write(tmp_path, GOOD))
    assert scenario.nodes == ("board-1", "board-2", "board-3", "pc")
    assert scenario.duration_s == 10
    assert scenario.events[0].kind is EventKind.KILL
    assert scenario.events[0].lasts_s == 1
    assert len(arrivals(scenario)) == 100


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("do: kill", "do: kil", 12, ["unknown event 'kil'", "did you mean 'kill'"]),
        ("at: 2s", "at: -2", 12, ["no time"]),
        ("at: 2s", "at: soon", 12, ["no time", "1.5s"]),
        ("at: 2s", "at: 11s", 12, ["lasts 10 s"]),
        ("nodes: board-1", "nodes: bord-1", 12, ["no node is called 'bord-1'", "board-1"]),
        ("model: digits", "model: digts", 10, ["no model is called 'digts'", "did you mean"]),
        ("run: 5ms", "file: nothing.onnx", 5, ["no file", "nothing.onnx"]),
        ("kind: light", "kind: toaster", 7, ["toaster", "light"]),
        ("count: 3", "cuont: 3", 7, ["unknown key 'cuont'", "did you mean 'count'"]),
        ("count: 3", "count: 0", 7, ["count"]),
        ("name: pc", "name: board-1", 8, ["two nodes"]),
        ("per_s: 10", "from: 1s", 10, ["needs 'per_s'"]),
        ("per_s: 10", "per_s: 10, to: 11s", 10, ["from 0 s to 11 s"]),
        ("duration: 10s", "duration: 0", 2, ["longer than no time"]),
        ("duration: 10s", "duration: .inf", 2, ["duration is inf"]),
        ("duration: 10s", "duration: 200h", 2, ["seven days"]),
        ("per_s: 10", "per_s: .nan", 10, ["per_s is nan"]),
        ("per_s: 10", "per_s: 1000000000", 10, ["10,000,000,000 tasks"]),
        ("do: kill, nodes: board-1", "do: kill", 12, ["needs `nodes`"]),
        ("do: kill", "do: battery, percent: 3", 12, []),
        ("nodes: board-1, for: 1s", "nodes: pc, percent: 5", 12, []),
        ("do: kill, nodes: board-1", "do: broker_restart, nodes: pc", 12, ["whole mesh"]),
        ("do: kill", "do: loss", 12, ["needs 'share'"]),
        ("do: kill", "do: corruption, share: 0.1", 12, ["no serial line"]),
        ("expect: {lost: 0}", "expect: {lost: 0}\nname: again", 14, ["a second time"]),
        ("expect: {lost: 0}", "expect: {lost: [}", 13, ["not YAML"]),
        ("name: small", "nam: small", 1, ["did you mean 'name'"]),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, words: list[str]
) -> None:
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new, 1))
    if not words:
        # Allowed for light nodes; a PC's battery is its own.
        if "pc" in new:
            read_scenario(path)
        return
    with pytest.raises(ScenarioError) as caught:
        read_scenario(path)
    assert caught.value.line == line
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words", "\x00", "a: &a [*a]", "{" * 2000])
def test_what_is_no_scenario_at_all(tmp_path: Path, text: str) -> None:
    with pytest.raises(SimulatorError, match="scenario"):
        read_scenario(write(tmp_path, text))


def test_a_battery_of_a_pc_cannot_be_ordered(tmp_path: Path) -> None:
    text = GOOD.replace("do: kill, nodes: board-1, for: 1s", "do: battery, percent: 9, nodes: pc")
    with pytest.raises(ScenarioError, match="its battery is real"):
        read_scenario(write(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SimulatorError, match="cannot be read"):
        read_scenario(tmp_path / "none.yaml")
    with pytest.raises(SimulatorError, match="did you mean 'home'"):
        find_scenario("hme")


def test_a_trace_that_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("1,2\n2;3\n")
    text = GOOD.replace(
        "kind: constant, model: digits, per_s: 10", "kind: trace, model: digits, file: trace.csv"
    )
    with pytest.raises(ScenarioError, match=r"trace.csv:2"):
        read_scenario(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "value"), [(2, 2.0), ("200ms", 0.2), ("1.5s", 1.5), ("2m", 120.0), ("1h", 3600.0)]
)
def test_times(text: float | str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


def test_there_are_eight_ready_scenarios_and_each_says_what_it_is() -> None:
    ready = ready_scenarios()
    assert set(ready) >= {
        "home",
        "workshop",
        "classroom",
        "flaky-wifi",
        "power-cut",
        "slow-third",
        "broker-from-hell",
        "night-shift",
        "language-under-churn",
    }
    kinds: set[EventKind] = set()
    loads: set[LoadKind] = set()
    for name, path in ready.items():
        scenario = read_scenario(path)
        assert scenario.name == name
        assert len(scenario.description) > 30
        kinds |= {event.kind for event in scenario.events}
        loads |= {load.kind for load in scenario.loads}
    assert loads == set(LoadKind)
    # A serial line is damaged in the tests of the gateway; the clock needs another program.
    assert kinds == set(EventKind) - {EventKind.CORRUPTION, EventKind.CLOCK_JUMP}


@pytest.mark.timeout(90)
@pytest.mark.parametrize("name", sorted(ready_scenarios()))
def test_ready_scenarios_hold_in_virtual_time(name: str) -> None:
    scenario = shortened(read_scenario(find_scenario(name)), 25.0)
    record = run_virtually(scenario)
    assert record.held, [check for check in record.checks() if not check.held]
    assert len(record.marks) == len(scenario.events)
    assert len(record.tasks) == sum(arrival.count for arrival in arrivals(scenario))
    assert record.attempts or name == "language-under-churn"
    assert sum(record.bytes_by_topic.values()) > 10_000


CHURN = """\
name: churn
duration: 20s
models:
  - {name: talker, language: true}
  - {name: digits, run: 5ms}
nodes:
  - {name: pc, kind: pc, count: 4}
  - {name: board, kind: light}
load:
  - {kind: generations, model: talker, every: 4s, tokens: 300, to: 16s}
  - {kind: constant, model: digits, per_s: 5}
events:
  - {at: 5s, do: kill, nodes: pc-1, for: 2s}
  - {at: 6s, do: drain, nodes: pc-2, for: 3s}
  - {at: 9s, do: coordinator_restart}
  - {at: 13s, do: broker_restart, for: 1s}
expect: {lost: 0, done_share: 1, recovered_within: 12s}
"""


def test_a_language_model_beside_tasks_in_virtual_time(tmp_path: Path) -> None:
    record = run_virtually(read_scenario(write(tmp_path, CHURN)))
    assert record.held, [check for check in record.checks() if not check.held]
    assert len(record.tasks) == 4 + 100
    # Each of the four events fell into an answer, which takes some seconds.
    assert all(after_s > 0.2 for _, after_s in record.recoveries())
    assert record.bytes_by_topic["dn/act"] > 10_000


def test_virtual_time_plays_one_language_model(tmp_path: Path) -> None:
    second = "  - {name: other, language: true}\n  - {name: digits"
    path = write(tmp_path, CHURN.replace("  - {name: digits", second))
    with pytest.raises(SimulatorError, match="virtual time plays one"):
        run_virtually(read_scenario(path))


def test_a_language_model_takes_no_tasks(tmp_path: Path) -> None:
    text = GOOD.replace("run: 5ms", "language: true")
    with pytest.raises(ScenarioError, match="for language models"):
        read_scenario(write(tmp_path, text))


def test_where_every_packet_is_lost_time_still_passes(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(GOOD.replace("do: kill", "do: loss, share: 1"))
    record = run_virtually(read_scenario(path))
    assert record.lost == 0
    link = LinkQuality(loss=1.0)
    proxy = FaultProxy(1, Random(1))
    proxy.quality = link
    assert 2.0 < proxy.delay_s() < 6.0


def test_a_link_is_its_own_again_after_an_event(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    slow = GOOD.replace("count: 3}", "count: 3, link: {latency: 40ms}}")
    slow = slow.replace("  - {name: pc, kind: pc}\n", "")
    path.write_text(slow.replace("do: kill", "do: latency, latency: 200ms"))
    record = run_virtually(read_scenario(path))
    late = [task.latency_ms for task in record.tasks if task.submitted_s > 5]
    assert late
    assert all(latency_ms is not None and latency_ms >= 85 for latency_ms in late)


def test_a_scenario_that_asks_too_much_fails(tmp_path: Path) -> None:
    text = GOOD.replace("expect: {lost: 0}", "expect: {p50: 1ms, tasks_per_s: 1000}")
    record = run_virtually(read_scenario(write(tmp_path, text)))
    assert not record.held
    assert [check.name for check in record.checks() if not check.held] == ["p50", "tasks a second"]


def test_nodes_that_stay_away_cost_tasks(tmp_path: Path) -> None:
    text = GOOD.replace("nodes: board-1, for: 1s", 'nodes: "*"')
    record = run_virtually(read_scenario(write(tmp_path, text)))
    assert record.lost > 50
    assert not record.held


@pytest.mark.parametrize("duration_s", [40.0, 20.0])
def test_the_scenario_of_the_guide_holds(tmp_path: Path, duration_s: float) -> None:
    guide = Path(__file__).parents[2] / "docs/guides/testing-without-hardware.md"
    text = guide.read_text("utf-8").split("```yaml\n")[1].split("```")[0]
    (tmp_path / "mine.onnx").write_bytes(b"virtual time does not read it")
    path = tmp_path / "my-mesh.yaml"
    path.write_text(text, "utf-8")
    record = run_virtually(shortened(read_scenario(path), duration_s))
    assert record.held, [check for check in record.checks() if not check.held]
