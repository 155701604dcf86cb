"""Keeps models running on sensors as people want it, whatever boards forget."""

from maille_coordinator.boards.actions import Drop, ForgetReadings, SendOrder, TakeReading
from maille_coordinator.boards.deliveries import Deliveries, back_off_ms
from maille_coordinator.boards.outbox import Outbox
from maille_coordinator.boards.state import Board, Delivery, Origin, Phase, Sense, SensePhase
from maille_protocol import (
    ErrorCode,
    ModelCommand,
    ModelOrder,
    Reading,
    SenseCommand,
    SenseMode,
    SenseOrder,
)

STOP_EVERY_MS = 2_000.0


class Senses:
    """All senses, by number."""

    def __init__(self, outbox: Outbox, deliveries: Deliveries) -> None:
        self._outbox = outbox
        self._deliveries = deliveries
        self.senses: dict[int, Sense] = {}
        self._of: dict[str, dict[int, Sense]] = {}

    def of(self, node: str) -> dict[int, Sense]:
        """The senses of a board."""
        return self._of.get(node, {})

    def needed(self, node: str) -> set[bytes]:
        """SHA-256 of the models that senses of a board need."""
        return {
            sense.wish.model.sha256
            for sense in self.of(node).values()
            if sense.phase is not SensePhase.FAILED
        }

    def add(self, sense: Sense) -> None:
        """Want a sense."""
        self.senses[sense.wish.sense] = sense
        self._of.setdefault(sense.wish.node, {})[sense.wish.sense] = sense

    def remove(self, number: int) -> Sense | None:
        """Want a sense no more."""
        sense = self.senses.pop(number, None)
        if sense is not None:
            del self._of[sense.wish.node][number]
            self._outbox.add(Drop(sense.wish), ForgetReadings(number))
        return sense

    def pause(self, board: Board) -> None:
        """The board is gone, or another process: nothing runs on it."""
        board.running = frozenset()
        board.stops.clear()
        for sense in self.of(board.node).values():
            sense.phase = SensePhase.WAITING
            sense.tries, sense.next_ms = 0, 0.0
            sense.code, sense.text = ErrorCode.NONE, ""

    def tick(self, board: Board, now_ms: float) -> float:
        """Start and stop what is due on a board that is there; returns when to look again."""
        next_ms = float("inf")
        for number, sense in self.of(board.node).items():
            if sense.phase is SensePhase.FAILED:
                continue
            sha256 = sense.wish.model.sha256
            if not board.holds(sha256):
                self._deliver(board, sense, now_ms)
            elif number in board.running:
                if sense.phase is not SensePhase.RUNNING:
                    sense.phase, sense.tries = SensePhase.RUNNING, 0
                    self.tell("sense.running", sense, sense.wish.sensor, now_ms)
            else:
                if sense.next_ms <= now_ms:
                    self._start(board, sense, now_ms)
                next_ms = min(next_ms, sense.next_ms)
        for number in board.running - self.of(board.node).keys():
            next_ms = min(next_ms, self._stop(board, number, now_ms))
        return next_ms

    def _deliver(self, board: Board, sense: Sense, now_ms: float) -> None:
        delivery: Delivery | None = board.deliveries.get(sense.wish.model.sha256)
        if delivery is None:
            self._deliveries.want(board, sense.wish.model, Origin.SENSE, now_ms)
        elif delivery.phase is Phase.FAILED:
            text = f"the model is not on the node: {delivery.text or delivery.code.name}"
            self._fail(sense, delivery.code, text, now_ms)
            return
        sense.phase = SensePhase.WAITING

    def _start(self, board: Board, sense: Sense, now_ms: float) -> None:
        wish = sense.wish
        if sense.tries:
            # It may run already, and what says so was lost.
            order = ModelOrder(ModelCommand.REPORT, None, board.next_nonce())
            self._outbox.add(SendOrder(board.node, order))
        sense.phase = SensePhase.STARTING
        sense.tries += 1
        sense.next_ms = now_ms + back_off_ms(sense.tries)
        self._outbox.add(
            SendOrder(
                board.node,
                SenseOrder(
                    SenseCommand.START,
                    wish.sense,
                    wish.model.sha256,
                    wish.sensor,
                    wish.interval_ms,
                    wish.mode,
                ),
            )
        )

    def _stop(self, board: Board, number: int, now_ms: float) -> float:
        next_ms = board.stops.get(number, 0.0)
        if next_ms <= now_ms:
            asked_before = number in board.stops
            next_ms = board.stops[number] = now_ms + STOP_EVERY_MS
            order = SenseOrder(SenseCommand.STOP, number, None, "", 0, SenseMode.ALWAYS)
            self._outbox.add(SendOrder(board.node, order))
            if asked_before:
                report = ModelOrder(ModelCommand.REPORT, None, board.next_nonce())
                self._outbox.add(SendOrder(board.node, report))
        return next_ms

    def stop_now(self, board: Board, number: int, now_ms: float) -> None:
        """Tell a board to stop a sense that it need not say it runs."""
        board.running |= {number}
        board.stops.pop(number, None)
        self._stop(board, number, now_ms)

    def reading(self, board: Board, reading: Reading, now_ms: float) -> None:
        """Take a reading; what is late or comes twice is dropped."""
        number = reading.sense
        sense = self.of(board.node).get(number)
        if sense is None:
            if reading.counter:
                board.running |= {number}
            return
        if reading.counter == 0:
            if number not in board.running and reading.code is not ErrorCode.NONE:
                self._refused(board, sense, reading, now_ms)
            return
        if sense.phase is SensePhase.FAILED:
            return
        if sense.last_boot == board.boot and reading.counter <= sense.last_counter:
            return
        sense.last_boot, sense.last_counter = board.boot, reading.counter
        sense.readings += 1
        if number not in board.running:
            board.running |= {number}
        self._outbox.add(TakeReading(board.node, reading))

    def _refused(self, board: Board, sense: Sense, reading: Reading, now_ms: float) -> None:
        if reading.code is ErrorCode.MODEL_NOT_HELD:
            board.held -= {sense.wish.model.sha256[:8]}
            return
        text = reading.content.decode("utf-8", "replace") or reading.code.name
        self._fail(sense, reading.code, text, now_ms)

    def _fail(self, sense: Sense, code: ErrorCode, text: str, now_ms: float) -> None:
        sense.phase = SensePhase.FAILED
        sense.code, sense.text = code, text
        self.tell("sense.failed", sense, text, now_ms)

    def tell(self, kind: str, sense: Sense, text: str, now_ms: float) -> None:
        """Put an event on a sense into the stream for people."""
        wish = sense.wish
        self._outbox.report(kind, now_ms, wish.node, text, sense=wish.sense, model=wish.model.name)
