"""The tables of states are whole, and the diagrams in SPEC.md are drawn from them."""

import subprocess
import sys
from enum import Enum

import pytest
from wire_files import PROTOCOL

from maille_protocol import (
    PRESENCE_TRANSITIONS,
    TASK_TRANSITIONS,
    NodeState,
    PresenceEvent,
    TaskEvent,
    TaskState,
)

FINAL = {
    TaskState.DONE,
    TaskState.FAILED,
    TaskState.CANCELLED,
    TaskState.EXPIRED,
    TaskState.DEAD,
}


Targets = dict[Enum, set[Enum]]


def reachable(start: Enum, table: Targets) -> set[Enum]:
    found, waiting = {start}, [start]
    while waiting:
        for target in table[waiting.pop()]:
            if target not in found:
                found.add(target)
                waiting.append(target)
    return found


def task_table() -> Targets:
    return {state: set(transitions.values()) for state, transitions in TASK_TRANSITIONS.items()}


def presence_table() -> Targets:
    return {state: set(transitions.values()) for state, transitions in PRESENCE_TRANSITIONS.items()}


def test_every_state_has_a_row() -> None:
    assert set(TASK_TRANSITIONS) == set(TaskState)
    assert set(PRESENCE_TRANSITIONS) == set(NodeState)


def test_every_state_is_reached() -> None:
    assert reachable(TaskState.QUEUED, task_table()) == set(TaskState)
    assert reachable(NodeState.INIT, presence_table()) == set(NodeState)


def test_final_states_are_terminal() -> None:
    assert {state for state in TaskState if state.final} == FINAL
    assert all(not TASK_TRANSITIONS[state] for state in FINAL)


@pytest.mark.parametrize("state", [state for state in TaskState if state not in FINAL])
def test_every_open_task_can_end_in_every_way_that_needs_no_node(state: TaskState) -> None:
    ends = reachable(state, task_table())
    assert ends >= FINAL
    row = TASK_TRANSITIONS[state]
    assert row[TaskEvent.CANCELLED] is TaskState.CANCELLED
    assert row[TaskEvent.DEADLINE_PASSED] is TaskState.EXPIRED
    assert row[TaskEvent.ATTEMPTS_EXHAUSTED] is TaskState.DEAD


def test_every_event_is_used() -> None:
    used = {event for row in TASK_TRANSITIONS.values() for event in row}
    assert used == set(TaskEvent)


def test_only_a_held_task_is_done() -> None:
    sources = {
        state
        for state, row in TASK_TRANSITIONS.items()
        if row.get(TaskEvent.RESULT_ACCEPTED) is TaskState.DONE
    }
    assert sources == {TaskState.OFFERED, TaskState.RUNNING}


@pytest.mark.parametrize("state", list(NodeState), ids=lambda state: state.name)
def test_presence_has_no_dead_end(state: NodeState) -> None:
    assert set(PRESENCE_TRANSITIONS[state]) == set(PresenceEvent)
    assert PRESENCE_TRANSITIONS[state][PresenceEvent.BORN] is NodeState.INIT
    assert NodeState.READY in reachable(state, presence_table())


@pytest.mark.parametrize(
    "state", [NodeState.INIT, NodeState.READY, NodeState.DRAINING, NodeState.SLEEPING]
)
def test_every_live_node_can_be_lost(state: NodeState) -> None:
    row = PRESENCE_TRANSITIONS[state]
    assert {row[PresenceEvent.WILL], row[PresenceEvent.SILENT]} == {NodeState.LOST}


def test_the_diagrams_are_drawn_from_the_tables() -> None:
    check = subprocess.run(
        [sys.executable, str(PROTOCOL / "draw_states.py"), "--check"],
        capture_output=True,
        text=True,
    )
    assert check.returncode == 0, check.stdout + check.stderr


def test_the_diagrams_show_every_arrow() -> None:
    spec = (PROTOCOL / "SPEC.md").read_text("utf-8")
    for table in (task_table(), presence_table()):
        for source, row in table.items():
            for target in row:
                arrow = f"{source.name.lower()} --> {target.name.lower()}: "
                assert f"\n    {arrow}" in spec
