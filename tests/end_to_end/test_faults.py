"""2,000 tasks while something dies: nothing lost, nothing accepted twice, and the run ends."""

import contextlib
import signal
import sqlite3
import threading
from collections.abc import Callable

import numpy as np
import pytest
from real_mesh import RealMesh, eventually

from maille_protocol import OutcomeStatus

pytestmark = [pytest.mark.end_to_end, pytest.mark.broker, pytest.mark.timeout(120)]

TASKS = 2000


def run_through(mesh: RealMesh, hurt: Callable[[], None], after: int = TASKS // 4) -> None:
    """Run all tasks, do `hurt` when a quarter is done, and check every answer."""
    answered = 0
    due = threading.Event()
    failure: list[BaseException] = []

    def helper() -> None:
        due.wait(100)
        try:
            hurt()
        except BaseException as error:  # noqa: BLE001 - shown by the test's thread
            failure.append(error)

    def count(*_: object) -> None:
        nonlocal answered
        answered += 1
        if answered == after:
            due.set()

    thread = threading.Thread(target=helper)
    thread.start()
    try:
        with mesh.client() as client:
            questions = (np.array([number], np.float32) for number in range(TASKS))
            answers = [
                float(outputs["answer"][0])
                for outputs in client.map("slow", questions, on_answer=count)
            ]
    finally:
        due.set()
        thread.join(60)
    assert not failure, failure
    assert answers == [2.0 * number for number in range(TASKS)]
    assert answered == TASKS
    assert mesh.metric("tasks_open") == 0


def test_a_node_is_killed(mesh: RealMesh) -> None:
    run_through(mesh, lambda: mesh.signal("n1", signal.SIGKILL))
    assert mesh.metric("tasks_done_total") == TASKS
    assert mesh.state("n1") == "lost"
    assert mesh.state("n2") == "ready"


def test_a_node_sleeps_past_its_lease_and_its_late_results_are_refused(mesh: RealMesh) -> None:
    run_through(mesh, lambda: mesh.signal("n1", signal.SIGSTOP))
    assert mesh.state("n1") == "lost"
    assert mesh.metric("tasks_done_total") == TASKS
    mesh.signal("n1", signal.SIGCONT)

    def refused() -> float:
        return mesh.metric("results_duplicate_total") + mesh.metric("results_stale_attempt_total")

    eventually(lambda: refused() > 0, "the late results are refused")
    mesh.wait_for_state("n1", "ready")
    assert mesh.metric("tasks_done_total") == TASKS


def test_the_coordinator_is_killed_and_started_again(mesh: RealMesh) -> None:
    def hurt() -> None:
        mesh.signal("coordinator", signal.SIGKILL)
        mesh.start_coordinator()

    run_through(mesh, hurt)
    journal = next(mesh.directory.rglob("journal.sqlite"))
    with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as reader:
        ended = reader.execute("SELECT id, status FROM ended").fetchall()
    assert len(ended) == len({task_id for task_id, _ in ended}) == TASKS
    assert {status for _, status in ended} == {OutcomeStatus.DONE}


def test_the_broker_is_stopped_and_started_again(mesh: RealMesh) -> None:
    def hurt() -> None:
        mesh.signal("broker", signal.SIGTERM)
        mesh.start_broker()

    run_through(mesh, hurt)
    assert mesh.metric("tasks_done_total") == TASKS
    for node in ("n1", "n2"):
        mesh.wait_for_state(node, "ready")
