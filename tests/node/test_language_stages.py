"""A stage's decisions: messages and results in, actions out."""

from dataclasses import replace

import numpy as np
import pytest
from language_mesh import (
    GREEDY,
    HIDDEN,
    PIPELINE,
    SESSION,
    VOCABULARY,
    Driver,
    facts_of,
    slice_of,
    uint32s,
)

from maille_node.language import stage_events as events
from maille_node.language.opening import EXPIRY_MS
from maille_node.language.parts import MAX_UNFINISHED
from maille_node.language.sending import RESEND_BYTES, RESEND_PAUSE_MS
from maille_node.language.turns import HOLD_UP_MS, LEAST_STEP, MOST_SHARED_STEP
from maille_node.language.waiting import MAX_WAITING, WAIT_MS
from maille_protocol import (
    ActivationFlag,
    ActivationKind,
    ErrorCode,
    Finish,
    Reference,
    Route,
    Sampling,
    SessionCommand,
    StageCommand,
    StageOrder,
    StageState,
    Token,
)

RING = (("z",), ("a",), ("b",))
"""This node, "a", is in the middle."""
FIRST = (("a",), ("b",))
LAST = (("b",), ("a",))
REPLAY = int(ActivationFlag.REPLAY)


def rows(count: int) -> bytes:
    return np.arange(count * HIDDEN, dtype=np.float32).tobytes()


def middle() -> Driver:
    driver = Driver()
    driver.hold(1, RING)
    driver.open()
    return driver


def first() -> Driver:
    driver = Driver()
    driver.hold(0, FIRST)
    return driver


def last(**options: object) -> Driver:
    driver = Driver()
    driver.hold(1, LAST)
    driver.open([1, 2, 3], **options)  # type: ignore[arg-type]
    return driver


def finish(driver: Driver, output: bytes | None = None, token: int | None = None) -> events.Compute:
    """End the step that the last actions began."""
    job = driver.one(events.Compute)
    if token is None:
        driver.give(events.Computed(job.job, rows(job.count) if output is None else output))
    else:
        driver.give(events.Computed(job.job, sampled=Token(token)))
    return job


# --- slices ------------------------------------------------------------------------------------


def test_a_slice_is_loaded_measured_and_reported() -> None:
    driver = Driver()
    driver.load(1, nonce=8)
    assert driver.one(events.LoadSlice).reference == slice_of(1)
    assert [report.state for report in driver.reports()] == [StageState.LOADING]
    driver.give(events.SliceReady(slice_of(1).sha256, facts_of(1, 3)))
    (report,) = driver.reports()
    assert (report.state, report.pipeline, report.stage, report.nonce) == (
        StageState.READY,
        PIPELINE,
        1,
        8,
    )
    assert (report.decode_us, report.prefill_us, report.resident_bytes) == (100, 10, 1000)
    assert (report.fingerprint, report.free_bytes) == (bytes(16), 12345)


def test_a_loaded_slice_is_used_again_at_once() -> None:
    driver = Driver()
    driver.hold(1, RING)
    driver.load(1, nonce=9)
    assert [(one.state, one.nonce) for one in driver.reports()] == [(StageState.READY, 9)]
    # As another stage of another pipeline too.
    driver.hear(StageOrder(StageCommand.LOAD, PIPELINE + 1, 4, slice_of(1), 10, 10))
    assert [(one.state, one.stage) for one in driver.reports()] == [(StageState.READY, 4)]
    driver.load(1, command=StageCommand.UNLOAD)
    assert not driver.all(events.DropSlice)
    driver.hear(StageOrder(StageCommand.UNLOAD, PIPELINE + 1, 4, None, 0, 11))
    assert driver.one(events.DropSlice).sha256 == slice_of(1).sha256
    assert [one.state for one in driver.reports()] == [StageState.GONE]


def test_a_slice_that_is_unloaded_while_it_loads_is_not_kept() -> None:
    driver = Driver()
    driver.load(1)
    driver.load(1, command=StageCommand.UNLOAD)
    assert driver.one(events.DropSlice)
    driver.give(events.SliceReady(slice_of(1).sha256, facts_of(1, 3)))
    assert not driver.actions
    assert driver.core.stage_count == 0


def test_another_slice_takes_the_place_of_the_old_one() -> None:
    driver = middle()
    driver.load(1, reference=slice_of(7))
    assert driver.one(events.FreeCache)
    assert driver.one(events.DropSlice).sha256 == slice_of(1).sha256
    assert driver.one(events.LoadSlice).reference == slice_of(7)


def test_a_slice_that_cannot_be_had_is_reported_and_may_be_tried_again() -> None:
    driver = Driver()
    driver.load(1)
    driver.give(events.SliceFailed(slice_of(1).sha256, ErrorCode.NO_SPACE, "the disk is full"))
    (report,) = driver.reports()
    assert (report.state, report.code, report.text) == (
        StageState.FAILED,
        ErrorCode.NO_SPACE,
        "the disk is full",
    )
    driver.load(1)
    assert driver.one(events.LoadSlice)


def test_measuring_keeps_nothing() -> None:
    driver = Driver()
    driver.load(1, command=StageCommand.MEASURE, nonce=4)
    driver.give(events.SliceReady(slice_of(1).sha256, facts_of(1, 3)))
    (report,) = driver.reports()
    assert (report.state, report.nonce, report.decode_us) == (StageState.MEASURED, 4, 100)
    assert driver.one(events.DropSlice)
    assert driver.core.stage_count == 0


def test_a_slice_loaded_while_it_is_measured_stays() -> None:
    driver = Driver()
    driver.load(1, command=StageCommand.MEASURE)
    driver.load(1)
    assert not driver.all(events.LoadSlice)
    driver.give(events.SliceReady(slice_of(1).sha256, facts_of(1, 3)))
    assert [one.state for one in driver.reports()] == [StageState.READY, StageState.MEASURED]
    assert not driver.all(events.DropSlice)


def test_a_ping_is_answered_and_an_order_without_slice_refused() -> None:
    driver = Driver()
    driver.hear(StageOrder(StageCommand.PING, PIPELINE, 2, None, 0, 6))
    assert [(one.state, one.nonce) for one in driver.reports()] == [(StageState.PONG, 6)]
    driver.hear(StageOrder(StageCommand.LOAD, PIPELINE, 2, None, 0, 6))
    assert [one.code for one in driver.reports()] == [ErrorCode.INPUT_MALFORMED]


def test_orders_of_an_older_coordinator_are_dropped() -> None:
    driver = Driver()
    driver.hear(StageOrder(StageCommand.PING, PIPELINE, 2, None, 0, 6), epoch=3)
    driver.hear(StageOrder(StageCommand.PING, PIPELINE, 2, None, 0, 6), epoch=2)
    assert not driver.actions
    assert driver.core.counters.stale_epoch == 1


# --- activations -------------------------------------------------------------------------------


def test_a_step_is_computed_and_sent_on() -> None:
    driver = middle()
    driver.activation(0, data=rows(1))
    job = finish(driver)
    assert (job.position, job.count, bytes(job.values), job.sample) == (0, 1, rows(1), None)
    ((node, sent),) = driver.sent()
    assert node == "b"
    assert (sent.stage, sent.position, sent.count, sent.kind) == (2, 0, 1, ActivationKind.HIDDEN)
    assert (sent.layout, sent.session, sent.flags) == (1, SESSION, ActivationFlag.SAMPLE)
    assert sent.data == rows(1)


def test_a_hop_takes_at_most_64_bytes_more_than_its_values() -> None:
    driver = Driver(boot=(1 << 63) + 5)
    route = (("z",), ("a",), ("b",))
    big = facts_of(1, 3, hidden=576)
    driver.load(1)
    driver.give(events.SliceReady(slice_of(1).sha256, big))
    driver.hear(Route(PIPELINE, 1 << 20, route))
    driver.open(session=(1 << 32) - 1, layout=1 << 20, capacity=4096)
    driver.activation(0, layout=1 << 20, session=(1 << 32) - 1, data=bytes(4 * 576))
    job = driver.one(events.Compute)
    driver.give(events.Computed(job.job, bytes(4 * 576)))
    assert len(driver.one(events.SendActivation).payload) <= 4 * 576 + 64


def test_a_shadow_computes_and_is_silent_and_is_served_by_the_sender() -> None:
    driver = Driver()
    driver.hold(1, (("z",), ("b", "a"), ("c", "d")))
    driver.open()
    driver.activation(0)
    finish(driver)
    assert not driver.sent()
    # Promoted, it goes on where it is, and sends to the shadow of the next stage too.
    driver.hear(Route(PIPELINE, 2, (("z",), ("a",), ("c", "d"))))
    driver.activation(1, layout=2)
    finish(driver)
    assert [(node, sent.position) for node, sent in driver.sent()] == [("c", 1), ("d", 1)]


def test_an_earlier_position_cuts_back_first() -> None:
    driver = middle()
    driver.activation(0, count=3)
    finish(driver)
    driver.activation(1)
    assert finish(driver).position == 1
    driver.activation(2)
    assert finish(driver).position == 2


def test_a_later_position_is_a_gap_that_is_told_now_and_then() -> None:
    driver = middle()
    driver.activation(2)
    assert not driver.all(events.Compute)
    (report,) = driver.reports()
    assert (report.code, report.session) == (ErrorCode.CACHE_GAP, SESSION)
    assert report.length == 0
    assert "0 are held" in report.text
    driver.activation(3)
    assert not driver.reports()
    driver.now_ms += 500
    driver.activation(4)
    assert driver.reports()
    assert driver.core.counters.gaps == 3


@pytest.mark.parametrize(
    ("change", "counter"),
    [
        ({"layout": 0}, "old_layout"),
        ({"pipeline": 99}, "unknown"),
        ({"stage": 2}, "unknown"),
        ({"data": rows(2)}, "misshapen"),
        ({"data": b""}, "misshapen"),
        ({"count": 0, "data": b""}, "misshapen"),
        ({"count": 300}, "misshapen"),
        ({"position": 256}, "misshapen"),
        ({"kind": ActivationKind.TOKEN}, "misshapen"),
        ({"data": np.full(HIDDEN, np.nan, np.float32).tobytes()}, "not_finite"),
        ({"data": np.full(HIDDEN, -np.inf, np.float32).tobytes()}, "not_finite"),
        ({"part": 1, "parts": 2}, "misshapen"),
        ({"parts": 0}, "misshapen"),
    ],
)
def test_hostile_activations_are_counted_and_dropped(
    change: dict[str, object], counter: str
) -> None:
    driver = middle()
    driver.activation(0, count=4)
    finish(driver)
    arguments: dict[str, object] = {"position": 0} | change
    driver.activation(**arguments)  # type: ignore[arg-type]
    assert not driver.actions
    assert getattr(driver.core.counters, counter) == 1
    driver.activation(4)
    assert driver.one(events.Compute).position == 4


def test_a_message_that_comes_twice_counts_once() -> None:
    driver = middle()
    driver.activation(0, seq=500)
    finish(driver)
    driver.activation(0, seq=500)
    assert not driver.actions
    assert driver.core.counters.repeated == 1


def test_parts_are_joined_in_whatever_order_they_come() -> None:
    driver = middle()
    whole = rows(4)
    halves = [whole[:32], whole[32:]]
    for position, order in ((0, (0, 1)), (4, (1, 0)), (8, (1, 1, 0))):
        for part in order:
            driver.activation(position, count=4, part=part, parts=2, data=halves[part])
        assert bytes(finish(driver).values) == whole
    # Parts of several steps may come between each other.
    for position, part in ((12, 1), (16, 0), (12, 0), (16, 1)):
        driver.activation(position, count=4, part=part, parts=2, data=halves[part])
    assert driver.core.counters.misshapen == 0


def test_parts_that_contradict_each_other_are_dropped() -> None:
    driver = middle()
    whole = rows(4)
    driver.activation(0, count=4, part=0, parts=2, data=whole[:32])
    driver.activation(0, count=4, part=0, parts=2, data=whole[32:])
    driver.activation(0, count=4, part=1, parts=2, data=whole)
    driver.activation(0, count=4, part=0, parts=2000, data=whole[:1])
    driver.activation(0, count=4, part=2, parts=2, data=whole[:32])
    assert driver.core.counters.misshapen == 4
    assert not driver.all(events.Compute)
    # What is unfinished is bounded: the oldest goes.
    for position in range(MAX_UNFINISHED + 1):
        driver.activation(position, count=4, part=0, parts=2, data=whole[:32])
    driver.activation(0, count=4, part=1, parts=2, data=whole[32:])
    assert not driver.all(events.Compute)


def test_large_steps_leave_in_parts_that_fit() -> None:
    driver = Driver()
    driver.load(1)
    driver.give(events.SliceReady(slice_of(1).sha256, facts_of(1, 3, hidden=2048)))
    driver.hear(Route(PIPELINE, 1, RING))
    driver.open()
    data = bytes(4 * 2048)
    for part in range(32):
        driver.activation(0, count=32, part=part, parts=32, data=data)
    finish(driver, output=data * 32)
    sent = [one for _, one in driver.sent()]
    assert [one.part for one in sent] == list(range(len(sent)))
    assert {one.parts for one in sent} == {len(sent)} == {6}
    assert b"".join(one.data for one in sent) == data * 32


# --- order of work -----------------------------------------------------------------------------


def test_a_prompt_that_has_the_stage_to_itself_goes_in_large_steps() -> None:
    driver = middle()
    driver.activation(0, count=150)
    counts = []
    while driver.all(events.Compute):
        counts.append(finish(driver).count)
    assert counts == [MOST_SHARED_STEP, MOST_SHARED_STEP, 150 - 2 * MOST_SHARED_STEP]


def decoding(driver: Driver) -> None:
    """Session 2 has decoded its first token."""
    driver.open(session=2)
    driver.activation(0, session=2)
    finish(driver)


def test_beside_decoding_a_prompt_goes_in_steps_as_short_as_the_stage_is_slow() -> None:
    driver = middle()
    decoding(driver)
    driver.activation(0, count=100)
    share_ms = HOLD_UP_MS / len(RING)
    step = driver.one(events.Compute)
    assert step.count == min(MOST_SHARED_STEP, int(share_ms / (facts_of(1, 3).prefill_us / 1000)))
    # It takes ten times as long as it may: the next steps are shorter.
    driver.now_ms += 10 * share_ms
    driver.give(events.Computed(step.job, rows(step.count)))
    step_ms = 10 * share_ms / step.count
    assert driver.one(events.Compute).count == max(LEAST_STEP, int(share_ms / step_ms))


def test_steps_are_large_again_when_nobody_decodes() -> None:
    driver = middle()
    decoding(driver)
    driver.now_ms += 5000
    driver.activation(0, count=100)
    assert driver.one(events.Compute).count == MOST_SHARED_STEP


def test_steps_are_large_when_the_session_that_decoded_is_closed() -> None:
    driver = middle()
    decoding(driver)
    driver.order(SessionCommand.CLOSE, session=2)
    driver.activation(0, count=100)
    assert driver.one(events.Compute).count == MOST_SHARED_STEP


def test_decoding_goes_before_prefill() -> None:
    driver = middle()
    driver.open(session=2)
    driver.activation(0, count=100)
    step = driver.one(events.Compute)
    driver.activation(0, session=2)
    driver.give(events.Computed(step.job, rows(step.count)))
    decode = driver.one(events.Compute)
    assert decode.count == 1
    driver.give(events.Computed(decode.job, rows(1)))
    assert driver.one(events.Compute).position == step.count


def test_prefill_gets_half_of_a_full_stage_whatever_its_steps_take() -> None:
    driver = middle()
    decoding(driver)
    driver.activation(0, count=200)
    position, took_ms = 1, {True: 0.0, False: 0.0}
    for _ in range(300):
        job = driver.one(events.Compute)
        driver.activation(position, session=2)
        position += 1
        decode = job.count == 1
        length_ms = 20.0 if decode else 10.0 * job.count
        driver.now_ms += length_ms
        took_ms[decode] += length_ms
        driver.give(events.Computed(job.job, rows(job.count)))
        if job.position + job.count == 200:
            break
    else:
        pytest.fail("the prompt never came to its end")
    assert 0.7 <= took_ms[True] / took_ms[False] <= 1.5


def test_a_layout_stops_what_waits_and_what_runs_is_kept_but_not_sent() -> None:
    driver = middle()
    driver.activation(0, count=40)
    job = driver.one(events.Compute)
    driver.hear(Route(PIPELINE, 2, RING))
    driver.give(events.Computed(job.job, rows(32)))
    assert not driver.actions
    driver.activation(32, layout=2)
    assert driver.one(events.Compute).position == 32


def test_the_same_layout_may_gain_a_shadow_without_a_stop() -> None:
    driver = middle()
    driver.activation(0)
    job = driver.one(events.Compute)
    driver.hear(Route(PIPELINE, 1, (("z",), ("a",), ("b", "c"))))
    driver.give(events.Computed(job.job, rows(1)))
    assert [node for node, _ in driver.sent()] == ["b", "c"]


def test_what_comes_before_its_layout_or_session_waits_for_it() -> None:
    driver = Driver()
    driver.hold(1, RING)
    driver.activation(0, layout=2)
    driver.activation(1, layout=2)
    assert not driver.all(events.Compute)
    driver.hear(Route(PIPELINE, 2, RING))
    assert not driver.all(events.Compute)
    driver.open(layout=2)
    assert finish(driver).position == 0
    assert driver.one(events.Compute).position == 1


def test_what_waits_too_long_is_reported_as_unknown() -> None:
    driver = Driver()
    driver.hold(1, RING)
    for _ in range(MAX_WAITING + 5):
        driver.activation(0)
    assert driver.core.counters.unknown == 5
    driver.now_ms += WAIT_MS + 1
    driver.give(events.Tick())
    (report,) = driver.reports()
    assert (report.code, report.session) == (ErrorCode.UNKNOWN_SESSION, SESSION)


def test_what_still_comes_for_a_closed_session_is_dropped() -> None:
    driver = middle()
    driver.activation(0)
    job = driver.one(events.Compute)
    driver.order(SessionCommand.CLOSE)
    assert driver.one(events.FreeCache).cache == job.cache
    driver.give(events.Computed(job.job, rows(1)))
    driver.activation(1)
    assert not driver.actions
    assert driver.core.session_count == 0
    driver.open()
    driver.activation(0)
    assert driver.one(events.Compute).cache != job.cache


# --- sessions ----------------------------------------------------------------------------------


def test_a_session_that_does_not_fit_says_what_is_missing() -> None:
    driver = Driver()
    driver.hold(1, RING, limit=100 * 101 + 16 * 100 + 5)
    driver.open(capacity=100)
    assert not driver.reports()
    driver.open(session=2, capacity=10)
    (report,) = driver.reports()
    assert (report.code, report.session) == (ErrorCode.CACHE_FULL, 2)
    assert (report.resident_bytes, report.free_bytes) == (100 * 11 + 16 * 10, 5)
    driver.order(SessionCommand.CLOSE)
    driver.open(session=2, capacity=10)
    assert not driver.reports()


@pytest.mark.parametrize("capacity", [0, 5000])
def test_a_context_that_the_model_does_not_have(capacity: int) -> None:
    driver = Driver()
    driver.hold(1, RING)
    driver.open(capacity=capacity)
    assert [one.code for one in driver.reports()] == [ErrorCode.INPUT_TOO_LARGE]


def test_a_session_on_a_node_without_the_stage_or_before_it_is_loaded() -> None:
    driver = Driver()
    driver.open()
    assert [one.code for one in driver.reports()] == [ErrorCode.UNKNOWN_SESSION]
    driver.load(1)
    driver.hear(Route(PIPELINE, 1, RING))
    driver.open()
    assert [one.code for one in driver.reports()] == [ErrorCode.BUSY]


def test_a_session_that_nobody_speaks_of_is_freed() -> None:
    driver = middle()
    driver.now_ms += EXPIRY_MS - 1
    driver.give(events.Tick())
    assert driver.core.session_count == 1
    driver.now_ms += 1001
    driver.give(events.Tick())
    assert driver.one(events.FreeCache)
    assert driver.core.session_count == 0


def test_a_step_that_fails_is_reported_with_its_session() -> None:
    driver = middle()
    driver.activation(0)
    job = driver.one(events.Compute)
    driver.give(events.Computed(job.job, code=ErrorCode.OUT_OF_MEMORY, text="no memory"))
    (report,) = driver.reports()
    assert (report.code, report.session) == (ErrorCode.OUT_OF_MEMORY, SESSION)
    driver.activation(0)
    assert finish(driver).position == 0


# --- repair ------------------------------------------------------------------------------------


def test_replay_sends_history_in_its_first_steps_and_later_work_behind_it() -> None:
    driver = middle()
    driver.activation(0, count=72)
    finish(driver)
    finish(driver)
    driver.activation(72)
    finish(driver)
    driver.order(SessionCommand.REPLAY, position=10, until=2)
    sent = [one for _, one in driver.sent()]
    assert [(one.position, one.count) for one in sent] == [(10, 54), (64, 8), (72, 1)]
    assert {one.flags for one in sent} == {REPLAY}
    assert {one.until for one in sent} == {2}


def test_a_long_replay_leaves_in_portions() -> None:
    driver = Driver()
    hidden = 16384
    driver.load(1)
    driver.give(events.SliceReady(slice_of(1).sha256, facts_of(1, 3, hidden=hidden, cache_bytes=1)))
    driver.hear(Route(PIPELINE, 1, RING))
    driver.open(capacity=64)
    row = bytes(4 * hidden)
    for position in range(40):
        for part in range(2):
            half = row[: len(row) // 2]
            driver.activation(position, part=part, parts=2, data=half)
        finish(driver, output=row)
    driver.order(SessionCommand.REPLAY, until=2)
    first_portion = {one.position for _, one in driver.sent()}
    assert len(first_portion) == RESEND_BYTES // len(row)
    # Work of the session waits until the history is out.
    for part in range(2):
        driver.activation(40, part=part, parts=2, data=row[: len(row) // 2])
    assert not driver.all(events.Compute)
    positions = set(first_portion)
    while len(positions) < 40:
        driver.now_ms += RESEND_PAUSE_MS
        driver.give(events.Tick())
        positions |= {one.position for _, one in driver.sent()}
    assert driver.one(events.Compute).position == 40


def test_replayed_positions_that_are_held_are_not_computed_but_passed_on() -> None:
    driver = middle()
    driver.activation(0, count=8)
    finish(driver)
    driver.activation(0, count=8, flags=REPLAY, until=1)
    assert not driver.actions
    driver.activation(0, count=8, flags=REPLAY, until=2)
    assert [(one.position, one.count, one.flags) for _, one in driver.sent()] == [(0, 8, REPLAY)]
    assert not driver.all(events.Compute)
    driver.activation(6, count=4, flags=REPLAY, until=1)
    job = finish(driver)
    assert (job.position, job.count) == (8, 2)
    assert not driver.sent()


def test_stage_0_starts_rebuilds_and_goes_on_from_an_injected_token() -> None:
    driver = first()
    driver.open(range(72))
    job = finish(driver)
    assert bytes(job.values) == uint32s(range(64))
    assert [one.flags for _, one in driver.sent()] == [0]
    finish(driver)
    assert [one.flags for _, one in driver.sent()] == [ActivationFlag.SAMPLE]
    # Heard again, from a coordinator that does not know whether it was heard.
    driver.open(range(72))
    assert not driver.actions
    driver.order(SessionCommand.INJECT, position=71, tokens=[71])
    assert finish(driver).position == 71
    driver.order(SessionCommand.REBUILD, until=1, tokens=range(77))
    assert [one.position for _, one in driver.sent()] == [0, 64, 71]
    assert finish(driver).position == 72
    assert [one.flags for _, one in driver.sent()] == [REPLAY]


def test_a_second_ring_ends_at_stage_0() -> None:
    driver = first()
    driver.open([1, 2, 3])
    finish(driver)
    token = {"stage": 0, "kind": ActivationKind.TOKEN, "data": uint32s([7])}
    driver.activation(3, **token)  # type: ignore[arg-type]
    driver.activation(3, **token)  # type: ignore[arg-type]
    assert driver.core.counters.repeated == 1
    driver.activation(9, **token)  # type: ignore[arg-type]
    assert driver.core.counters.gaps == 0


@pytest.mark.parametrize(
    ("position", "tokens"),
    [(0, []), (250, range(10)), (0, [VOCABULARY]), (300, [1])],
)
def test_tokens_that_cannot_be_are_refused(position: int, tokens: list[int]) -> None:
    driver = first()
    driver.open([1])
    finish(driver)
    driver.order(SessionCommand.INJECT, position=position, tokens=tokens)
    assert [one.code for one in driver.reports()] == [ErrorCode.INPUT_MALFORMED]
    assert not driver.all(events.Compute)


# --- the last stage ----------------------------------------------------------------------------


def test_the_last_stage_samples_and_sends_the_token_both_ways() -> None:
    driver = last()
    driver.activation(0, count=3)
    job = driver.one(events.Compute)
    assert job.sample is not None
    assert (job.sample.position, job.sample.tokens) == (3, ())
    finish(driver, token=17)
    ((node, sent),) = driver.sent()
    assert (node, sent.stage, sent.position, sent.kind) == ("b", 0, 3, ActivationKind.TOKEN)
    assert sent.data == uint32s([17])
    (told,) = driver.tokens()
    assert (told.position, told.tokens, told.finish) == (3, (Token(17),), Finish.NONE)


@pytest.mark.parametrize(
    ("options", "finish_reason"),
    [
        ({"end_tokens": [17]}, Finish.END),
        ({"max_tokens": 1}, Finish.LENGTH),
        ({"capacity": 3}, Finish.LENGTH),
    ],
)
def test_an_answer_ends(options: dict[str, object], finish_reason: Finish) -> None:
    driver = last(**options)
    driver.activation(0, count=3)
    finish(driver, token=17)
    assert not driver.sent()
    assert [one.finish for one in driver.tokens()] == [finish_reason]


def test_penalties_see_all_tokens_also_those_told_after_the_prompt() -> None:
    penal = replace(GREEDY, frequency_ppm=500_000)
    driver = last(sampling=penal)
    driver.open([50, 51], position=3, sampling=None, max_tokens=0)
    driver.activation(0, count=5)
    job = driver.one(events.Compute)
    assert job.sample is not None
    assert (job.sample.tokens, job.sample.prompt_length) == ((1, 2, 3, 50, 51), 3)


def test_tokens_that_penalties_need_and_nobody_told() -> None:
    driver = last(sampling=replace(GREEDY, frequency_ppm=500_000))
    driver.activation(0, count=5)
    assert not driver.all(events.Compute)
    assert [one.code for one in driver.reports()] == [ErrorCode.UNKNOWN_SESSION]
    driver.open([9], position=7, sampling=None, max_tokens=0)
    assert [one.code for one in driver.reports()] == [ErrorCode.UNKNOWN_SESSION]


def test_tokens_are_told_again_from_any_position() -> None:
    driver = last()
    driver.activation(0, count=3)
    finish(driver, token=10)
    for position in range(3, 100):
        driver.activation(position)
        finish(driver, token=position * 2)
    driver.order(SessionCommand.RESEND, position=5)
    told = driver.tokens()
    assert [one.position for one in told] == [5, 69]
    tokens = [found.token for one in told for found in one.tokens]
    assert tokens == [2 * position for position in range(4, 100)]


def test_sampling_that_no_node_can_do_ends_the_answer() -> None:
    driver = last()
    driver.activation(0, count=3)
    job = driver.one(events.Compute)
    driver.give(events.Computed(job.job, code=ErrorCode.MODEL_ERROR, text="no token is left"))
    (told,) = driver.tokens()
    assert (told.finish, told.text) == (Finish.FAILED, "no token is left")
    driver = Driver()
    driver.hold(1, LAST)
    driver.open([1], sampling=Sampling(presence_ppm=90_000_000))
    assert [one.code for one in driver.reports()] == [ErrorCode.INPUT_MALFORMED]
    assert driver.core.session_count == 0


# --- counts for the node -------------------------------------------------------------------------


def test_serving_counts_stages_that_the_mesh_relies_on() -> None:
    driver = Driver()
    driver.hold(1, RING)
    assert driver.core.serving == 0
    driver.open()
    assert driver.core.serving == 1
    driver.hear(Route(PIPELINE, 2, (("z",), ("c",), ("b",))))
    assert driver.core.serving == 0


def test_stages_and_pipelines_are_bounded() -> None:
    driver = Driver()
    for number in range(300):
        driver.hear(Route(number, 1, RING))
    for number in range(70):
        driver.hear(
            StageOrder(StageCommand.LOAD, number, 1, Reference(number.to_bytes(32, "big"), 5), 1, 1)
        )
    assert [one.code for one in driver.reports()] == [ErrorCode.BUSY]
    assert driver.core.stage_count == 64


def test_a_replay_waits_for_the_step_that_runs() -> None:
    driver = middle()
    driver.activation(0)
    finish(driver)
    driver.activation(1)
    job = driver.one(events.Compute)
    driver.order(SessionCommand.REPLAY, until=2)
    assert not driver.sent()
    driver.give(events.Computed(job.job, rows(1)))
    # First the step itself, as ever; then all of it again, for who has nothing.
    assert [(one.position, one.flags) for _, one in driver.sent()] == [
        (1, ActivationFlag.SAMPLE),
        (0, REPLAY),
        (1, REPLAY),
    ]


def test_a_prompt_in_pieces_is_not_answered_before_it_is_whole() -> None:
    driver = Driver()
    driver.hold(0, (("a",),), facts=facts_of(0, 1))
    driver.open(range(50), sampling=None, max_tokens=0)
    driver.open(range(50, 150), position=50)
    assert not driver.actions
    driver.order(SessionCommand.REBUILD, tokens=range(150))
    finish(driver, output=b"")
    finish(driver, output=b"")
    driver.order(SessionCommand.INJECT, position=149, tokens=[149])
    job = driver.one(events.Compute)
    assert job.sample is not None
    assert (job.position, job.sample.position) == (149, 150)


def test_a_last_stage_that_was_not_told_how_to_choose_does_not_guess() -> None:
    driver = last(sampling=None, max_tokens=0)
    driver.activation(0, count=3)
    assert not driver.all(events.Compute)
    assert [one.code for one in driver.reports()] == [ErrorCode.UNKNOWN_SESSION]
