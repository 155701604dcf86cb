"""The host's end of the serial link alone: lists of events and actions."""

from collections.abc import Iterator

import pytest

from maille_protocol import UsageError
from maille_protocol.serial import Hello, HostLink, Phase, events
from maille_protocol.serial.events import CloseReason
from maille_protocol.serial.frames import BoardFrame, HostFrame, Kind, parse_host_frame
from maille_protocol.serial.framing import FrameReader

SCHEMA = b"test"
HELLO = Hello(1, 77, 63, 200, SCHEMA, 0)


def random32() -> Iterator[int]:
    number = 0
    while True:
        number += 1
        yield number


class Driver:
    """Feeds frames, reads frames."""

    def __init__(self, hello: Hello = HELLO) -> None:
        numbers = random32()
        self.link = HostLink(SCHEMA, lambda: next(numbers))
        self.hello = hello
        self.now_ms = 0.0
        self.actions: list[events.Action] = []
        self.give(events.PortOpened())

    def give(self, event: events.Event, after_ms: float = 1.0) -> list[HostFrame]:
        """The frames that the event leads to."""
        self.now_ms += after_ms
        self.actions = self.link.handle(event, self.now_ms)
        wire = b"".join(action.data for action in self.actions if isinstance(action, events.Write))
        return [
            parse_host_frame(body) for body in FrameReader().feed(wire) if isinstance(body, bytes)
        ]

    def frame(self, frame: BoardFrame, after_ms: float = 1.0) -> list[HostFrame]:
        return self.give(events.BytesReceived(frame.encode()), after_ms)

    def open(self) -> HostFrame:
        """Greet and answer; gives OPEN."""
        hello = BoardFrame(Kind.HELLO, 0, credit=63, payload=self.hello.encode())
        [opening] = self.frame(hello)
        assert opening.kind is Kind.OPEN
        self.status(opening)
        assert self.link.phase is Phase.OPEN
        return opening

    def status(
        self, seen: HostFrame, *, ack: int = 0, credit: int = 63, after_ms: float = 1.0
    ) -> list[HostFrame]:
        status = BoardFrame(Kind.STATUS, seen.session, ack=ack, seen=seen.tag, credit=credit)
        return self.frame(status, after_ms)

    def has(self, kind: type[events.Action]) -> bool:
        return any(isinstance(action, kind) for action in self.actions)


def test_a_message_is_sent_acknowledged_and_told() -> None:
    driver = Driver()
    driver.open()
    [data] = driver.give(events.Send(5, b"abc"))
    assert (data.kind, data.payload, data.first, data.last) == (Kind.DATA, b"abc", True, True)
    driver.status(data, ack=1)
    assert events.Delivered(5) in driver.actions
    assert driver.link.in_flight_bytes == 0


def test_a_lost_segment_is_found_by_a_question_and_repeated() -> None:
    driver = Driver()
    driver.open()
    [data] = driver.give(events.Send(5, b"abc"))
    [question] = driver.give(events.Tick(), 200)
    assert question.asks
    [again] = driver.status(question)
    assert (again.kind, again.seq, again.payload) == (Kind.DATA, data.seq, b"abc")
    assert again.tag != data.tag


def test_segments_wait_for_credit() -> None:
    driver = Driver()
    driver.open()
    [first] = driver.give(events.Send(5, bytes(80)))
    assert driver.link.in_flight_bytes <= 54
    assert driver.give(events.Send(6, b"x")) == []
    second, *_ = driver.status(first, ack=1)
    assert second.last
    assert not driver.status(second, ack=1, credit=0)
    assert driver.link.credit_bytes == 0


def test_silence_is_borne_longer_by_a_busy_board() -> None:
    driver = Driver()
    opening = driver.open()
    driver.give(events.Send(5, b"x"))
    driver.status(opening, credit=0)
    driver.give(events.Tick(), 5000)
    assert driver.link.phase is Phase.OPEN
    driver.give(events.Tick(), 5001)
    assert events.Closed(CloseReason.SILENCE) in driver.actions
    assert events.Lost(5, never_sent=False) in driver.actions


def test_a_new_session_carries_no_number_of_the_old_one() -> None:
    driver = Driver(Hello(1, 77, 32, 200, SCHEMA, 0))
    opening = driver.open()
    data = BoardFrame(
        Kind.DATA, opening.session, seen=opening.tag, credit=32, payload=b"m", first=True, last=True
    )
    driver.frame(data)
    assert events.Received(b"m") in driver.actions
    hello = Hello(1, 78, 32, 200, SCHEMA, 0)
    frames = driver.frame(BoardFrame(Kind.HELLO, 0, credit=32, payload=hello.encode()), 100)
    assert events.Closed(CloseReason.BOARD_RESET) in driver.actions
    frames += driver.give(events.Tick(), 30)
    assert [frame.kind for frame in frames] == [Kind.OPEN, Kind.STATUS]
    assert [(frame.ack, frame.seq) for frame in frames] == [(0, 0), (0, 0)]


def test_frames_of_another_session_change_nothing() -> None:
    driver = Driver()
    opening = driver.open()
    stale = BoardFrame(
        Kind.DATA,
        opening.session % 255 + 1,
        seen=opening.tag,
        credit=63,
        payload=b"old",
        first=True,
        last=True,
    )
    driver.frame(stale)
    assert not driver.has(events.Received)


@pytest.mark.parametrize(("first", "last"), [(False, True), (False, False)])
def test_disorder_ends_the_session(first: bool, last: bool) -> None:
    driver = Driver()
    opening = driver.open()
    frame = BoardFrame(
        Kind.DATA,
        opening.session,
        seen=opening.tag,
        credit=63,
        payload=b"x",
        first=first,
        last=last,
    )
    frames = driver.frame(frame)
    assert frames[0].kind is Kind.CLOSE
    assert events.Closed(CloseReason.DISORDER) in driver.actions


def test_what_is_sent_without_a_session_is_lost_at_once() -> None:
    driver = Driver()
    driver.give(events.Send(9, b"x"))
    assert events.Lost(9, never_sent=True) in driver.actions
    with pytest.raises(UsageError):
        driver.give(events.SetBusy(busy=True))


def test_leaving_says_so() -> None:
    driver = Driver()
    driver.open()
    [close] = driver.give(events.Leave())
    assert close.kind is Kind.CLOSE
    assert driver.link.phase is Phase.DOWN
