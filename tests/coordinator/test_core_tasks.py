"""What becomes of tasks: events in, actions out."""

from random import Random

import pytest
from core_stage import DIGITS, EPOCH, INPUT, OUTPUT, Stage, offers, sent_to, task_id

from maille_coordinator.core import Core
from maille_coordinator.core.actions import Accept, SendOffers, Tell, TellFromJournal, Write
from maille_coordinator.core.events import (
    BrokerConnected,
    ClientSpoke,
    DrainAsked,
    ModelAdded,
    ModelRemoved,
    ResumeAsked,
    TasksRestored,
)
from maille_coordinator.records import StartedMark, TaskRecord
from maille_protocol import (
    Ask,
    Cancel,
    ErrorCode,
    NodeState,
    NodeStatus,
    OutcomeStatus,
    Reference,
    ResultStatus,
    TaskFlag,
    Withdraw,
)
from maille_protocol.tensors import encode_tensors


def test_a_task_is_written_before_it_is_offered_and_acknowledged(stage: Stage) -> None:
    stage.join("a")
    actions = stage.submit(1)
    kinds = [type(action) for action in actions]
    assert kinds.index(Write) < kinds.index(Accept)
    assert kinds.index(Write) < kinds.index(SendOffers)


def test_an_accepted_result_ends_the_task_once(stage: Stage) -> None:
    stage.join("a")
    [(node, offer)] = offers(stage.submit(1))
    assert (node, offer.attempt, offer.content) == ("a", 1, INPUT)
    stage.answer("a", (task_id(1), 1))
    stage.answer("a", (task_id(1), 1))
    assert [(o.status, o.content) for o in stage.told] == [(OutcomeStatus.DONE, OUTPUT)]
    assert stage.core.counters.results_duplicate == 1
    assert not stage.core.tasks


def test_tasks_wait_until_a_node_comes(stage: Stage) -> None:
    assert not offers(stage.submit(1, 2))
    assert len(offers(stage.join("a"))) == 2


def test_a_node_gets_no_more_than_its_slots_and_one(stage: Stage) -> None:
    stage.join("a", slots=2, cores=16)
    assert len(offers(stage.submit(*range(10)))) == 3


def test_tasks_are_shared_out_evenly(stage: Stage) -> None:
    stage.join("a", cores=8)
    stage.join("b", cores=8)
    given = [node for node, _ in offers(stage.submit(*range(8)))]
    assert given.count("a") == given.count("b") == 4


def test_a_lost_node_gives_its_tasks_to_another_under_a_new_attempt(stage: Stage) -> None:
    stage.join("a")
    stage.submit(1)
    stage.join("b")
    [(node, offer)] = offers(stage.say("a", NodeStatus(NodeState.LOST), seq=0))
    assert (node, offer.attempt) == ("b", 2)


def test_a_late_result_of_an_older_attempt_is_refused(stage: Stage) -> None:
    stage.join("a")
    stage.submit(1)
    stage.join("b")
    stage.say("a", NodeStatus(NodeState.LOST), seq=0)
    stage.answer("a", (task_id(1), 1))
    assert not stage.told
    assert stage.core.counters.results_stale_attempt == 1
    stage.answer("b", (task_id(1), 2))
    assert len(stage.told) == 1


def test_a_result_of_an_older_epoch_is_refused(stage: Stage) -> None:
    stage.join("a")
    stage.submit(1)
    stage.answer("a", (task_id(1), 1), epoch=EPOCH - 1)
    assert not stage.told
    assert stage.core.counters.results_stale_epoch == 1


def test_a_result_from_a_node_that_does_not_hold_the_task_is_refused(stage: Stage) -> None:
    stage.join("a")
    stage.submit(1)
    stage.join("b")
    stage.answer("b", (task_id(1), 1))
    assert not stage.told


def test_an_attempt_that_the_heartbeat_does_not_list_is_offered_again(stage: Stage) -> None:
    stage.join("a")
    stage.submit(1)
    stage.pass_time(1000)
    assert not offers(stage.beat("a"))
    stage.pass_time(1000)
    assert [offer.attempt for _, offer in offers(stage.beat("a"))] == [2]
    assert stage.core.counters.attempts_lost_on_the_way == 1


def test_a_heartbeat_that_lists_the_attempt_renews_it(stage: Stage) -> None:
    stage.join("a")
    stage.submit(1)
    for _ in range(60):
        stage.pass_time(1000)
        assert not offers(stage.beat("a", (task_id(1), 1)))
    stage.answer("a", (task_id(1), 1))
    assert [o.status for o in stage.told] == [OutcomeStatus.DONE]


def test_a_failure_that_another_node_may_mend_is_tried_elsewhere(stage: Stage) -> None:
    stage.join("a")
    stage.submit(1)
    stage.join("b")
    stage.answer(
        "a",
        (task_id(1), 1),
        status=ResultStatus.FAILED,
        code=ErrorCode.OUT_OF_MEMORY,
        content=b"no memory",
    )
    [(node, offer)] = offers(stage.pass_time(200))
    assert (node, offer.attempt) == ("b", 2)


def test_a_failure_of_the_task_itself_is_not_tried_again(stage: Stage) -> None:
    stage.join("a")
    stage.submit(1)
    stage.answer(
        "a",
        (task_id(1), 1),
        status=ResultStatus.FAILED,
        code=ErrorCode.MODEL_ERROR,
        content=b"index out of range",
    )
    [outcome] = stage.told
    assert (outcome.status, outcome.code) == (OutcomeStatus.FAILED, ErrorCode.MODEL_ERROR)
    assert outcome.content == b"index out of range"


def test_a_task_that_fails_everywhere_is_dead_with_its_history(stage: Stage) -> None:
    stage.join("a")
    stage.submit(1, max_attempts=3)
    for attempt in (1, 2, 3):
        stage.beat("a")
        stage.answer(
            "a",
            (task_id(1), attempt),
            status=ResultStatus.FAILED,
            code=ErrorCode.NODE_ERROR,
            content=b"disk on fire",
        )
        stage.pass_time(400)
    [end] = stage.ends
    assert end.status is OutcomeStatus.DEAD
    assert [(a.attempt, a.node, a.code) for a in end.history] == [
        (n, "a", ErrorCode.NODE_ERROR) for n in (1, 2, 3)
    ]
    assert b"disk on fire" in end.content if isinstance(end.content, bytes) else False


def test_a_busy_node_is_left_alone_for_a_moment_and_the_task_does_not_die(stage: Stage) -> None:
    stage.join("a")
    stage.submit(1, max_attempts=1)
    for attempt in range(1, 30):
        actions = stage.answer(
            "a",
            (task_id(1), attempt),
            status=ResultStatus.REFUSED,
            code=ErrorCode.BUSY,
            content=b"full",
        )
        assert not offers(actions)
        assert len(offers(stage.pass_time(25))) == 1
        stage.beat("a")
    stage.answer("a", (task_id(1), 30))
    assert [o.status for o in stage.told] == [OutcomeStatus.DONE]


def test_a_node_that_refuses_for_its_newer_epoch_is_not_flooded(stage: Stage) -> None:
    stage.join("a")
    stage.submit(1)
    actions = stage.answer(
        "a",
        (task_id(1), 1),
        status=ResultStatus.REFUSED,
        code=ErrorCode.STALE_EPOCH,
        content=b"",
    )
    assert not offers(actions)
    assert len(offers(stage.pass_time(100))) == 1


def test_three_failures_close_a_node_for_a_model_and_one_task_opens_it(stage: Stage) -> None:
    stage.join("a")
    for number in (1, 2, 3):
        stage.submit(number, max_attempts=1)
        stage.answer(
            "a",
            (task_id(number), 1),
            status=ResultStatus.FAILED,
            code=ErrorCode.NODE_ERROR,
            content=b"",
        )
    assert not offers(stage.submit(4, 5))
    stage.beat("a")
    assert len(offers(stage.pass_time(1100))) == 1
    assert len(offers(stage.answer("a", (task_id(4), 1)))) == 1


def test_a_network_that_fails_node_by_node_does_not_use_up_a_tasks_attempts(stage: Stage) -> None:
    nodes = [f"n{number}" for number in range(8)]
    for node in nodes:
        stage.join(node, slots=1)
    stage.submit(1)
    tries = 1
    for _ in nodes:
        [holder] = [one.node for one in stage.core.registry if one.outstanding] or [""]
        if not holder:
            break
        tries += bool(offers(stage.say(holder, NodeStatus(NodeState.DISCONNECTED))))
    assert tries == 2  # the second at once, as one node may well be lost alone
    assert stage.core.tasks.keys() == {task_id(1)}
    assert offers(stage.pass_time(200))


def test_a_deadline_ends_a_waiting_task_and_one_that_runs(stage: Stage) -> None:
    stage.submit(1, deadline_ms=2000)
    stage.pass_time(4000)
    stage.join("a")
    stage.submit(2, deadline_ms=2000)
    for _ in range(4):
        stage.beat("a", (task_id(2), 1))
        actions = stage.pass_time(1000)
        if len(stage.told) == 2:
            break
    assert [(o.status, o.code) for o in stage.told] == [
        (OutcomeStatus.EXPIRED, ErrorCode.DEADLINE)
    ] * 2
    assert sent_to(actions, "a") == [Cancel(((task_id(2), 1),))]


def test_cancelling(stage: Stage) -> None:
    stage.join("a", slots=1)
    stage.submit(1, 2, 3)
    actions = stage.do(ClientSpoke("me", Withdraw((task_id(1), task_id(3), task_id(9)))))
    assert sent_to(actions, "a") == [Cancel(((task_id(1), 1),))]
    assert {o.task_id for o in stage.told} == {task_id(1), task_id(3)}
    stage.answer("a", (task_id(1), 1))
    assert stage.core.counters.results_duplicate == 1
    assert set(stage.core.tasks) == {task_id(2)}


def test_the_same_submission_again_is_accepted_again_and_runs_once(stage: Stage) -> None:
    stage.join("a")
    stage.submit(1)
    actions = stage.submit(1)
    assert [type(a) for a in actions if isinstance(a, Accept | SendOffers)] == [Accept]
    stage.answer("a", (task_id(1), 1))
    actions = stage.submit(1)
    assert not offers(actions)
    assert [a.outcome.status for a in actions if isinstance(a, Tell)] == [OutcomeStatus.DONE]


def test_asking(stage: Stage) -> None:
    stage.join("a", slots=1)
    stage.submit(1, 2)
    stage.answer("a", (task_id(1), 1))
    stage.told.clear()
    actions = stage.do(ClientSpoke("me", Ask((task_id(1), task_id(2), task_id(3)))))
    assert [o.status for o in stage.told] == [OutcomeStatus.DONE, OutcomeStatus.OPEN]
    assert [a for a in actions if isinstance(a, TellFromJournal)] == [
        TellFromJournal("me", (task_id(3),))
    ]


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        ({"model": "digts"}, ErrorCode.UNKNOWN_MODEL, "did you mean digits?"),
        ({"model": "digits", "version": 9}, ErrorCode.UNKNOWN_MODEL, "no version 9, only [1]"),
        ({"target": "nobody"}, ErrorCode.NO_SUCH_NODE, "no node is called 'nobody'"),
        ({"content": b"\xff"}, ErrorCode.INPUT_MALFORMED, "not readable"),
        ({"content": encode_tensors({})}, ErrorCode.INPUT_NAME, "input 'x' is missing"),
        ({"content": Reference(b"r" * 32, 100_000_000)}, ErrorCode.INPUT_TOO_LARGE, "100000000"),
    ],
)
def test_what_is_refused_names_cause_and_next_step(
    stage: Stage, options: dict[str, object], code: ErrorCode, text: str
) -> None:
    stage.join("a")
    actions = stage.submit(1, **options)  # type: ignore[arg-type]
    [outcome] = stage.told
    assert (outcome.status, outcome.code) == (OutcomeStatus.REJECTED, code)
    assert isinstance(outcome.content, bytes)
    assert text in outcome.content.decode()
    assert not offers(actions)
    assert not stage.written


def test_too_many_open_tasks_are_refused(stage: Stage) -> None:
    stage.submit(*range(1001))
    assert [o.code for o in stage.told] == [ErrorCode.QUEUE_FULL]


def test_priority_then_age(stage: Stage) -> None:
    stage.submit(1, 2, priority=1)
    stage.submit(3, priority=9)
    order = [offer.task_id for _, offer in offers(stage.join("a"))]
    assert order == [task_id(3), task_id(1), task_id(2)]


def test_a_target_gets_its_tasks_and_no_other_node_does(stage: Stage) -> None:
    stage.join("a")
    stage.join("b")
    assert {node for node, _ in offers(stage.submit(1, 2, target="b"))} == {"b"}
    stage.say("b", NodeStatus(NodeState.LOST), seq=0)
    assert not offers(stage.pass_time(100))
    assert len(offers(stage.join("b", boot=2))) == 2


def test_a_removed_model_fails_what_waits_and_lets_finish_what_runs(stage: Stage) -> None:
    stage.join("a", slots=1)
    stage.submit(1, 2, 3)
    stage.do(ModelRemoved("digits", 1))
    assert [(o.task_id, o.code) for o in stage.told] == [(task_id(3), ErrorCode.UNKNOWN_MODEL)]
    stage.answer("a", (task_id(1), 1))
    stage.say("a", NodeStatus(NodeState.LOST), seq=0)
    assert [o.status for o in stage.told[1:]] == [OutcomeStatus.DONE, OutcomeStatus.FAILED]


def test_at_most_once_is_marked_first_and_never_repeated(stage: Stage) -> None:
    stage.join("a")
    actions = stage.submit(1, flags=int(TaskFlag.AT_MOST_ONCE))
    marks = [
        i
        for i, a in enumerate(actions)
        if isinstance(a, Write) and isinstance(a.record, StartedMark)
    ]
    sends = [i for i, a in enumerate(actions) if isinstance(a, SendOffers)]
    assert marks < sends
    stage.join("b")
    assert not offers(stage.say("a", NodeStatus(NodeState.LOST), seq=0))
    [outcome] = stage.told
    assert (outcome.status, outcome.code) == (OutcomeStatus.FAILED, ErrorCode.OUTCOME_UNKNOWN)


def test_at_most_once_that_a_stopping_node_broke_off_is_not_repeated(stage: Stage) -> None:
    stage.join("a")
    stage.submit(1, flags=int(TaskFlag.AT_MOST_ONCE))
    status, code = ResultStatus.FAILED, ErrorCode.DRAINING
    actions = stage.answer("a", (task_id(1), 1), status=status, code=code)
    assert not offers(actions)
    assert stage.ends[-1].code is ErrorCode.OUTCOME_UNKNOWN


def test_at_most_once_that_was_refused_may_go_elsewhere(stage: Stage) -> None:
    stage.join("a")
    stage.submit(1, flags=int(TaskFlag.AT_MOST_ONCE))
    stage.join("b")
    stage.answer(
        "a", (task_id(1), 1), status=ResultStatus.REFUSED, code=ErrorCode.BUSY, content=b""
    )
    stage.pass_time(50)
    assert stage.core.tasks[task_id(1)].attempt == 2


def record(number: int, **changes: object) -> TaskRecord:
    now = 1_000_000
    values: dict[str, object] = {
        "task_id": task_id(number),
        "client": "me",
        "model": "digits",
        "version": 1,
        "priority": 5,
        "accepted_at_unix_ms": now,
        "deadline_at_unix_ms": now + 60_000,
        "max_attempts": 5,
        "flags": 0,
        "target": None,
        "content": INPUT,
    }
    values.update(changes)
    return TaskRecord(**values)  # type: ignore[arg-type]


def test_a_restart_goes_on_with_what_was_open(stage: Stage) -> None:
    stage.do(
        TasksRestored(
            (
                (record(1), None),
                (record(2, flags=1), StartedMark(task_id(2), "a")),
                (record(3, model="gone"), None),
            ),
            (task_id(9),),
        )
    )
    assert [(o.task_id, o.code) for o in stage.told] == [
        (task_id(2), ErrorCode.OUTCOME_UNKNOWN),
        (task_id(3), ErrorCode.UNKNOWN_MODEL),
    ]
    [(_, offer)] = offers(stage.join("a"))
    assert offer.task_id == task_id(1)
    assert not offers(stage.submit(9))


def test_draining_by_a_person(stage: Stage) -> None:
    stage.join("a")
    stage.submit(1)
    actions = stage.do(DrainAsked("a"))
    assert len(sent_to(actions, "a")) == 1
    assert not offers(stage.submit(2))
    stage.answer("a", (task_id(1), 1))
    assert len(stage.told) == 1
    assert len(offers(stage.do(ResumeAsked("a")))) == 1


def test_a_slow_node_gets_less_and_a_fast_one_more(stage: Stage) -> None:
    stage.join("fast", slots=64)
    stage.join("slow", slots=64)
    number = 0
    given: dict[str, int] = {"fast": 0, "slow": 0}
    held: dict[str, list[tuple[bytes, int, float]]] = {"fast": [], "slow": []}
    took = {"fast": 5.0, "slow": 200.0}

    def note(actions: list[object]) -> None:
        for node, offer in offers(actions):  # type: ignore[arg-type]
            given[node] += 1
            begin = max([stage.now_ms, *[end for *_, end in held[node]]])
            held[node].append((offer.task_id, offer.attempt, begin + took[node]))

    for step in range(400):
        while len(stage.core.tasks) < 20:
            number += 1
            note(stage.submit(number))  # type: ignore[arg-type]
        stage.pass_time(5)
        for node, found in held.items():
            due = [entry for entry in found if entry[2] <= stage.now_ms]
            held[node] = [entry for entry in found if entry[2] > stage.now_ms]
            for found_id, attempt, _ in due:
                note(stage.answer(node, (found_id, attempt)))  # type: ignore[arg-type]
        if step % 100 == 0:
            for node, found in held.items():
                stage.beat(node, *[(i, a) for i, a, _ in found], warm=(DIGITS.sha256[:8],))
    assert given["fast"] > 10 * given["slow"] > 0


def test_a_reference_must_name_what_is_there() -> None:
    """A name that leads nowhere, or a wrong size, would otherwise fail on node after node."""
    sizes = {b"s" * 32: 50_000}
    stage = Stage(Core(epoch=EPOCH, random=Random(1), stored_size=sizes.get))
    stage.do(ModelAdded(DIGITS))
    stage.do(BrokerConnected())
    stage.join("a")
    for number, (reference, words) in enumerate(
        (
            (Reference(b"s" * 32, 49_999), "send its true size"),
            (Reference(b"s" * 32, 0), "send its true size"),
            (Reference(b"t" * 32, 50_000), "upload them first"),
        )
    ):
        assert not offers(stage.submit(number, content=reference))
        assert stage.told[-1].status is OutcomeStatus.REJECTED
        assert stage.told[-1].code is ErrorCode.INPUT_MALFORMED
        assert isinstance(stage.told[-1].content, bytes)
        assert words in stage.told[-1].content.decode()
    assert offers(stage.submit(9, content=Reference(b"s" * 32, 50_000)))


def test_a_model_added_again_is_tried_again_at_once(stage: Stage) -> None:
    """Its bytes were damaged, nodes failed with it and were left alone; now they are good."""
    stage.join("a")
    given = offers(stage.submit(1, max_attempts=3))
    while given:
        ((_, offer),) = given
        pair = (offer.task_id, offer.attempt)
        stage.answer("a", pair, status=ResultStatus.FAILED, code=ErrorCode.ARTEFACT_CORRUPT)
        given = offers(stage.pass_time(400))
        stage.beat("a")
    assert stage.told[-1].status is OutcomeStatus.DEAD
    assert not offers(stage.submit(2))
    assert [offer.task_id for _, offer in offers(stage.do(ModelAdded(DIGITS)))] == [task_id(2)]
