"""Orders that come late: what undoes them was sent later and has come first."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from language_mesh import HIDDEN, PIPELINE, Driver, facts_of, slice_of

from maille_node.language import stage_events as events
from maille_node.language.runner import LoadedSlice, SliceRunner
from maille_node.language.sessions import MAX_AHEAD
from maille_protocol import (
    ActivationFlag,
    Route,
    SessionCommand,
    SessionOrder,
    StageCommand,
    StageOrder,
    StageState,
)

RING = (("z",), ("a",), ("b",))


def middle() -> Driver:
    driver = Driver()
    driver.hold(1, RING)
    return driver


def an_open(session: int = 1) -> SessionOrder:
    return SessionOrder(SessionCommand.OPEN, PIPELINE, 1, session, 1, capacity=100)


def computed(driver: Driver, session: int, count: int) -> events.Compute:
    driver.activation(0, count=count, session=session)
    job = driver.one(events.Compute)
    rows = np.zeros(count * HIDDEN, np.float32).tobytes()
    driver.give(events.Computed(job.job, rows))
    return job


@pytest.mark.parametrize("end", [SessionCommand.CLOSE, SessionCommand.KEEP])
def test_a_session_that_has_ended_is_not_opened_by_what_was_said_before(
    end: SessionCommand,
) -> None:
    driver = middle()
    driver.hear(an_open(), seq=10)
    computed(driver, 1, 5)
    driver.hear(SessionOrder(end, PIPELINE, 1, 1, 1, position=5), seq=20)
    driver.hear(an_open(), seq=12)
    assert driver.core.session_count == 0
    assert driver.core.counters.overtaken == 1
    # The coordinator may open it again, and another coordinator counts anew.
    driver.hear(an_open(), seq=21)
    assert driver.core.session_count == 1
    driver.hear(SessionOrder(SessionCommand.CLOSE, PIPELINE, 1, 1, 1), seq=22)
    driver.hear(an_open(), boot=2, seq=1)
    assert driver.core.session_count == 1


@pytest.mark.parametrize("end", [SessionCommand.CLOSE, SessionCommand.KEEP])
def test_a_session_opened_again_is_not_ended_by_what_was_said_before(end: SessionCommand) -> None:
    driver = middle()
    driver.hear(an_open(), seq=30)
    driver.hear(SessionOrder(end, PIPELINE, 1, 1, 1), seq=20)
    assert driver.core.session_count == 1
    assert driver.core.counters.overtaken == 1
    driver.hear(SessionOrder(end, PIPELINE, 1, 1, 1), seq=31)
    assert driver.core.session_count == 0


def test_a_stage_is_held_or_dropped_as_was_said_last() -> None:
    driver = Driver()
    load = StageOrder(StageCommand.LOAD, PIPELINE, 1, slice_of(1), 1000, 3)
    unload = StageOrder(StageCommand.UNLOAD, PIPELINE, 1, None, 0, 4)
    driver.hear(unload, seq=20)
    driver.hear(load, seq=10)
    assert driver.core.stage_count == 0
    assert not driver.actions
    driver.hear(load, seq=30)
    assert driver.core.stage_count == 1
    driver.hear(unload, seq=25)
    assert driver.core.stage_count == 1
    assert driver.core.counters.overtaken == 2
    driver.hear(unload, seq=31)
    assert [report.state for report in driver.reports()] == [StageState.GONE]
    assert driver.core.stage_count == 0


def test_a_session_kept_twice_leaves_no_cache_behind() -> None:
    driver = middle()
    driver.open(session=1)
    first = computed(driver, 1, 20)
    driver.order(SessionCommand.KEEP, session=1, position=20)
    driver.open(session=1)
    second = computed(driver, 1, 5)
    driver.order(SessionCommand.KEEP, session=1, position=20)
    assert [freed.cache for freed in driver.all(events.FreeCache)] == [second.cache]
    assert driver.core.sizes()["kept"] == 1
    driver.order(SessionCommand.CLOSE, session=1)
    assert [freed.cache for freed in driver.all(events.FreeCache)] == [first.cache]


class SlowCache:
    """A cache whose copy takes until it may end."""

    length = 20

    def __init__(self, may_end: threading.Event) -> None:
        self._may_end = may_end

    def copy_from(self, _source: object, _count: int) -> None:
        self._may_end.wait(5)


def test_a_copy_of_a_cache_that_was_freed_meanwhile_does_not_stay() -> None:
    may_end = threading.Event()
    cache: Any = SlowCache(may_end)
    stage: Any = SimpleNamespace(new_cache=lambda _capacity: SlowCache(may_end))

    async def run() -> list[int]:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[events.Computed] = loop.create_future()
        runner = SliceRunner(ended.set_result)
        loaded = LoadedSlice(stage, facts_of(1, 3), {1: cache})
        runner._slices[b"s"] = loaded
        runner.share(events.ShareCache(b"s", 1, 2, 100, 10))
        runner.free(2)
        # The next step on the same slice ends after the copy; this one cannot be computed.
        runner.compute(events.Compute(7, b"s", 1, 100, 30, 1, b"", None))
        may_end.set()
        assert (await asyncio.wait_for(ended, 5)).job == 7
        runner.close()
        return list(loaded.caches)

    assert asyncio.run(run()) == [1]


def test_history_that_comes_in_any_order_fills_the_cache() -> None:
    driver = middle()
    driver.open(session=1)
    order = [3, 1, 4, 0, 2, 5]
    computed_positions = []
    for position in order:
        driver.activation(position, session=1, flags=int(ActivationFlag.REPLAY), until=1)
        while jobs := driver.all(events.Compute):
            computed_positions.append(jobs[0].position)
            driver.give(events.Computed(jobs[0].job, np.zeros(HIDDEN, np.float32).tobytes()))
    assert computed_positions == [0, 1, 2, 3, 4, 5]
    assert driver.core.sizes()["queued_bytes"] == 0


def test_what_came_ahead_is_bounded_and_void_with_the_next_layout() -> None:
    driver = middle()
    driver.open(session=1, capacity=256)
    row_bytes = 4 * HIDDEN
    for _ in range(MAX_AHEAD + 5):
        driver.activation(7, session=1)
    assert driver.core.sizes()["queued_bytes"] == MAX_AHEAD * row_bytes
    driver.hear(Route(PIPELINE, 2, RING))
    assert driver.core.sizes()["queued_bytes"] == 0
