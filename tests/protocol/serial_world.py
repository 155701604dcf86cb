"""Both ends of the serial link on a bad wire in virtual time, and what must hold whatever happens."""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Protocol

from maille_protocol.serial import HostLink, Phase, events
from maille_protocol.serial.frames import Hello
from maille_protocol.serial.limits import BAUDS, MIN_WINDOW_BYTES

SCHEMA = b"test"
_BYTE_BITS = 10
_BOOT_WAIT_MS = 20.0


class Board(Protocol):
    """A board's end of the link."""

    @property
    def session(self) -> int:
        """0: none."""
        ...

    def handle(self, event: events.Event, now_ms: float) -> list[events.Action]:
        """See `BoardLink`."""
        ...


@dataclass(slots=True)
class Faults:
    """How bad the wire and the board are; all chances are per byte or per write."""

    corrupt_byte: float = 0.001
    drop_byte: float = 0.0003
    double_byte: float = 0.0003
    drop_write: float = 0.005
    double_write: float = 0.005
    delay_ms: float = 15.0
    """The most that a write is held up, beyond its time on the wire."""
    resets: int = 2
    """Of the board, at random times."""
    busy: float = 0.1
    """Chance that the board reads nothing for a while after a message."""


@dataclass(slots=True)
class Side:
    """What the application above one end has seen."""

    to_send: deque[int]
    tokens: dict[int, int] = field(default_factory=dict)
    """Message by token, under way."""
    delivered: set[int] = field(default_factory=set)
    """Tokens."""
    lost: dict[int, bool] = field(default_factory=dict)
    """Never sent, by token."""
    received: list[tuple[int, int]] = field(default_factory=list)
    """(token of the other side, message) in order."""
    next_token: int = 1


class Wire:
    """One direction: keeps order, takes its time, and damages."""

    def __init__(self, random: Random, faults: Faults) -> None:
        self._random = random
        self._faults = faults
        self._free_ms = 0.0
        self._last_arrival_ms = 0.0

    def carry(self, data: bytes, rate: int, now_ms: float) -> list[tuple[float, bytes, int]]:
        """When what arrives of `data`, with the number of bytes of it that were sent."""
        faults, random = self._faults, self._random
        byte_ms = _BYTE_BITS * 1000 / BAUDS[rate]
        start = max(now_ms, self._free_ms)
        self._free_ms = start + byte_ms * len(data)
        held_up = random.uniform(0, faults.delay_ms) if random.random() < 0.3 else 0.0
        arrivals: list[tuple[float, bytes, int]] = []
        dropped = random.random() < faults.drop_write
        times = 2 if random.random() < faults.double_write else 1
        for part in range(0, len(data), 16):
            piece = data[part : part + 16]
            at = max(start + byte_ms * (part + len(piece)) + held_up, self._last_arrival_ms)
            self._last_arrival_ms = at
            arrivals.append((at, b"" if dropped else self._damage(piece), len(piece)))
        if times == 2:
            arrivals += [(self._last_arrival_ms, piece, 0) for _, piece, _ in arrivals]
        return arrivals

    def _damage(self, data: bytes) -> bytes:
        faults, random = self._faults, self._random
        chance = faults.corrupt_byte + faults.drop_byte + faults.double_byte
        if random.random() >= chance * len(data):
            return data
        position = random.randrange(len(data))
        kind = random.random() * chance
        before, byte, after = data[:position], data[position], data[position + 1 :]
        if kind < faults.corrupt_byte:
            return before + bytes([byte ^ random.randrange(1, 256)]) + after
        if kind < faults.corrupt_byte + faults.drop_byte:
            return before + after
        return before + bytes([byte, byte]) + after


class World:
    """A host, a board that may be reset, and their wires."""

    def __init__(
        self,
        seed: int,
        make_board: Callable[[Hello], Board],
        *,
        faults: Faults | None = None,
        messages: int = 12,
        window_bytes: int = 63,
        rates: int = 7,
        highest_rate: int = 3,
    ) -> None:
        self.random = Random(seed)
        self.faults = faults or Faults()
        self.make_board = make_board
        self.messages = messages
        self.window_bytes = window_bytes
        self.rates = rates
        self.now_ms = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self.host = HostLink(SCHEMA, lambda: self.random.getrandbits(32), highest_rate=highest_rate)
        self.host_rate = self.board_rate = 0
        self.down = Wire(self.random, self.faults)
        self.up = Wire(self.random, self.faults)
        self.host_side = Side(deque(range(messages)))
        self.board_side = Side(deque(range(1000, 1000 + messages)))
        self.ring = bytearray()
        self.ring_sent = 0
        """How many of the bytes that the host wrote are in the ring."""
        self.on_way = 0
        self.overflows = 0
        self.worst_in_flight = 0
        self.busy_until_ms = 0.0
        self.announced_busy = False
        self.started_ms: float | None = None
        self.recoveries_ms: list[float] = []
        self.life = 0
        self.ring_limit_bytes = window_bytes
        self.change_hello: dict[str, object] = {}
        self.notes: list[str] = []
        self._host_wake_ms: float | None = None
        self._board_wake_ms: float | None = None
        self._start_board()
        self._host(events.PortOpened())
        horizon = 400.0
        for _ in range(self.faults.resets):
            self.at(self.random.uniform(20, horizon), self._reset_board)
        self.at(0.5, self._poll)

    # --- time ------------------------------------------------------------------------------------

    def at(self, time_ms: float, call: Callable[[], None]) -> None:
        """Call at that time."""
        self._order += 1
        heapq.heappush(self._queue, (max(time_ms, self.now_ms), self._order, call))

    def run(self, until_ms: float, *, done: Callable[[], bool] | None = None) -> None:
        """Let time pass."""
        while self._queue and self._queue[0][0] <= until_ms:
            self.now_ms, _, call = heapq.heappop(self._queue)
            call()
            if done is not None and done():
                return
        self.now_ms = until_ms

    @property
    def finished(self) -> bool:
        """Whether every message has been delivered, and no reset is to come."""
        sides = (self.host_side, self.board_side)
        return self.now_ms > 420 and not any(side.to_send or side.tokens for side in sides)

    # --- host ------------------------------------------------------------------------------------

    def _host(self, event: events.Event) -> None:
        self._do_host(self.host.handle(event, self.now_ms))

    def _do_host(self, actions: list[events.Action]) -> None:
        for action in actions:
            match action:
                case events.Write(data):
                    self._host_wrote(data)
                case events.SetRate(rate):
                    self.host_rate = rate
                case events.WakeAt(time_ms):
                    self._wake_host(time_ms)
                case events.Note(text):
                    self.notes.append(text)
                case events.Unfit(_, reason):
                    self.notes.append(reason)
                case events.Opened():
                    self._recovered()
                case _:
                    self._tell(self.host_side, self.board_side, action)
        if self.host.phase is Phase.OPEN:
            self._send_next(self.host_side, self._host, 120)

    def _host_wrote(self, data: bytes) -> None:
        self.on_way += len(data)
        in_flight = self.on_way + self.ring_sent
        self.worst_in_flight = max(self.worst_in_flight, in_flight)
        limit = self.window_bytes if self.host.hello else MIN_WINDOW_BYTES
        assert in_flight <= limit, f"{in_flight} bytes in flight at {self.now_ms} ms"
        rate = self.host_rate
        for at, piece, sent in self.down.carry(data, rate, self.now_ms):
            self.at(at, partial(self._arrive_at_board, piece, sent, rate))

    def _wake_host(self, time_ms: float) -> None:
        self._host_wake_ms = time_ms

        def tick() -> None:
            if self._host_wake_ms == time_ms:
                self._host_wake_ms = None
                self._host(events.Tick())

        self.at(time_ms, tick)

    def _arrive_at_host(self, data: bytes, rate: int) -> None:
        if rate != self.host_rate:
            data = self._garble(data, rate, self.host_rate)
        if data:
            self._host(events.BytesReceived(data))

    # --- board -----------------------------------------------------------------------------------

    def _start_board(self) -> None:
        self.life += 1
        hello = Hello(
            1, self.random.getrandbits(32) or 1, self.window_bytes, 200, SCHEMA, self.rates
        )
        hello = replace(hello, **self.change_hello)  # type: ignore[arg-type]
        self.board = self.make_board(hello)
        self.board_rate = 0
        self.started_ms = self.now_ms
        self._board(events.PortOpened())

    def restart_board(self) -> None:
        """Start it again at once, for instance with another HELLO."""
        self._empty_ring()
        self._start_board()

    def noise(self, data: bytes) -> None:
        """Bytes that nobody sent arrive at both ends."""
        self._arrive_at_host(data, self.host_rate)
        self._arrive_at_board(data, 0, self.board_rate)

    def _reset_board(self) -> None:
        if self.started_ms is not None:
            return
        self.life += 1
        self.busy_until_ms = self.now_ms + self.random.uniform(0, _BOOT_WAIT_MS)
        self.announced_busy = False
        for token in list(self.board_side.tokens):
            self._board_lost(token)
        self._empty_ring()
        self.started_ms = self.busy_until_ms
        life = self.life

        def start() -> None:
            if self.life == life:
                self._empty_ring()
                self._start_board()

        self.at(self.busy_until_ms, start)

    def _empty_ring(self) -> None:
        self.ring.clear()
        self.ring_sent = 0

    def _board_lost(self, token: int) -> None:
        self._tell(self.board_side, self.host_side, events.Lost(token, never_sent=False))

    def _board(self, event: events.Event) -> None:
        for action in self.board.handle(event, self.now_ms):
            match action:
                case events.Write(data):
                    self._board_wrote(data, self.board_rate)
                case events.SetRate(rate):
                    self.board_rate = rate
                case events.WakeAt(time_ms):
                    self._wake_board(time_ms)
                case events.Opened():
                    pass
                case events.Received():
                    self._tell(self.board_side, self.host_side, action)
                    if self.random.random() < self.faults.busy:
                        self._be_busy()
                case _:
                    self._tell(self.board_side, self.host_side, action)
        if self.board.session:
            self._send_next(self.board_side, self._board, 150)

    def _board_wrote(self, data: bytes, rate: int) -> None:
        for at, piece, _ in self.up.carry(data, rate, self.now_ms):
            self.at(at, partial(self._arrive_at_host, piece, rate))

    def _be_busy(self) -> None:
        long = self.random.random() < 0.2
        self.busy_until_ms = self.now_ms + self.random.uniform(1, 700 if long else 60)
        if long:
            self.announced_busy = True
            self.at(self.now_ms, self._announce)

    def _announce(self) -> None:
        if self.announced_busy:
            self._board(events.SetBusy(busy=True))

    def _wake_board(self, time_ms: float) -> None:
        self._board_wake_ms = time_ms
        life = self.life

        def tick() -> None:
            if self._board_wake_ms == time_ms and self.life == life:
                if self.now_ms < self.busy_until_ms:
                    self.at(self.busy_until_ms, tick)
                    return
                self._board_wake_ms = None
                self._take_ring()
                self._board(events.Tick())

        self.at(time_ms, tick)

    def _arrive_at_board(self, data: bytes, sent: int, rate: int) -> None:
        self.on_way -= sent
        if rate != self.board_rate:
            data = self._garble(data, rate, self.board_rate)
        elif data:
            self.ring_sent += sent
        room = self.ring_limit_bytes - len(self.ring)
        if self.ring_sent > self.window_bytes:
            self.overflows += 1
        self.ring += data[:room]

    def _poll(self) -> None:
        if self.now_ms >= self.busy_until_ms:
            self._take_ring()
            if self.announced_busy and self.now_ms >= self.busy_until_ms:
                self.announced_busy = False
                self._board(events.SetBusy(busy=False))
        self.at(self.now_ms + self.random.uniform(0.1, 2.0), self._poll)

    def _take_ring(self) -> None:
        if self.ring:
            data = bytes(self.ring)
            self._empty_ring()
            self._board(events.BytesReceived(data))

    # --- both ------------------------------------------------------------------------------------

    def _garble(self, data: bytes, rate: int, at_rate: int) -> bytes:
        size = max(1, len(data) * BAUDS[at_rate] // BAUDS[rate])
        return self.random.randbytes(min(size, 200))

    def _recovered(self) -> None:
        if self.started_ms is not None and self.board.session:
            self.recoveries_ms.append(self.now_ms - self.started_ms)
            self.started_ms = None

    def _send_next(self, side: Side, handle: Callable[[events.Event], None], longest: int) -> None:
        while side.to_send and len(side.tokens) < 4:
            message = side.to_send.popleft()
            token = side.next_token
            side.next_token += 1
            side.tokens[token] = message
            size = self.random.randrange(1, longest)
            data = token.to_bytes(4, "little") + message.to_bytes(4, "little")
            handle(events.Send(token, data + self.random.randbytes(size)))

    def _tell(self, side: Side, other: Side, action: events.Action) -> None:
        match action:
            case events.Received(data):
                token, message = data[:4], data[4:8]
                side.received.append(
                    (int.from_bytes(token, "little"), int.from_bytes(message, "little"))
                )
            case events.Delivered(token):
                side.delivered.add(token)
                del side.tokens[token]
            case events.Lost(token, never_sent):
                side.lost[token] = never_sent
                side.to_send.append(side.tokens.pop(token))
            case events.Closed():
                pass
            case _:
                raise AssertionError(action)

    def check(self) -> None:
        """What must hold at any time."""
        for side, other in (
            (self.host_side, self.board_side),
            (self.board_side, self.host_side),
        ):
            tokens = [token for token, _ in other.received]
            assert len(tokens) == len(set(tokens)), "a message arrived twice"
            assert tokens == sorted(tokens), "messages overtook each other"
            assert side.delivered <= set(tokens), "acknowledged and not arrived"
            never = {token for token, never_sent in side.lost.items() if never_sent}
            assert not never & set(tokens), "arrived although never sent"
            assert not side.delivered & set(side.lost)

    def check_end(self) -> None:
        """What must hold when all is done: everything arrived, whatever was lost on the way."""
        self.check()
        assert self.finished, f"not finished after {self.now_ms} ms, the host is {self.host.phase}"
        for other, first in ((self.board_side, 0), (self.host_side, 1000)):
            arrived = {message for _, message in other.received}
            assert arrived == {*range(first, first + self.messages)}
