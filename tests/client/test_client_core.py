"""The client's task protocol: lists of events in, lists of actions out."""

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maille.client_core import (
    ASK_INTERVAL_MS,
    FIRST_RESEND_MS,
    LAST_RESEND_MS,
    ClientCore,
)
from maille.client_events import (
    Action,
    BatchesAccepted,
    Confirm,
    CoordinatorSeen,
    Deliver,
    Event,
    GiveUp,
    LinkDown,
    LinkUp,
    OutcomesArrived,
    Send,
    TaskSettings,
    TasksReleased,
    TasksSubmitted,
    TasksWatched,
    TasksWithdrawn,
    TimePassed,
    WakeAt,
)
from maille.client_publishes import IDS_PER_MESSAGE
from maille_protocol import (
    Ask,
    ErrorCode,
    Outcome,
    OutcomeStatus,
    Submission,
    Submit,
    TaskFlag,
    Withdraw,
    pack,
)
from maille_protocol.limits import MAX_INLINE_CONTENT_BYTES, MAX_PUBLISH_BYTES

DIGITS = TaskSettings("digits")


def identity(number: int) -> bytes:
    return number.to_bytes(16, "big")


def submissions(*numbers: int, content: bytes = b"x") -> tuple[Submission, ...]:
    return tuple(Submission(identity(number), content) for number in numbers)


def outcome(number: int, status: OutcomeStatus = OutcomeStatus.DONE) -> Outcome:
    return Outcome(identity(number), status, ErrorCode.NONE, b"", "pc", 1, 10, 20)


def new_core(patience_ms: float = 30_000.0) -> ClientCore:
    core = ClientCore(jitter=lambda: 0.0, patience_ms=patience_ms)
    core.handle(LinkUp(), 0)
    core.handle(CoordinatorSeen(7, True), 0)
    return core


def sent(actions: Iterable[Action]) -> list[Submit | Ask | Withdraw]:
    return [action.message for action in actions if isinstance(action, Send)]


def submit(core: ClientCore, *numbers: int, at_ms: float = 0.0) -> Submit:
    (message,) = sent(core.handle(TasksSubmitted(DIGITS, submissions(*numbers)), at_ms))
    assert isinstance(message, Submit)
    return message


def accept(core: ClientCore, message: Submit, at_ms: float = 1.0) -> list[Action]:
    return core.handle(BatchesAccepted(7, (message.batch,)), at_ms)


def test_a_submission_becomes_one_message_with_its_settings() -> None:
    core = new_core()
    wanted = TaskSettings("digits", 3, 9, 5000, 2, 1, "pc-1")
    actions = core.handle(TasksSubmitted(wanted, submissions(1, 2)), 0)
    assert actions == [
        Send(Submit(1, "digits", 3, 9, 5000, 2, 1, "pc-1", submissions(1, 2))),
        WakeAt(FIRST_RESEND_MS),
    ]


def test_a_lost_submission_is_sent_again_at_doubling_intervals_until_it_is_accepted() -> None:
    core = new_core()
    actions = core.handle(TasksSubmitted(DIGITS, submissions(1)), 0)
    (first,) = sent(actions)
    assert isinstance(first, Submit)
    now, gaps = 0.0, []
    for _ in range(5):
        (wake,) = [action for action in actions if isinstance(action, WakeAt)]
        gaps.append(wake.at_ms - now)
        now = wake.at_ms
        actions = core.handle(TimePassed(), now)
        assert sent(actions) == [first]
    assert gaps == [250, 500, 1000, 2000, LAST_RESEND_MS]
    accept(core, first, now)
    assert sent(core.handle(TimePassed(), now + LAST_RESEND_MS)) == [Ask((identity(1),))]


def test_jitter_spreads_what_is_sent_again() -> None:
    core = ClientCore(jitter=lambda: 0.8)
    core.handle(LinkUp(), 0)
    actions = core.handle(TasksSubmitted(DIGITS, submissions(1)), 0)
    assert actions[-1] == WakeAt(FIRST_RESEND_MS * 1.2)


def test_only_open_tasks_of_a_batch_are_sent_again() -> None:
    core = new_core()
    submit(core, 1, 2)
    core.handle(OutcomesArrived(7, (outcome(1),)), 5)
    (again,) = sent(core.handle(TimePassed(), FIRST_RESEND_MS))
    assert isinstance(again, Submit)
    assert again.tasks == submissions(2)


def test_an_outcome_before_the_acceptance_ends_the_batch() -> None:
    core = new_core()
    message = submit(core, 1)
    assert core.handle(OutcomesArrived(7, (outcome(1),)), 5)[0] == Deliver((outcome(1),))
    assert accept(core, message) == []
    assert core.open_tasks == 0
    assert sent(core.handle(TimePassed(), 10_000)) == []


def test_an_outcome_is_delivered_once() -> None:
    core = new_core()
    accept(core, submit(core, 1))
    both = core.handle(OutcomesArrived(7, (outcome(1), outcome(1))), 5)
    assert both[0] == Deliver((outcome(1),))
    assert core.handle(OutcomesArrived(7, (outcome(1),)), 6) == []
    assert core.counters.duplicates == 2


def test_open_tasks_are_asked_about_every_second() -> None:
    core = new_core()
    accept(core, submit(core, 1, 2))
    first = core.handle(TimePassed(), 1 + ASK_INTERVAL_MS)
    assert sent(first) == [Ask((identity(1), identity(2)))]
    core.handle(OutcomesArrived(7, (outcome(1, OutcomeStatus.OPEN),)), 1100)
    assert sent(core.handle(TimePassed(), 1 + 2 * ASK_INTERVAL_MS)) == [
        Ask((identity(1), identity(2)))
    ]


def test_many_open_tasks_are_asked_about_in_turn_within_one_publish_each_round() -> None:
    core = new_core()
    total = 3 * IDS_PER_MESSAGE
    for message in sent(core.handle(TasksSubmitted(DIGITS, submissions(*range(total))), 0)):
        assert isinstance(message, Submit)
        accept(core, message)
    asked: set[bytes] = set()
    now = 1.0 + ASK_INTERVAL_MS
    for _ in range(3):
        (message,) = sent(core.handle(TimePassed(), now))
        assert isinstance(message, Ask)
        assert len(pack(message, boot=1 << 62, seq=1 << 62, epoch=0)) <= MAX_PUBLISH_BYTES
        assert not asked & set(message.task_ids)
        asked.update(message.task_ids)
        now += 100
    assert len(asked) == total


@pytest.mark.parametrize("event", [LinkUp(), CoordinatorSeen(8, True)])
def test_a_reconnect_and_a_new_epoch_send_and_ask_everything_again_at_once(event: Event) -> None:
    core = new_core()
    accept(core, submit(core, 1))
    pending = submit(core, 2)
    if isinstance(event, LinkUp):
        core.handle(LinkDown(), 10)
    assert sent(core.handle(event, 20)) == [pending, Ask((identity(1),))]


def test_the_first_epoch_and_a_repeated_one_send_nothing() -> None:
    core = ClientCore(jitter=lambda: 0.0)
    core.handle(LinkUp(), 0)
    submit(core, 1)
    assert sent(core.handle(CoordinatorSeen(7, True), 1)) == []
    assert sent(core.handle(CoordinatorSeen(7, True), 2)) == []
    assert sent(core.handle(CoordinatorSeen(6, True), 3)) == []


def test_nothing_is_sent_while_the_link_is_down() -> None:
    core = new_core()
    core.handle(LinkDown(), 0)
    assert sent(core.handle(TasksSubmitted(DIGITS, submissions(1)), 1)) == []
    assert sent(core.handle(TimePassed(), 1 + FIRST_RESEND_MS)) == []
    assert len(sent(core.handle(LinkUp(), 400))) == 1


def test_a_task_the_coordinator_does_not_know_is_submitted_again_under_its_id() -> None:
    core = new_core()
    accept(core, submit(core, 1, 2))
    unknown = outcome(1, OutcomeStatus.UNKNOWN)
    (again,) = sent(core.handle(OutcomesArrived(7, (unknown,)), 5))
    assert isinstance(again, Submit)
    assert again.tasks == submissions(1)
    assert again.batch == 2
    # An answer that crossed the new submission says nothing.
    assert sent(core.handle(OutcomesArrived(7, (unknown,)), 6)) == []
    assert core.open_tasks == 2


def test_an_old_coordinators_word_that_a_task_is_unknown_is_ignored() -> None:
    core = new_core()
    accept(core, submit(core, 1))
    old = core.handle(OutcomesArrived(6, (outcome(1, OutcomeStatus.UNKNOWN),)), 5)
    assert sent(old) == []
    assert core.counters.stale == 1
    message = submit(core, 2)
    assert core.handle(BatchesAccepted(6, (message.batch,)), 6) == []
    assert not core.is_accepted(identity(2))


def test_an_accepted_at_most_once_task_that_is_unknown_is_not_run_again() -> None:
    core = new_core()
    once = TaskSettings("digits", flags=int(TaskFlag.AT_MOST_ONCE))
    (message,) = sent(core.handle(TasksSubmitted(once, submissions(1)), 0))
    assert isinstance(message, Submit)
    accept(core, message)
    actions = core.handle(OutcomesArrived(7, (outcome(1, OutcomeStatus.UNKNOWN),)), 5)
    assert sent(actions) == []
    (delivered,) = [a for a in actions if isinstance(a, Deliver)]
    assert delivered.outcomes[0].code == ErrorCode.OUTCOME_UNKNOWN


def test_an_open_answer_counts_as_acceptance() -> None:
    core = new_core()
    core.handle(TasksSubmitted(DIGITS, submissions(1), confirm=True), 0)
    actions = core.handle(OutcomesArrived(7, (outcome(1, OutcomeStatus.OPEN),)), 5)
    assert Confirm((identity(1),)) in actions
    assert sent(core.handle(TimePassed(), FIRST_RESEND_MS)) == []


def test_confirmation_comes_with_the_acceptance_when_asked_for() -> None:
    core = new_core()
    (message,) = sent(core.handle(TasksSubmitted(DIGITS, submissions(1, 2), confirm=True), 0))
    assert isinstance(message, Submit)
    assert Confirm((identity(1), identity(2))) in accept(core, message)
    assert accept(core, message) == []


def test_a_watched_task_is_asked_about_at_once_and_reported_when_unknown() -> None:
    core = new_core()
    assert sent(core.handle(TasksWatched((identity(1),)), 0)) == [Ask((identity(1),))]
    unknown = outcome(1, OutcomeStatus.UNKNOWN)
    assert Deliver((unknown,)) in core.handle(OutcomesArrived(7, (unknown,)), 5)


def test_a_withdrawn_task_is_withdrawn_until_its_end_is_heard() -> None:
    core = new_core()
    accept(core, submit(core, 1))
    assert sent(core.handle(TasksWithdrawn((identity(1), identity(9))), 5)) == [
        Withdraw((identity(1),))
    ]
    assert sent(core.handle(TimePassed(), 5 + ASK_INTERVAL_MS)) == [
        Ask((identity(1),)),
        Withdraw((identity(1),)),
    ]
    end = outcome(1, OutcomeStatus.CANCELLED)
    assert Deliver((end,)) in core.handle(OutcomesArrived(7, (end,)), 1100)
    assert core.open_tasks == 0


def test_a_withdrawn_task_that_never_arrived_ends_as_cancelled() -> None:
    core = new_core()
    submit(core, 1)
    core.handle(TasksWithdrawn((identity(1),)), 5)
    assert all(not isinstance(m, Submit) for m in sent(core.handle(TimePassed(), 400)))
    actions = core.handle(OutcomesArrived(7, (outcome(1, OutcomeStatus.UNKNOWN),)), 1100)
    (delivered,) = [a for a in actions if isinstance(a, Deliver)]
    assert delivered.outcomes[0].status == OutcomeStatus.CANCELLED


def test_released_tasks_are_forgotten() -> None:
    core = new_core()
    accept(core, submit(core, 1))
    submit(core, 2)
    core.handle(TasksReleased((identity(1), identity(2), identity(3))), 5)
    assert core.open_tasks == 0
    assert core.handle(OutcomesArrived(7, (outcome(1), outcome(2))), 6) == []


def test_silence_ends_the_wait() -> None:
    core = new_core(patience_ms=3000)
    accept(core, submit(core, 1), 10)
    submit(core, 2, at_ms=20)
    now = 0.0
    given_up: list[Action] = []
    while not given_up:
        now += 100
        assert now < 5000
        given_up = [a for a in core.handle(TimePassed(), now) if isinstance(a, GiveUp)]
    assert now == 3100
    assert given_up == [GiveUp((identity(1), identity(2)))]
    assert core.open_tasks == 0


def test_a_submission_that_alone_is_never_accepted_is_given_up() -> None:
    core = new_core(patience_ms=3000)
    submit(core, 1)
    accept(core, submit(core, 2))
    given_up: list[Action] = []
    now = 0.0
    while not given_up:
        now += 100
        assert now < 8000
        core.handle(OutcomesArrived(7, (outcome(2, OutcomeStatus.OPEN),)), now)
        given_up = [a for a in core.handle(TimePassed(), now) if isinstance(a, GiveUp)]
    assert given_up == [GiveUp((identity(1),))]
    assert core.open_tasks == 1


def test_an_idle_hour_before_a_task_is_not_silence() -> None:
    core = new_core()
    hour = 3_600_000.0
    submit(core, 1, at_ms=hour)
    actions = core.handle(TimePassed(), hour + FIRST_RESEND_MS)
    assert not [a for a in actions if isinstance(a, GiveUp)]


@given(st.lists(st.integers(0, MAX_INLINE_CONTENT_BYTES), min_size=1, max_size=60))
def test_every_message_fits_one_publish_and_nothing_is_left_out(sizes: list[int]) -> None:
    core = new_core()
    long = TaskSettings("m" * 64, 2**32 - 1, 9, 2**32 - 1, 100, 255, "n" * 32)
    tasks = tuple(Submission(identity(i), bytes(size)) for i, size in enumerate(sizes))
    messages = sent(core.handle(TasksSubmitted(long, tasks), 0))
    out: list[Submission] = []
    for message in messages:
        assert isinstance(message, Submit)
        assert len(pack(message, boot=2**64 - 1, seq=2**64 - 1, epoch=2**64 - 1)) <= (
            MAX_PUBLISH_BYTES
        )
        out += message.tasks
    assert tuple(out) == tasks


class Twin:
    """A coordinator behind a bus that loses, repeats and reorders, and that restarts."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.epoch = 7
        self.disk: set[bytes] = set()
        self.ended: set[bytes] = set()
        self.runs: dict[bytes, int] = {}
        self.to_client: list[tuple[float, Event]] = []
        self.to_coordinator: list[tuple[float, Submit | Ask | Withdraw]] = []

    def carry(self, message: Submit | Ask | Withdraw, now: float) -> None:
        for _ in range(self.random.choice((0, 1, 1, 2))):
            self.to_coordinator.append((now + self.random.uniform(0, 300), message))

    def answer(self, event: Event, now: float) -> None:
        for _ in range(self.random.choice((0, 1, 1, 2))):
            self.to_client.append((now + self.random.uniform(0, 300), event))

    def step(self, now: float) -> None:
        due = [item for item in self.to_coordinator if item[0] <= now]
        self.to_coordinator = [item for item in self.to_coordinator if item[0] > now]
        for _, message in due:
            match message:
                case Submit():
                    for task in message.tasks:
                        if task.task_id not in self.disk:
                            self.disk.add(task.task_id)
                    self.answer(BatchesAccepted(self.epoch, (message.batch,)), now)
                case Ask():
                    for task_id in message.task_ids:
                        status = (
                            OutcomeStatus.DONE
                            if task_id in self.ended
                            else OutcomeStatus.OPEN
                            if task_id in self.disk
                            else OutcomeStatus.UNKNOWN
                        )
                        self.answer(
                            OutcomesArrived(
                                self.epoch,
                                (Outcome(task_id, status, ErrorCode.NONE, b"", "", 1, 0, 0),),
                            ),
                            now,
                        )
        for task_id in list(self.disk - self.ended):
            if self.random.random() < 0.2:
                self.ended.add(task_id)
                self.runs[task_id] = self.runs.get(task_id, 0) + 1
                done = Outcome(task_id, OutcomeStatus.DONE, ErrorCode.NONE, b"", "", 1, 0, 0)
                self.answer(OutcomesArrived(self.epoch, (done,)), now)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_over_a_lossy_bus_every_task_is_delivered_exactly_once(seed: int) -> None:
    twin = Twin(seed)
    core = ClientCore(jitter=twin.random.random, patience_ms=1e12)
    delivered: dict[bytes, int] = {}
    now = 0.0
    wake: float | None = None
    number = 0

    def feed(event: Event) -> None:
        nonlocal wake
        for action in core.handle(event, now):
            match action:
                case Send(message):
                    twin.carry(message, now)
                case Deliver(outcomes):
                    for item in outcomes:
                        delivered[item.task_id] = delivered.get(item.task_id, 0) + 1
                case WakeAt(at_ms):
                    wake = at_ms
                case _:
                    raise AssertionError(action)

    feed(LinkUp())
    feed(CoordinatorSeen(7, True))
    while now < 120_000 and (now < 3000 or core.open_tasks):
        now += 50
        if now < 3000 and twin.random.random() < 0.5:
            count = twin.random.randint(1, 5)
            feed(TasksSubmitted(DIGITS, submissions(*range(number, number + count))))
            number += count
        if twin.random.random() < 0.01:
            feed(LinkDown())
            feed(LinkUp())
        if twin.random.random() < 0.01:
            twin.epoch += 1
            feed(CoordinatorSeen(twin.epoch, True))
        twin.step(now)
        due = [item for item in twin.to_client if item[0] <= now]
        twin.to_client = [item for item in twin.to_client if item[0] > now]
        for _, event in due:
            feed(event)
        if wake is not None and now >= wake:
            wake = None
            feed(TimePassed())
    assert delivered == {identity(i): 1 for i in range(number)}
