"""Sessions that are over and kept, those that begin with them, shadows that catch up, grammars."""

from collections.abc import Iterable

import numpy as np
import pytest
from language_mesh import HIDDEN, PIPELINE, SESSION, Driver, facts_of, slice_of

from maille_node.language import stage_events as events
from maille_node.language.opening import EXPIRY_MS, IDLE_MS, KEPT_EXPIRY_MS
from maille_protocol import (
    ActivationFlag,
    ErrorCode,
    Grammar,
    Reference,
    Sampling,
    SessionCommand,
    SessionOrder,
    StageCommand,
    StageState,
)

RING = (("z",), ("a",), ("b",))
REPLAY = int(ActivationFlag.REPLAY)
POSITION_BYTES = 100 + 4 * HIDDEN
"""Cache and history of one position of a middle stage."""


def rows(count: int) -> bytes:
    return np.arange(count * HIDDEN, dtype=np.float32).tobytes()


def finish(driver: Driver) -> events.Compute:
    job = driver.one(events.Compute)
    driver.give(events.Computed(job.job, rows(job.count)))
    return job


def middle(limit: int = 10_000_000) -> Driver:
    driver = Driver()
    driver.hold(1, RING, limit=limit)
    return driver


def generation(driver: Driver, session: int, count: int, capacity: int = 100) -> int:
    """A session that computes so many positions; the number of its cache."""
    driver.open(session=session, capacity=capacity)
    driver.activation(0, count=count, session=session)
    return finish(driver).cache


def begin(driver: Driver, session: int, source: int, shared: int, capacity: int = 100) -> None:
    driver.hear(
        SessionOrder(
            SessionCommand.OPEN,
            PIPELINE,
            1,
            session,
            1,
            capacity=capacity,
            source=source,
            shared=shared,
        )
    )


# --- kept --------------------------------------------------------------------------------------


def test_a_session_begins_with_a_copy_of_a_kept_one() -> None:
    driver = middle()
    cache = generation(driver, 1, 20)
    driver.order(SessionCommand.KEEP, session=1, position=18)
    assert not driver.actions
    assert driver.core.session_count == 0
    begin(driver, 2, source=1, shared=15)
    made = driver.one(events.ShareCache)
    assert (made.source, made.count, made.capacity) == (cache, 15, 100)
    driver.activation(15, session=2)
    job = finish(driver)
    assert (job.cache, job.position) == (made.cache, 15)
    # Its history is whole: a stage behind it may be rebuilt.
    driver.order(SessionCommand.REPLAY, session=2, until=2)
    assert [(one.position, one.count) for _, one in driver.sent()] == [(0, 15), (15, 1)]


@pytest.mark.parametrize(("source", "shared", "expected"), [(1, 90, 18), (7, 15, 0), (1, 0, 0)])
def test_no_more_is_shared_than_there_is(source: int, shared: int, expected: int) -> None:
    driver = middle()
    generation(driver, 1, 20)
    driver.order(SessionCommand.KEEP, session=1, position=18)
    begin(driver, 2, source, shared)
    assert [made.count for made in driver.all(events.ShareCache)] == ([expected] * bool(expected))
    driver.activation(90, session=2)
    (report,) = driver.reports()
    assert (report.code, report.length) == (ErrorCode.CACHE_GAP, expected)


def test_a_kept_session_takes_no_activations_and_a_step_under_way_is_dropped() -> None:
    driver = middle()
    generation(driver, 1, 20)
    driver.activation(20, session=1)
    job = driver.one(events.Compute)
    driver.order(SessionCommand.KEEP, session=1, position=20)
    driver.give(events.Computed(job.job, rows(1)))
    assert not driver.sent()
    driver.activation(20, session=1)
    assert not driver.actions
    begin(driver, 2, source=1, shared=21)
    assert driver.one(events.ShareCache).count == 20


def test_what_is_kept_goes_when_its_room_is_needed_the_longest_unused_first() -> None:
    driver = middle(limit=POSITION_BYTES * 100 + 300)
    caches = [generation(driver, 1, 20, 40)]
    driver.order(SessionCommand.KEEP, session=1, position=20)
    caches.append(generation(driver, 2, 20, 40))
    driver.order(SessionCommand.KEEP, session=2, position=20)
    begin(driver, 3, source=1, shared=20, capacity=55)
    # Session 1 was used a moment ago.
    assert driver.all(events.FreeCache) == []
    driver.open(session=4, capacity=20)
    assert [freed.cache for freed in driver.all(events.FreeCache)] == [caches[1]]
    driver.open(session=5, capacity=20)
    assert [freed.cache for freed in driver.all(events.FreeCache)] == [caches[0]]
    driver.open(session=6, capacity=20)
    assert [report.code for report in driver.reports()] == [ErrorCode.CACHE_FULL]


def test_a_session_whose_end_was_lost_gives_way_to_one_that_needs_its_room() -> None:
    driver = middle(limit=POSITION_BYTES * 100 + 200)
    cache = generation(driver, 1, 20, 40)
    driver.now_ms += IDLE_MS / 2
    generation(driver, 2, 20, 40)
    driver.now_ms += IDLE_MS / 2 - 1
    driver.open(session=3, capacity=40)
    assert [report.code for report in driver.reports()] == [ErrorCode.CACHE_FULL]
    driver.now_ms += 1
    driver.open(session=3, capacity=40)
    assert [freed.cache for freed in driver.all(events.FreeCache)] == [cache]
    assert not driver.reports()
    assert driver.core.session_count == 2


def test_a_session_may_take_the_room_of_the_one_it_begins_with() -> None:
    driver = middle(limit=POSITION_BYTES * 100 + 200)
    cache = generation(driver, 1, 40, 60)
    driver.order(SessionCommand.KEEP, session=1, position=40)
    begin(driver, 2, source=1, shared=40, capacity=100)
    kinds = [type(action) for action in driver.actions]
    assert kinds == [events.ShareCache, events.FreeCache]
    assert driver.one(events.FreeCache).cache == cache


def test_a_copy_that_could_not_be_made_is_a_gap() -> None:
    driver = middle()
    generation(driver, 1, 20)
    driver.order(SessionCommand.KEEP, session=1, position=20)
    begin(driver, 2, source=1, shared=20)
    driver.activation(20, session=2)
    job = driver.one(events.Compute)
    driver.give(events.Computed(job.job, code=ErrorCode.CACHE_GAP, text="not here"))
    (report,) = driver.reports()
    assert (report.code, report.length, report.session) == (ErrorCode.CACHE_GAP, 0, 2)
    driver.activation(0, count=21, session=2)
    assert finish(driver).position == 0


def test_kept_sessions_are_closed_by_order_by_time_and_with_their_stage() -> None:
    driver = middle()
    caches = []
    for session in (1, 2, 3):
        caches.append(generation(driver, session, 20))
        driver.order(SessionCommand.KEEP, session=session, position=20)
    driver.order(SessionCommand.CLOSE, session=2)
    assert [freed.cache for freed in driver.all(events.FreeCache)] == [caches[1]]
    driver.now_ms += EXPIRY_MS + 1
    driver.give(events.Tick())
    assert not driver.all(events.FreeCache)
    begin(driver, 4, source=3, shared=5)
    driver.order(SessionCommand.CLOSE, session=4)
    driver.now_ms += KEPT_EXPIRY_MS - EXPIRY_MS - 2000
    driver.give(events.Tick())
    assert not driver.all(events.FreeCache)
    for used, after_ms in ((0, 2000), (2, EXPIRY_MS)):
        driver.now_ms += after_ms
        driver.give(events.Tick())
        assert [freed.cache for freed in driver.all(events.FreeCache)] == [caches[used]]
    generation(driver, 5, 20)
    driver.order(SessionCommand.KEEP, session=5, position=20)
    driver.load(1, command=StageCommand.UNLOAD)
    assert driver.all(events.FreeCache)


def test_a_session_without_positions_is_not_kept() -> None:
    driver = middle()
    driver.open(session=1)
    driver.order(SessionCommand.KEEP, session=1, position=20)
    assert driver.all(events.FreeCache)
    begin(driver, 2, source=1, shared=5)
    assert not driver.all(events.ShareCache)


# --- shadows that catch up -----------------------------------------------------------------------


def test_a_stage_says_when_it_has_caught_up() -> None:
    driver = middle()
    driver.open()
    driver.order(SessionCommand.CHECK, position=200)
    assert not driver.reports()
    driver.activation(0, count=200, flags=REPLAY, until=1)
    done = 0
    while done < 200:
        assert not driver.reports()
        job = finish(driver)
        done = job.position + job.count
    (report,) = driver.reports()
    assert (report.state, report.stage, report.session) == (StageState.HOLDING, 1, SESSION)
    assert report.length == 200
    driver.activation(200)
    finish(driver)
    assert not driver.reports()
    driver.order(SessionCommand.CHECK, position=201)
    assert [one.length for one in driver.reports()] == [201]


# --- measurements are remembered -----------------------------------------------------------------


def test_what_was_measured_before_is_told_at_once() -> None:
    driver = Driver()
    driver.load(1, command=StageCommand.MEASURE, nonce=1)
    driver.give(events.SliceReady(slice_of(1).sha256, facts_of(1, 3)))
    assert driver.one(events.DropSlice)
    driver.load(1, command=StageCommand.MEASURE, nonce=2)
    (report,) = driver.reports()
    assert (report.state, report.nonce, report.decode_us) == (StageState.MEASURED, 2, 100)
    assert not driver.all(events.LoadSlice)


# --- grammars ------------------------------------------------------------------------------------

VOCABULARY = Reference(bytes(range(32)), 1234)
JSON = Sampling(temperature_ppm=0, grammar=Grammar(b'{"type":"object"}', VOCABULARY))


def last_stage(tokens: Iterable[int] = (1, 2, 3)) -> Driver:
    driver = Driver()
    driver.hold(1, (("b",), ("a",)))
    driver.open(tokens, sampling=JSON)
    return driver


def test_a_session_with_a_grammar_waits_for_its_vocabulary() -> None:
    driver = last_stage()
    assert driver.one(events.LoadVocabulary).reference == VOCABULARY
    driver.activation(0, count=3)
    assert not driver.all(events.Compute)
    driver.give(events.VocabularyReady(VOCABULARY.sha256))
    job = driver.one(events.Compute)
    assert job.sample is not None
    assert (job.sample.grammar, job.sample.tokens) == (JSON.grammar, (1, 2, 3))
    # The next one need not wait.
    driver.open([4, 5], session=2, sampling=JSON)
    assert not driver.actions
    assert driver.core.session_count == 2


def test_a_vocabulary_that_cannot_be_had_fails_the_session() -> None:
    driver = last_stage()
    failed = events.VocabularyFailed(VOCABULARY.sha256, ErrorCode.INPUT_MALFORMED, "no library")
    driver.give(failed)
    (report,) = driver.reports()
    assert (report.code, report.session) == (ErrorCode.INPUT_MALFORMED, SESSION)
    driver.open([1], session=2, sampling=JSON)
    assert driver.one(events.LoadVocabulary)


def test_few_vocabularies_are_held() -> None:
    driver = Driver()
    driver.hold(1, (("b",), ("a",)))
    dropped = []
    for number in range(10):
        found = Reference(bytes([number]) * 32, 5)
        driver.open([1], session=number + 1, sampling=Sampling(grammar=Grammar(b"", found)))
        driver.give(events.VocabularyReady(found.sha256))
        dropped += [action.sha256[0] for action in driver.all(events.DropVocabulary)]
    assert dropped == [0, 1]
