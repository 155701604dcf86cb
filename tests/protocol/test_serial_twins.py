"""The board's link in Python and in C++ side by side: the same events, the same bytes."""

from random import Random

import pytest
from cpp_board import CppBoard

from maille_protocol.serial import BoardLink, Hello, events
from maille_protocol.serial.frames import HostFrame, Kind, Open

HELLO = Hello(1, 77, 63, 100, b"test", 7)
STEPS = 300


class Scribbler:
    """Frames as a host might write them, many of them wrong."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.session = 5
        self.nonce = 9
        self.seq = self.ack = self.tag = 0

    def frame(self) -> bytes:
        random = self.random
        self.tag = self.tag % 255 + 1
        kind = random.choice([*Kind, Kind.OPEN, Kind.DATA, Kind.DATA, Kind.DATA, Kind.STATUS])
        payload, first, last = b"", False, False
        session = self.session if random.random() < 0.9 else random.randrange(1, 256)
        match kind:
            case Kind.HELLO:
                session = 0
            case Kind.OPEN:
                if random.random() < 0.4:
                    self.session, self.nonce = random.randrange(1, 256), random.getrandbits(32)
                    session, self.seq, self.ack = self.session, 0, 0
                boot = HELLO.boot if random.random() < 0.9 else 78
                payload = Open(boot, self.nonce).encode()
            case Kind.DATA:
                payload = random.randbytes(random.randrange(1, 50))
                first, last = random.random() < 0.5, random.random() < 0.5
            case Kind.RATE:
                payload = bytes([random.randrange(4)])
            case _:
                pass
        seq = self.seq if random.random() < 0.8 else random.randrange(256)
        if random.random() < 0.3:
            self.ack = (self.ack + 1) % 256
        ack = self.ack if random.random() < 0.9 else random.randrange(256)
        if kind is Kind.DATA and seq == self.seq:
            self.seq = (self.seq + 1) % 256
        asks = random.random() < 0.2
        return HostFrame(kind, session, seq, ack, self.tag, payload, first, last, asks).encode()

    def event(self) -> events.Event:
        random = self.random
        chance = random.random()
        if chance < 0.55:
            return events.BytesReceived(self.frame())
        if chance < 0.62:
            return events.BytesReceived(random.randbytes(random.randrange(1, 90)))
        if chance < 0.64:
            return events.BytesReceived(bytes([0x55]) * random.randrange(60, 200))
        return events.Tick()


def told(actions: list[events.Action]) -> tuple[bytes, list[object]]:
    """The bytes written, and what else matters."""
    wire = b"".join(action.data for action in actions if isinstance(action, events.Write))
    kinds = (events.Received, events.Delivered, events.SetRate)
    others: list[object] = [action for action in actions if isinstance(action, kinds)]
    others += [
        type(action) for action in actions if isinstance(action, events.Opened | events.Closed)
    ]
    return wire, others


@pytest.mark.parametrize("block", range(4))
def test_both_do_the_same(block: int) -> None:
    for seed in range(block * 50, block * 50 + 50):
        scribbler = Scribbler(seed)
        python, cpp = BoardLink(HELLO), CppBoard(HELLO)
        now_ms, token = 0.0, 0
        for board in (python, cpp):
            board.handle(events.PortOpened(), now_ms)
        for step in range(STEPS):
            now_ms += scribbler.random.choice([0, 1, 1, 2, 7, 30, 120])
            found = scribbler.event()
            if (
                isinstance(found, events.Tick)
                and python.session
                and scribbler.random.random() < 0.3
            ):
                token += 1
                found = events.Send(token, scribbler.random.randbytes(token % 99 + 1))
                if python.waiting_messages:
                    found = events.Tick()
            expected, actual = told(python.handle(found, now_ms)), told(cpp.handle(found, now_ms))
            assert actual == expected, f"seed {seed}, step {step}: {found}"
        assert cpp.bad == min(python.bad, 0xFFFF)
