"""The node's decisions as lists: events in, actions out."""

from dataclasses import replace

import pytest
from node_core_driver import BOOT, Driver, model, task

from maille_node import events
from maille_node.events import StopReason
from maille_node.tasks import CANCELLED_KEPT_MS, LATE_COPY_MS, SENT_AGAIN_MS
from maille_protocol import (
    Control,
    ControlOrder,
    Envelope,
    ErrorCode,
    ModelFormat,
    NodeInfo,
    NodeState,
    NodeStatus,
    Offer,
    Offers,
    Reference,
    ResultStatus,
    TaskFlag,
    unpack,
)
from maille_protocol.limits import (
    HEARTBEAT_INTERVAL_MS,
    MAX_INLINE_CONTENT_BYTES,
    MAX_PUBLISH_BYTES,
)


def running(driver: Driver, *numbers: int) -> events.RunBatch:
    """Offer tasks to a connected node and bring the first batch to a worker."""
    for number in numbers:
        driver.offer(number)
    driver.ready()
    return driver.only(events.RunBatch)


# --- presence ---------------------------------------------------------------------------------


def test_a_birth_is_init_info_heartbeat_ready_with_rising_seq_and_one_boot() -> None:
    driver = Driver()
    driver.up()
    published = driver.all(events.Publish)
    envelopes = [unpack(action.payload) for action in published]
    assert [type(envelope.message).__name__ for envelope in envelopes] == [
        "NodeStatus",
        "NodeInfo",
        "Heartbeat",
        "NodeStatus",
    ]
    assert driver.states() == ["INIT", "READY"]
    assert [envelope.seq for envelope in envelopes] == [1, 2, 3, 4]
    assert {envelope.boot for envelope in envelopes} == {BOOT}
    assert [(a.topic.retain, a.topic.qos) for a in published] == [
        (True, 1),
        (True, 1),
        (False, 0),
        (True, 1),
    ]


def test_the_will_says_lost_with_our_boot_and_seq_0() -> None:
    envelope = unpack(Driver().core.will())
    assert isinstance(envelope.message, NodeStatus)
    assert (envelope.message.state, envelope.boot, envelope.seq) == (NodeState.LOST, BOOT, 0)


def test_nothing_is_published_before_the_link_is_up() -> None:
    driver = Driver()
    driver.give(events.Tick())
    assert not driver.all(events.Publish)
    assert driver.only(events.WakeAt).at_ms == driver.now_ms + HEARTBEAT_INTERVAL_MS


def test_heartbeats_go_on_and_name_what_is_held_for_half_an_interval() -> None:
    driver = Driver()
    driver.up()
    driver.offer(1)
    driver.now_ms += HEARTBEAT_INTERVAL_MS - 100
    driver.offer(2)
    driver.ready()
    driver.now_ms += 100
    driver.give(events.Tick())
    [heartbeat] = driver.heartbeats()
    assert heartbeat.held == ((task(1), 1),)
    assert (heartbeat.running, heartbeat.queued) == (1, 1)
    assert heartbeat.warm == (model("m").sha256[:8],)
    assert heartbeat.uptime_ms == HEARTBEAT_INTERVAL_MS
    assert driver.only(events.WakeAt).at_ms == driver.now_ms + HEARTBEAT_INTERVAL_MS


def test_a_tick_that_comes_early_sends_no_heartbeat_but_keeps_the_timer() -> None:
    driver = Driver()
    driver.up()
    wanted = driver.only(events.WakeAt).at_ms
    driver.now_ms += 10
    driver.give(events.Tick())
    assert not driver.heartbeats()
    assert driver.only(events.WakeAt).at_ms == wanted


def test_jitter_moves_a_heartbeat_by_a_tenth_at_most() -> None:
    for jitter, wait_ms in ((-1.0, 900), (1.0, 1100)):
        driver = Driver(jitter=jitter)
        driver.up()
        assert driver.only(events.WakeAt).at_ms == pytest.approx(driver.now_ms + wait_ms)


def test_rebirth_repeats_state_and_info_and_names_all_that_is_held() -> None:
    driver = Driver()
    driver.up()
    driver.offer(1)
    driver.order(Control.REBIRTH)
    assert driver.states() == ["INIT", "READY"]
    assert any(isinstance(message, NodeInfo) for message in driver.messages())
    assert driver.heartbeats()[0].held == ((task(1), 1),)


def test_an_order_for_another_process_is_passed_over() -> None:
    driver = Driver()
    driver.up()
    driver.announce()
    assert driver.order(Control.REBIRTH, boot=BOOT + 1) == []
    assert driver.order(Control.STOP_DUPLICATE, boot=BOOT + 1) == []
    # "Whichever listens" is never enough to stop a node.
    assert driver.order(Control.STOP_DUPLICATE, boot=0) == []


def test_a_duplicate_stops_without_a_farewell_on_the_others_state_topic() -> None:
    driver = Driver()
    driver.up()
    driver.order(Control.STOP_DUPLICATE, boot=BOOT, reason="n1 lives at 10.0.0.2")
    stop = driver.only(events.Stop)
    assert stop.reason is StopReason.DUPLICATE
    assert "10.0.0.2" in stop.text
    assert "another id" in stop.text
    assert driver.states() == []
    assert driver.up() == []


def test_drain_and_resume_orders_change_the_state_and_what_is_accepted() -> None:
    driver = Driver()
    driver.up()
    driver.order(Control.DRAIN, reason="maintenance")
    assert driver.states() == ["DRAINING"]
    driver.offer(1)
    [refused] = driver.results()
    assert (refused.status, refused.code) == (ResultStatus.REFUSED, ErrorCode.DRAINING)
    driver.order(Control.DRAIN)
    assert driver.states() == []
    driver.order(Control.RESUME)
    assert driver.states() == ["READY"]
    driver.offer(1, attempt=2)
    assert driver.core.held_count == 1


def test_a_late_copy_of_an_order_does_not_undo_a_newer_one() -> None:
    driver = Driver()
    driver.up()
    drain = Envelope(1, 1, 1, ControlOrder(Control.DRAIN, 0, "maintenance"))
    resume = Envelope(1, 2, 1, ControlOrder(Control.RESUME, 0, ""))
    states = []
    # Another coordinator counts anew.
    for envelope in (drain, resume, drain, Envelope(2, 1, 2, drain.message)):
        driver.give(events.Heard((envelope,)))
        states.append(driver.core.state)
    assert states == [NodeState.DRAINING, NodeState.READY, NodeState.READY, NodeState.DRAINING]


# --- offers -----------------------------------------------------------------------------------


def test_a_task_is_run_and_answered() -> None:
    driver = Driver()
    driver.up()
    driver.offer(1)
    assert driver.only(events.Prepare).model == model("m")
    driver.now_ms += 5
    driver.ready()
    batch = driver.only(events.RunBatch)
    assert batch.items == (events.BatchItem(task(1), b"in"),)
    driver.finish(batch, content=b"answer", run_us=42)
    [result] = driver.results()
    assert (result.task_id, result.attempt, result.epoch) == (task(1), 1, 1)
    assert (result.status, result.code, result.content) == (
        ResultStatus.DONE,
        ErrorCode.NONE,
        b"answer",
    )
    assert (result.run_us, result.queue_us) == (42, 5000)
    assert driver.only(events.Release).sha256 == model("m").sha256
    assert driver.core.held_count == 0


def test_slots_and_one_more_are_held_the_next_is_refused() -> None:
    driver = Driver(slots=2)
    driver.up()
    for number in range(3):
        driver.offer(number)
        assert driver.results() == []
    driver.offer(3)
    [refused] = driver.results()
    assert (refused.status, refused.code) == (ResultStatus.REFUSED, ErrorCode.BUSY)
    assert driver.core.held_count == 3


def test_a_format_this_node_does_not_run_is_refused() -> None:
    driver = Driver()
    driver.up()
    driver.hear(Offers(model("t", ModelFormat.GGUF), (Offer(task(1), 1, 1000, 0, b""),)))
    [refused] = driver.results()
    assert (refused.status, refused.code) == (ResultStatus.REFUSED, ErrorCode.UNSUPPORTED_FORMAT)


def test_an_offer_without_time_left_has_expired() -> None:
    driver = Driver()
    driver.up()
    driver.offer(1, remaining_ms=0)
    [expired] = driver.results()
    assert (expired.status, expired.code) == (ResultStatus.EXPIRED, ErrorCode.DEADLINE)


def test_a_queued_task_expires_and_a_running_one_does_not() -> None:
    driver = Driver()
    driver.up()
    batch = running(driver, 1)
    driver.offer(1, attempt=1)
    driver.offer(2, remaining_ms=500)
    driver.now_ms += 1000
    driver.give(events.Tick())
    [expired] = driver.results()
    assert (expired.task_id, expired.status) == (task(2), ResultStatus.EXPIRED)
    driver.finish(batch)
    assert driver.results()[0].status is ResultStatus.DONE


def test_an_older_epoch_is_refused_and_a_newer_one_obeyed() -> None:
    driver = Driver()
    driver.up()
    driver.announce(epoch=5)
    driver.offer(1, epoch=4)
    [refused] = driver.results()
    assert (refused.code, refused.epoch) == (ErrorCode.STALE_EPOCH, 4)
    driver.offer(2, epoch=6)
    assert driver.core.epoch == 6
    driver.offer(3, epoch=5)
    assert driver.results()[0].code is ErrorCode.STALE_EPOCH
    # Orders of an old coordinator are passed over.
    assert driver.cancel(2, epoch=5) == []
    assert driver.announce(epoch=5, url="http://old") == []
    assert driver.core.held_count == 1


def test_a_new_epoch_is_told_at_once_what_is_held() -> None:
    driver = Driver()
    driver.up()
    driver.offer(1)
    driver.announce(epoch=2)
    assert driver.heartbeats()[0].held == ((task(1), 1),)


# --- duplicates -------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["queued", "running"])
def test_a_repeated_offer_of_a_held_task_takes_it_over_without_a_second_run(stage: str) -> None:
    driver = Driver()
    driver.up()
    driver.offer(1)
    if stage == "running":
        driver.ready()
        batch = driver.only(events.RunBatch)
        driver.offer(1, attempt=2, epoch=3)
        assert not driver.all(events.RunBatch)
    else:
        driver.offer(1, attempt=2, epoch=3)
        driver.ready()
        batch = driver.only(events.RunBatch)
    driver.finish(batch)
    [result] = driver.results()
    assert (result.attempt, result.epoch) == (2, 3)


def test_a_late_copy_of_an_older_attempt_changes_nothing() -> None:
    driver = Driver()
    driver.up()
    driver.offer(1, attempt=3)
    assert driver.offer(1, attempt=2) == []
    driver.ready()
    driver.finish(driver.only(events.RunBatch))
    assert driver.results()[0].attempt == 3
    assert driver.offer(1, attempt=2) == []


def test_a_finished_task_is_answered_from_memory_with_the_new_attempt_and_epoch() -> None:
    driver = Driver()
    driver.up()
    driver.finish(running(driver, 1), content=b"once")
    driver.offer(1, attempt=4, epoch=9)
    [again] = driver.results()
    assert (again.attempt, again.epoch, again.content) == (4, 9, b"once")
    assert not driver.all(events.Prepare)
    # The very same offer once more is a redelivery: the answer is repeated.
    driver.offer(1, attempt=4, epoch=9)
    assert driver.results() == [again]


def test_a_copy_of_an_offer_that_comes_after_its_deadline_runs_nothing() -> None:
    driver = Driver()
    driver.up()
    driver.finish(running(driver, 1))
    driver.now_ms += 60_000 + LATE_COPY_MS - 1
    driver.offer(1)
    assert not [action for action in driver.actions if isinstance(action, events.Prepare)]
    assert driver.core.held_count == 0


def test_a_copy_of_a_refused_at_most_once_offer_runs_nothing() -> None:
    driver = Driver(slots=1)
    driver.up()
    driver.order(Control.DRAIN)
    offer = Offer(task(1), 1, 60_000, int(TaskFlag.AT_MOST_ONCE), b"in", BOOT)
    copy = events.Heard((Envelope(1, 5, 1, Offers(model("a"), (offer,))),))
    driver.give(copy)
    assert [result.code for result in driver.results()] == [ErrorCode.DRAINING]
    driver.order(Control.RESUME)
    driver.give(copy)
    assert driver.core.held_count == 0
    driver.give(
        events.Heard((Envelope(1, 6, 1, Offers(model("a"), (replace(offer, attempt=2),))),))
    )
    assert driver.core.held_count == 1


def test_of_two_processes_of_one_id_only_the_one_that_is_meant_runs_an_at_most_once_task() -> None:
    meant, other = Driver(), Driver(boot=BOOT + 2)
    for driver in (meant, other):
        driver.up()
        driver.offer(1, once_on=BOOT)
    assert (meant.core.held_count, other.core.held_count) == (1, 0)
    # The other one says nothing: its refusal would be no news of the process that is meant.
    other.order(Control.DRAIN)
    assert not other.offer(2, once_on=BOOT)
    other.announce(epoch=2)
    assert not other.offer(3, once_on=BOOT, epoch=1)
    # What may run twice is for whichever hears it.
    for driver in (meant, Driver(boot=BOOT + 2)):
        driver.up()
        driver.offer(4)
        assert task(4) in driver.core.held


def test_a_late_copy_of_an_at_most_once_offer_does_not_run_after_a_restart() -> None:
    before = Driver()
    before.up()
    before.offer(1, once_on=BOOT)
    before.ready()
    before.finish(before.only(events.RunBatch))
    assert [result.status for result in before.results()] == [ResultStatus.DONE]
    after = Driver(boot=BOOT + 2)
    after.up()
    after.offer(1, once_on=BOOT)
    assert after.core.held_count == 0
    assert not after.results()


def test_a_run_that_was_refused_has_not_run() -> None:
    """Only then may an at-most-once task go elsewhere; a task's own fault is nobody's refusal."""
    driver = Driver()
    driver.up()
    for number, code, status in (
        (1, ErrorCode.BUSY, ResultStatus.REFUSED),
        (2, ErrorCode.INPUT_SHAPE, ResultStatus.FAILED),
    ):
        batch = running(driver, number)
        [item] = batch.items
        end = events.RunEnd(item.task_id, code, b"", 0, refused=True)
        driver.give(events.BatchEnded(batch.batch, (end,), joinable=False))
        assert [(result.status, result.code) for result in driver.results()] == [(status, code)]


def test_memory_ends_some_time_after_the_deadline() -> None:
    driver = Driver()
    driver.up()
    driver.finish(running(driver, 1))
    driver.now_ms += 60_001 + LATE_COPY_MS
    driver.offer(1, attempt=2)
    assert driver.results() == []
    assert driver.core.held_count == 1


def test_a_failure_that_may_pass_is_tried_again_and_a_final_one_is_remembered() -> None:
    driver = Driver()
    driver.up()
    batch = running(driver, 1, 2)
    driver.finish(batch, codes=[ErrorCode.OUT_OF_MEMORY])
    driver.finish(driver.only(events.RunBatch), codes=[ErrorCode.INPUT_SHAPE], content=b"why")
    assert driver.results()[0].status is ResultStatus.FAILED
    driver.offer(1, attempt=1)
    assert driver.results()[0].code is ErrorCode.OUT_OF_MEMORY
    driver.offer(1, attempt=2)
    assert driver.core.held_count == 1
    driver.offer(2, attempt=2)
    assert (driver.results()[0].code, driver.results()[0].content) == (
        ErrorCode.INPUT_SHAPE,
        b"why",
    )


# --- cancel -----------------------------------------------------------------------------------


def test_a_cancelled_task_gives_no_result() -> None:
    driver = Driver()
    driver.up()
    batch = running(driver, 1)
    driver.offer(2)
    driver.cancel(2)
    driver.cancel(1)
    assert driver.only(events.AbortBatch).batch == batch.batch
    assert driver.core.held_count == 0
    driver.finish(batch)
    assert driver.results() == []


def test_a_batch_is_only_aborted_when_nobody_wants_any_of_it() -> None:
    driver = Driver()
    driver.up()
    driver.finish(running(driver, 1))
    driver.hear(Offers(model("m"), tuple(Offer(task(n), 1, 60_000, 0, b"") for n in (2, 3))))
    driver.ready()
    batch = driver.only(events.RunBatch)
    assert len(batch.items) == 2
    driver.cancel(2)
    assert not driver.all(events.AbortBatch)
    driver.finish(batch)
    assert [result.task_id for result in driver.results()] == [task(3)]


def test_a_cancel_that_overtakes_its_offer_still_counts_for_a_while() -> None:
    driver = Driver()
    driver.up()
    driver.cancel(1, attempt=2)
    assert driver.offer(1, attempt=2) == []
    driver.offer(1, attempt=3)
    assert driver.core.held_count == 1
    driver.cancel(2, attempt=1)
    driver.now_ms += CANCELLED_KEPT_MS + 1
    driver.offer(2, attempt=1)
    assert driver.core.held_count == 2


def test_a_cancel_of_an_older_attempt_is_passed_over() -> None:
    driver = Driver()
    driver.up()
    driver.offer(1, attempt=3)
    driver.cancel(1, attempt=2)
    assert driver.core.held_count == 1


# --- batches ----------------------------------------------------------------------------------


def test_one_task_is_measured_first_then_batches_grow_to_the_limit() -> None:
    driver = Driver(slots=20, max_batch=8)
    driver.up()
    offers = tuple(Offer(task(n), 1, 60_000, 0, b"") for n in range(12))
    driver.hear(Offers(model("m"), offers))
    driver.ready()
    batch = driver.only(events.RunBatch)
    assert [item.task_id for item in batch.items] == [task(0)]
    driver.finish(batch, run_us=20)
    batch = driver.only(events.RunBatch)
    assert [item.task_id for item in batch.items] == [task(n) for n in range(1, 9)]
    driver.finish(batch, run_us=20)
    assert len(driver.only(events.RunBatch).items) == 3


def test_slow_tasks_are_spread_over_the_workers() -> None:
    driver = Driver(slots=20, workers=2)
    driver.up()
    driver.offer(0)
    driver.ready()
    driver.finish(driver.only(events.RunBatch), run_us=2_000)
    offers = tuple(Offer(task(n), 1, 60_000, 0, b"") for n in range(1, 7))
    driver.hear(Offers(model("m"), offers))
    driver.ready()
    assert [len(batch.items) for batch in driver.all(events.RunBatch)] == [3, 3]


def test_very_slow_tasks_run_one_at_a_time() -> None:
    driver = Driver(slots=20)
    driver.up()
    driver.offer(0)
    driver.ready()
    driver.finish(driver.only(events.RunBatch), run_us=500_000)
    offers = tuple(Offer(task(n), 1, 60_000, 0, b"") for n in range(1, 4))
    driver.hear(Offers(model("m"), offers))
    driver.ready()
    assert len(driver.only(events.RunBatch).items) == 1


def test_the_model_that_has_waited_longest_runs_first_and_models_are_never_mixed() -> None:
    driver = Driver(slots=20)
    driver.up()
    driver.offer(1, name="a")
    driver.now_ms += 1
    driver.offer(2, name="b")
    driver.now_ms += 1
    driver.offer(3, name="a")
    driver.ready("b")
    batch = driver.only(events.RunBatch)
    assert [item.task_id for item in batch.items] == [task(2)]
    driver.ready("a")
    assert not driver.all(events.RunBatch)
    driver.finish(batch)
    assert [item.task_id for item in driver.only(events.RunBatch).items] == [task(1)]


def test_a_model_that_cannot_be_had_fails_all_its_tasks_and_no_other() -> None:
    driver = Driver()
    driver.up()
    driver.offer(1, name="bad")
    driver.offer(2, name="bad")
    driver.offer(3, name="good")
    driver.give(events.ModelFailed(model("bad").sha256, ErrorCode.MODEL_INVALID, "no ONNX file"))
    assert [(r.task_id, r.status, r.code) for r in driver.results()] == [
        (task(1), ResultStatus.FAILED, ErrorCode.MODEL_INVALID),
        (task(2), ResultStatus.FAILED, ErrorCode.MODEL_INVALID),
    ]
    driver.give(events.ModelFailed(model("good").sha256, ErrorCode.NO_SPACE, "the disk is full"))
    assert [(r.task_id, r.status, r.code, r.content) for r in driver.results()] == [
        (task(3), ResultStatus.REFUSED, ErrorCode.NO_SPACE, b"the disk is full")
    ]


# --- large content ----------------------------------------------------------------------------


def test_a_reference_is_fetched_before_the_run_and_released_after_it() -> None:
    driver = Driver()
    driver.up()
    reference = Reference(b"r" * 32, 10**6)
    driver.offer(1, content=reference)
    assert driver.only(events.FetchInput) == events.FetchInput(task(1), reference)
    driver.ready()
    assert not driver.all(events.RunBatch)
    driver.give(events.InputReady(task(1)))
    driver.finish(driver.only(events.RunBatch))
    assert driver.only(events.ReleaseInput).reference == reference


def test_an_input_that_cannot_be_fetched_ends_its_task() -> None:
    driver = Driver()
    driver.up()
    driver.offer(1, content=Reference(b"r" * 32, 10**6))
    driver.give(events.InputFailed(task(1), ErrorCode.CONTENT_UNAVAILABLE, "gone"))
    [result] = driver.results()
    assert (result.status, result.code) == (ResultStatus.REFUSED, ErrorCode.CONTENT_UNAVAILABLE)
    assert driver.all(events.ReleaseInput)


def test_a_large_output_is_uploaded_and_sent_as_a_reference() -> None:
    driver = Driver()
    driver.up()
    big = b"x" * (MAX_INLINE_CONTENT_BYTES + 1)
    driver.finish(running(driver, 1), content=big)
    assert driver.results() == []
    assert driver.only(events.Upload).data == big
    reference = Reference(b"u" * 32, len(big))
    driver.give(events.Uploaded(task(1), reference))
    assert driver.results()[0].content == reference


def test_an_upload_that_fails_ends_the_task_and_may_be_tried_again() -> None:
    driver = Driver()
    driver.up()
    driver.finish(running(driver, 1), content=b"x" * (MAX_INLINE_CONTENT_BYTES + 1))
    driver.give(events.UploadFailed(task(1), ErrorCode.CONTENT_UNAVAILABLE, "no answer"))
    [result] = driver.results()
    assert (result.status, result.code) == (ResultStatus.FAILED, ErrorCode.CONTENT_UNAVAILABLE)
    driver.offer(1, attempt=2)
    assert driver.core.held_count == 1


def test_outputs_on_their_way_hold_back_new_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maille_node.tasks.MAX_UPLOADING_BYTES", 50_000)
    driver = Driver()
    driver.up()
    big = b"x" * 50_000
    driver.finish(running(driver, 1, 2), content=big)
    assert not driver.all(events.RunBatch)
    driver.give(events.Uploaded(task(1), Reference(b"u" * 32, len(big))))
    driver.finish(driver.only(events.RunBatch), content=big)
    driver.offer(3)
    driver.ready()
    assert not driver.all(events.RunBatch)
    driver.cancel(2)
    assert driver.only(events.RunBatch).items[0].task_id == task(3)


# --- losing the broker ------------------------------------------------------------------------


def test_results_wait_for_the_link_and_come_after_the_birth() -> None:
    driver = Driver()
    driver.up()
    batch = running(driver, 1)
    driver.give(events.LinkDown("broken"))
    driver.finish(batch)
    assert driver.results() == []
    driver.up()
    assert driver.states() == ["INIT", "READY"]
    assert [result.task_id for result in driver.results()] == [task(1)]
    driver.give(events.Tick())
    assert driver.results() == []


def test_recent_results_are_repeated_when_link_and_coordinator_are_back() -> None:
    driver = Driver(slots=2)
    driver.up()
    driver.finish(running(driver, 1))
    driver.now_ms += SENT_AGAIN_MS
    driver.offer(2)
    driver.ready()
    driver.finish(driver.only(events.RunBatch))
    driver.now_ms += 100
    driver.give(events.LinkDown("broken"))
    driver.up()
    assert driver.results() == []
    driver.announce()
    assert [result.task_id for result in driver.results()] == [task(2)]


def test_no_more_results_are_repeated_than_the_coordinator_may_have_given() -> None:
    driver = Driver(slots=2)
    driver.up()
    for number in range(10):
        driver.offer(number)
        driver.ready()
        driver.finish(driver.only(events.RunBatch))
    driver.announce()
    assert [result.task_id for result in driver.results()] == [task(7), task(8), task(9)]


def test_results_refused_by_the_link_are_kept_for_the_next_beat() -> None:
    driver = Driver()
    driver.up()
    driver.finish(running(driver, 1))
    [publish] = [action for action in driver.all(events.Publish) if action.results]
    assert driver.give(events.NotPublished(publish.results)) == []
    driver.now_ms += 1000
    driver.give(events.Tick())
    assert [result.task_id for result in driver.results()] == [task(1)]


def test_a_coordinator_that_returns_gets_the_results_it_may_have_missed() -> None:
    driver = Driver()
    driver.up()
    driver.announce()
    batch = running(driver, 1)
    driver.announce(online=False)
    driver.finish(batch)
    assert len(driver.results()) == 1
    driver.now_ms += 20_000
    driver.announce(epoch=2)
    assert [result.task_id for result in driver.results()] == [task(1)]


def test_many_results_are_split_into_publishes_that_fit() -> None:
    driver = Driver(slots=200, max_batch=100)
    driver.up()
    driver.finish(running(driver, 0))
    driver.hear(Offers(model("m"), tuple(Offer(task(n), 1, 60_000, 0, b"") for n in range(1, 60))))
    driver.ready()
    driver.finish(driver.only(events.RunBatch), content=b"z" * 3_000)
    publishes = driver.all(events.Publish)
    assert len(publishes) > 1
    assert all(len(publish.payload) <= MAX_PUBLISH_BYTES for publish in publishes)
    assert sorted(result.task_id for result in driver.results()) == [task(n) for n in range(1, 60)]


def test_the_largest_inline_output_fits_into_one_publish() -> None:
    driver = Driver()
    driver.up()
    driver.finish(running(driver, 1), content=b"z" * MAX_INLINE_CONTENT_BYTES)
    assert len(driver.results()) == 1


# --- stopping ---------------------------------------------------------------------------------


def test_a_drain_finishes_what_is_held_then_says_goodbye() -> None:
    driver = Driver()
    driver.up()
    batch = running(driver, 1)
    driver.offer(2)
    driver.give(events.DrainRequested(30_000))
    assert driver.states() == ["DRAINING"]
    assert not driver.all(events.Stop)
    driver.offer(3)
    assert driver.results()[0].code is ErrorCode.DRAINING
    driver.finish(batch)
    driver.finish(driver.only(events.RunBatch))
    assert [result.status for result in driver.results()] == [ResultStatus.DONE]
    assert driver.states() == ["DISCONNECTED"]
    assert driver.only(events.Stop).reason is StopReason.DRAINED


def test_a_drain_that_takes_too_long_gives_the_rest_back() -> None:
    driver = Driver()
    driver.up()
    batch = running(driver, 1)
    driver.offer(2)
    driver.give(events.DrainRequested(500))
    assert driver.only(events.WakeAt).at_ms == driver.now_ms + 500
    driver.now_ms += 500
    driver.give(events.Tick())
    assert {result.task_id: (result.status, result.code) for result in driver.results()} == {
        task(1): (ResultStatus.FAILED, ErrorCode.DRAINING),
        task(2): (ResultStatus.REFUSED, ErrorCode.DRAINING),
    }
    assert driver.only(events.AbortBatch).batch == batch.batch
    assert driver.states() == ["DISCONNECTED"]
    assert driver.only(events.Stop).reason is StopReason.STOPPED


def test_asked_twice_a_node_stops_at_once() -> None:
    driver = Driver()
    driver.up()
    running(driver, 1)
    driver.give(events.DrainRequested(30_000))
    driver.give(events.DrainRequested(30_000))
    assert driver.only(events.Stop).reason is StopReason.STOPPED
    assert len(driver.results()) == 1


def test_an_idle_node_stops_at_once_and_also_without_a_broker() -> None:
    driver = Driver()
    driver.give(events.DrainRequested(30_000))
    assert driver.only(events.Stop).reason is StopReason.DRAINED
    assert not driver.all(events.Publish)


# --- bounds -----------------------------------------------------------------------------------


def test_memory_and_outbox_stay_within_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maille_node.tasks.MAX_REMEMBERED", 50)
    monkeypatch.setattr("maille_node.tasks.MAX_WAITING", 20)
    driver = Driver(slots=200, max_batch=1)
    driver.up()
    driver.give(events.LinkDown("broken"))
    for number in range(100):
        driver.offer(number)
        driver.ready()
        driver.finish(driver.only(events.RunBatch), content=b"x" * 1000)
    assert len(driver.core._tasks._memory) == 50
    assert len(driver.core._tasks._outbox) == 20
    driver.give(events.Tick())
    assert any("could not be kept" in note.text for note in driver.all(events.Note))
    driver.up()
    assert [result.task_id for result in driver.results()] == [task(n) for n in range(80, 100)]
    # The coordinator may ask for every one of the last fifty again.
    for number in range(50, 100):
        driver.offer(number, attempt=2)
        assert [result.task_id for result in driver.results()] == [task(number)]


def test_bytes_are_bounded_too() -> None:
    driver = Driver(slots=200, max_batch=1)
    driver.up()
    driver.give(events.LinkDown("broken"))
    for number in range(1000):
        driver.offer(number)
        driver.ready()
        driver.finish(driver.only(events.RunBatch), content=b"x" * MAX_INLINE_CONTENT_BYTES)
    assert 0 < driver.core._tasks._memory.size_bytes <= 32 * 1024 * 1024
    assert 0 < driver.core._tasks._outbox.size_bytes <= 32 * 1024 * 1024
