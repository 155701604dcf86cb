"""The bookkeeping of a map, without a mesh."""

from maille.flow import Flow
from maille.limiter import Limiter


def flow_of(limit: float, *, ordered: bool = True, max_bytes: int = 1000) -> Flow[str]:
    return Flow(Limiter(initial=limit, maximum=limit), ordered, max_bytes)


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_no_more_than_the_limit_is_in_flight() -> None:
    flow = flow_of(3)
    sent = 0
    while flow.room():
        flow.sent(key(sent), b"x", 0.0)
        sent += 1
    assert sent == 3
    assert flow.take(key(1), 1.0, well=True) == (1, 1.0)
    assert flow.room() == 1
    assert flow.take(key(1), 1.0, well=True) is None


def test_bytes_in_flight_are_bounded_by_one_task_over() -> None:
    flow = flow_of(100, max_bytes=1000)
    sent = 0
    while flow.room():
        flow.sent(key(sent), bytes(300), 0.0)
        sent += 1
    assert sent == 4


def test_outputs_come_in_order_and_those_ahead_are_bounded() -> None:
    flow = flow_of(2)
    given: list[str] = []
    sent = 0
    flow.sent(key(sent), b"", 0.0)
    sent += 1
    while flow.room():
        flow.sent(key(sent), b"", 0.0)
        place = flow.take(key(sent), 0.0, well=True)
        assert place is not None
        flow.finish(place[0], f"{place[0]}")
        sent += 1
        given += flow.ready()
    assert given == []
    assert sent <= 10
    assert flow.take(key(0), 0.0, well=True) == (0, 0.0)
    flow.finish(0, "0")
    assert list(flow.ready()) == [str(index) for index in range(sent)]


def test_without_order_outputs_come_as_they_are_ready() -> None:
    flow = flow_of(2, ordered=False)
    flow.sent(key(0), b"", 0.0)
    flow.sent(key(1), b"", 0.0)
    flow.take(key(1), 0.0, well=True)
    flow.finish(1, "1")
    assert list(flow.ready()) == ["1"]


def test_what_the_mesh_had_no_room_for_is_sent_again_under_new_ids() -> None:
    flow = flow_of(4)
    for number in range(4):
        flow.sent(key(number), bytes([number]), 0.0)
    flow.refused(key(2), 1.0)
    assert flow.in_flight == 4
    assert flow.room() == 0
    assert flow.again(iter([key(9)]), 1.1) == []
    assert flow.again_in_s(1.1) is not None
    for number in (0, 1, 3):
        flow.take(key(number), 1.2, well=False)
    assert flow.again(iter([key(9)]), 1.3) == [(key(9), bytes([2]))]
    assert flow.again_in_s(1.3) is None
    assert flow.take(key(9), 1.5, well=False) == (2, 1.5 - 1.3)
    assert flow.in_flight == 0
    assert flow.open_ids() == ()
