"""Figures, checks, the page and the XML."""

import io
import json
import math
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from maille_simulator.real.view import live_view
from maille_simulator.report.junit import junit_xml
from maille_simulator.report.page import html_page
from maille_simulator.report.record import (
    AttemptSeen,
    Mark,
    RunRecord,
    TaskSeen,
    Twin,
    text_of_ms,
)
from maille_simulator.scenario.values import (
    Expectations,
    Load,
    LoadKind,
    ModelUse,
    NodeGroup,
    NodeKindName,
    Scenario,
)


def record(**expect: object) -> RunRecord:
    scenario = Scenario(
        "small",
        "A scenario <with> signs & more",
        10.0,
        1,
        "mosquitto",
        (ModelUse("digits"),),
        (NodeGroup("n", NodeKindName.LIGHT, 2),),
        (Load(LoadKind.CONSTANT, "digits", 0.0, 10.0, 1.0),),
        (),
        Expectations(**expect),  # type: ignore[arg-type]
    )
    found = RunRecord(scenario, "real")
    found.tasks = [
        TaskSeen(float(second), second + 0.01 * (second + 1), "done", "n-1", 1, 5.0)
        for second in range(10)
    ]
    found.marks = [Mark(4.005, "kill n-1", ("n-1",), 6.0)]
    found.attempts = [AttemptSeen("n-1", 1.0, 1.1), AttemptSeen("n-2", 2.0, 2.2)]
    found.bytes_by_topic = {"up/res": 1000, "dn/task": 500}
    found.ready_after_s = {"n": 1.5}
    return found


def test_figures() -> None:
    found = record()
    assert found.lost == 0
    assert found.done_share == 1.0
    assert found.latencies_ms[0] < found.latencies_ms[-1]
    assert math.isclose(found.tasks_per_s, 10 / 9.1, rel_tol=1e-6)
    [(mark, after_s)] = found.recoveries()
    assert mark.text == "kill n-1"
    # The task of second 4 was under way and came back at 4.05.
    assert math.isclose(after_s, 0.045, abs_tol=1e-9)


def test_a_task_that_came_while_a_process_started_counts_for_the_recovery() -> None:
    found = record()
    quick, held_up, late = TaskSeen(4.2, 4.25), TaskSeen(4.3, 6.8), TaskSeen(5.2, 9.0)
    for task in (quick, held_up, late):
        task.status = "done"
    found.tasks += [quick, late]
    [(_, after_s)] = found.recoveries()
    assert math.isclose(after_s, 0.045, abs_tol=1e-9), "nothing held these up in the first second"
    found.tasks.append(held_up)
    [(_, after_s)] = found.recoveries()
    assert math.isclose(after_s, 6.8 - 4.005, abs_tol=1e-9)


def test_expectations_hold_or_not() -> None:
    assert record().held
    assert record(p50_ms=60.0, p99_ms=200.0, ready_within_s=2.0, recovered_within_s=1.0).held
    assert not record(p50_ms=10.0).held
    assert not record(tasks_per_s=50.0).held
    assert not record(ready_within_s=1.0).held
    assert not record(recovered_within_s=0.01).held
    lost = record()
    lost.tasks[3].ended_s = None
    lost.tasks[3].status = ""
    assert lost.lost == 1
    assert not lost.held
    assert math.isinf(lost.recoveries()[0][1])
    broken = record()
    broken.broken = "nothing is lost: 3 tasks"
    assert not broken.held


def test_a_twin_that_is_far_off_fails() -> None:
    found = record()
    found.twin = Twin(10.0, 11.0, 100.0, 95.0, 0.3, 0.1)
    assert found.held
    found.twin = Twin(10.0, 15.0, 100.0, 95.0, 0.3, 0.1)
    assert not found.held


@pytest.mark.timeout(100)
def test_the_page_holds_everything_and_loads_nothing() -> None:
    found = record(p50_ms=1.0)
    found.twin = Twin(10.0, 11.0, 100.0, 95.0, 0.3, 0.1)
    text = html_page([found, record()])
    assert text.count("<svg") == 10
    assert "A scenario &lt;with&gt; signs &amp; more" in text
    assert "kill n-1" in text
    assert "predicted" in text
    assert 'class="no">failed' in text
    for outside in ("http:", "https:", "src=", "@import"):
        assert outside not in text.replace("http://www.w3.org/", "")
    ids = [part.split('"', 1)[0] for part in text.split('id="')[1:]]
    assert len(ids) == len(set(ids))


def test_json_knows_no_infinity() -> None:
    found = record()
    found.tasks[3].ended_s = None
    found.tasks[3].status = ""
    found.ready_after_s = {"n": math.inf}
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert json.loads(text)["ready_after_s"] == {"n": None}


def test_junit_says_what_failed(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    path.write_text(junit_xml([record(p50_ms=1.0), record()]))
    root = ET.parse(path).getroot()
    first, second = root.findall("testsuite")
    assert (first.get("failures"), second.get("failures")) == ("1", "0")
    [failure] = first.iter("failure")
    assert "at most 1 ms" in str(failure.get("message"))


@pytest.mark.timeout(60)
def test_an_empty_run_has_a_page_too() -> None:
    found = record()
    found.tasks, found.marks, found.attempts, found.bytes_by_topic = [], [], [], {}
    assert "<svg" not in html_page([found])


def test_times_are_written_as_a_person_writes_them() -> None:
    assert [text_of_ms(value) for value in (4.0213, 44.44, 1118.3, math.inf)] == [
        "4.02 ms",
        "44.4 ms",
        "1,118 ms",
        "none",
    ]


def test_the_live_view_keeps_its_lines_in_a_narrow_terminal() -> None:
    found = record()
    for width in (40, 80, 200):
        for elapsed_s in (None, 0.0, found.scenario.duration_s + 5):
            console = Console(width=width, file=io.StringIO(), force_terminal=False)
            console.print(live_view(found, elapsed_s, {"ready": 12, "lost": 3, "draining": 2}))
            file = console.file
            assert isinstance(file, io.StringIO)
            lines = file.getvalue().splitlines()
            assert [line.split()[0] for line in lines[1:]] == ["nodes", "tasks", "happened", "next"]
            assert ("processes start" in lines[0]) is (elapsed_s is None)
