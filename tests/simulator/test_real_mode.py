"""The ready scenarios with real processes, shortened; runs that are cut short or cannot begin."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import psutil
import pytest
from typer.testing import CliRunner

from maille.cli import app
from maille_simulator.errors import SimulatorError, ToolMissing
from maille_simulator.real.run import run_for_real
from maille_simulator.report.junit import chaos_junit_xml
from maille_simulator.scenario.load import arrivals
from maille_simulator.scenario.read import find_scenario, read_scenario, ready_scenarios, shortened
from maille_simulator.virtual.campaign import SeedFailure

SHORT_S = 8.0
GOOD = """\
name: tiny
duration: 3s
nodes:
  - {name: board, kind: light, count: 2}
load:
  - {kind: constant, model: digits, per_s: 10}
"""


@pytest.mark.end_to_end
@pytest.mark.broker
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(ready_scenarios()))
def test_ready_scenarios_hold_with_real_parts(name: str) -> None:
    scenario = shortened(read_scenario(find_scenario(name)), SHORT_S)
    # How fast it goes is measured on a quiet machine, not by a test.
    expect = replace(scenario.expect, p50_ms=None, p99_ms=None, tasks_per_s=None)
    scenario = replace(scenario, expect=expect)
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    record = run_for_real(scenario, show=False)
    assert record.held, [check for check in record.checks() if not check.held]
    assert len(record.tasks) == sum(arrival.count for arrival in arrivals(scenario))
    assert record.bytes_by_topic["up/hb"] > 0
    left = {child.pid for child in psutil.Process().children(recursive=True)} - before
    assert not left


def simulate(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "maille.cli", "simulate", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.end_to_end
@pytest.mark.broker
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("numbers", "codes"),
    [
        ([signal.SIGINT], {130}),
        # The second may come when all has ended: then it ends what is left of the process.
        ([signal.SIGINT, signal.SIGINT], {130, -signal.SIGINT}),
        ([signal.SIGTERM], {143}),
    ],
    ids=["once", "twice", "terminated"],
)
def test_a_run_cut_short_ends_every_process(
    tmp_path: Path, numbers: list[signal.Signals], codes: set[int]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "maille.cli", "simulate", "home"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        children: set[psutil.Process] = set()
        deadline_s = time.monotonic() + 60
        while len(children) < 4:
            assert time.monotonic() < deadline_s
            assert process.poll() is None
            time.sleep(0.1)
            children = set(psutil.Process(process.pid).children(recursive=True))
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.05)
        _, errors = process.communicate(timeout=40)
        assert process.returncode in codes, errors
        assert b"Traceback" not in errors
        _, alive = psutil.wait_procs(list(children), timeout=10)
        assert not alive
        assert not list(tmp_path.glob("maille-sim-*"))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_a_missing_tool_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(GOOD.replace("kind: light", "kind: avr"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match=r"apt install mosquitto\n.*apt install gcc-avr"):
        run_for_real(read_scenario(path), show=False)
    monkeypatch.setenv("MAILLE_FIRMWARE_CACHE", str(tmp_path))
    for kind, package in (("avr", "apt install gcc-avr avr-libc"), ("arduino", "apt install g")):
        path.write_text("broker: amqtt\n" + GOOD.replace("kind: light", f"kind: {kind}"))
        with pytest.raises(ToolMissing, match=package):
            run_for_real(read_scenario(path), show=False)
    path.write_text(
        "broker: amqtt\n" + GOOD + "events:\n  - {at: 1s, do: clock_jump, seconds: 60}\n"
    )
    with pytest.raises(ToolMissing, match="apt install gcc"):
        run_for_real(read_scenario(path), show=False)
    # Programs that are there, and a library that is not.
    for name, does in (
        ("avr-gcc", "exit 0"),
        ("cc", "echo 'main.c: fatal error: simavr/sim_avr.h: No such file' >&2; exit 1"),
    ):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{does}\n")
        program.chmod(0o755)
    path.write_text("broker: amqtt\n" + GOOD.replace("kind: light", "kind: avr"))
    with pytest.raises(ToolMissing, match="apt install libsimavr-dev"):
        run_for_real(read_scenario(path), show=False)


def test_a_disk_that_is_full_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text("broker: amqtt\n" + GOOD)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(SimulatorError, match="set TMPDIR"):
        run_for_real(read_scenario(path), show=False)


@pytest.mark.timeout(60)
def test_a_disk_that_becomes_full_during_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text("broker: amqtt\n" + GOOD.replace("3s", "30s"))
    usage = shutil.disk_usage(tmp_path)
    seen: list[object] = []

    def fills(folder: object) -> object:
        seen.append(folder)
        return usage._replace(free=10**12 if len(seen) < 4 else 0)

    monkeypatch.setattr(shutil, "disk_usage", fills)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(SimulatorError, match=r"became full while this ran.*set TMPDIR"):
        run_for_real(read_scenario(path), show=False)
    assert not list(tmp_path.glob("maille-sim-*"))


@pytest.mark.timeout(100)
def test_a_disk_that_is_full_when_the_report_is_written() -> None:
    done = simulate("classroom", "--virtual", "--duration", "3", "--report", "/dev/full")
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "free some space" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.timeout(100)
def test_the_command_line_in_virtual_time(tmp_path: Path) -> None:
    page, junit = tmp_path / "page.html", tmp_path / "junit.xml"
    done = simulate(
        *("classroom", "--virtual", "--duration", "10", "--json"),
        *("--report", str(page), "--junit", str(junit)),
    )
    assert done.returncode == 0, done.stderr
    [found] = json.loads(done.stdout)
    assert found["held"]
    assert found["lost"] == 0
    assert "<svg" in page.read_text()
    assert ET.parse(junit).getroot().find("testsuite") is not None
    path = tmp_path / "asks-too-much.yaml"
    path.write_text(GOOD + "expect: {p50: 0.01ms}\n")
    done = simulate(str(path), "--virtual")
    assert done.returncode == 1
    assert "FAILED" in done.stdout


@pytest.mark.timeout(100)
def test_the_command_line_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(GOOD + "events:\n  - {at: 1s, do: explode}\n")
    done = simulate(str(path), "--virtual")
    assert done.returncode == 2
    assert "unknown event 'explode'" in done.stderr.replace("\n", "")
    assert ":8:" in done.stderr.replace("\n", "")
    done = simulate()
    assert done.returncode == 0
    assert "classroom" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["uno", "--virtual"], "--virtual means nothing with uno, nano or mega"),
        (["uno", "home"], "goes alone"),
        (["home", "--count", "3"], "it goes with uno, nano or mega"),
        (["home", "--chaos", "3"], "Leave home out"),
        (["--chaos", "3", "--report", "page.html"], "--report means nothing with --chaos"),
        (["--junit", "j.xml"], "--junit means nothing without a scenario"),
        (["hme"], "did you mean 'home'?"),
        (["missing.yaml"], "(No such file or directory): give the path"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], text: str) -> None:
    done = CliRunner().invoke(app, ["simulate", *arguments])
    assert done.exit_code == 2
    assert text in done.stderr


def test_seeds_that_broke_a_promise_in_junit_xml() -> None:
    failures = [SeedFailure(7, "nothing is lost", "task <1> has no end")]
    root = ET.fromstring(chaos_junit_xml(5, 10, failures, "one kill", 2.0))
    [suite] = root
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [case.get("name") for case in suite.iter("testcase")] == [
        "9 of 10 seeds from 5",
        "seed 7: nothing is lost",
    ]
    assert suite.findtext("system-out") == "one kill"


@pytest.mark.timeout(60)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of a parent's end")
def test_a_killed_campaign_leaves_no_workers() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "maille.cli", "simulate", "--chaos", "1000", "--processes", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    children: list[psutil.Process] = []
    try:
        deadline_s = time.monotonic() + 30
        while len(children) < 2:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
            children = psutil.Process(process.pid).children()
        time.sleep(0.2)
    finally:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


@pytest.mark.timeout(100)
def test_the_command_line_runs_chaos(tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    done = simulate(
        *("--chaos", "12", "--seed", "100", "--processes", "2", "--json", "--junit", str(junit))
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["seeds"] == 12
    assert found["tasks"] == 12 * 500
    assert found["failures"] == []
    assert ET.parse(junit).getroot().find("testsuite") is not None
