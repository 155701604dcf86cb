"""Gets models onto boards and off them: one delivery per board at a time, pulled by the board."""

from maille_coordinator.boards.actions import Drop, Keep, RefuseTasks, SendChunk, SendOrder
from maille_coordinator.boards.outbox import Outbox
from maille_coordinator.boards.records import CalibrateWish, DeployWish, EvictWish
from maille_coordinator.boards.state import (
    Board,
    Calibration,
    Delivery,
    Eviction,
    Origin,
    Phase,
)
from maille_protocol import (
    ErrorCode,
    ModelCommand,
    ModelOrder,
    ModelReference,
    ModelReport,
    ModelState,
)
from maille_protocol.limits import MAX_CHUNK_BYTES

SILENCE_MS = 5_000.0
"""The order is sent again when nothing was heard of a delivery for this long."""

REPEATS = 6
"""Times that an order is repeated before the attempt counts as failed."""

ATTEMPTS = 5
"""Failures that may pass before a delivery is given up."""

BACKOFF_FIRST_MS = 2_000.0
BACKOFF_MOST_MS = 60_000.0
CHUNK_OVERHEAD_BYTES = 96
"""What a `Chunk` takes beside its data, whatever its numbers are."""

FINAL = frozenset(
    {
        ErrorCode.MODEL_TOO_LARGE,
        ErrorCode.UNSUPPORTED_FORMAT,
        ErrorCode.NO_SPACE,
        ErrorCode.SELF_TEST_FAILED,
    }
)
"""Answers below 100 that would come again."""


def is_final(code: ErrorCode) -> bool:
    """Whether the same answer would come again, however often one tries."""
    return code in FINAL or not code.retryable


def back_off_ms(tries: int) -> float:
    """How long to wait after so many tries."""
    return min(BACKOFF_MOST_MS, BACKOFF_FIRST_MS * 2.0 ** min(max(0, tries - 1), 10))


class Deliveries:
    """Deliveries, evictions and calibrations of all boards."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    # --- what is wanted --------------------------------------------------------------------

    def want(self, board: Board, model: ModelReference, origin: Origin, now_ms: float) -> Delivery:
        """Want a model on a board; one that failed is tried anew."""
        sha256 = model.sha256
        eviction = board.evictions.pop(sha256, None)
        if eviction is not None:
            self._outbox.add(Drop(EvictWish(board.node, eviction.model)))
        delivery = board.deliveries.get(sha256)
        if delivery is None:
            delivery = board.deliveries[sha256] = Delivery(model, origin, int(now_ms))
        else:
            delivery.model = model
            if delivery.phase is Phase.FAILED or (
                delivery.phase is Phase.READY and not board.holds(sha256)
            ):
                board.deliveries[sha256] = delivery = Delivery(
                    model, delivery.origin, delivery.asked_at_unix_ms
                )
        if origin is Origin.PERSON:
            delivery.origin = origin
            delivery.asked_at_unix_ms = int(now_ms)
            self._outbox.add(Keep(DeployWish(board.node, model, int(now_ms))))
        elif origin is Origin.SENSE and delivery.origin is Origin.TASK:
            delivery.origin = origin
        if board.holds(sha256):
            self._ready(board, delivery, 0, now_ms)
        return delivery

    def unwant(self, board: Board, sha256: bytes) -> None:
        """Want a model no more; what is on the board stays there."""
        delivery = board.deliveries.pop(sha256, None)
        if delivery is not None and delivery.origin is Origin.PERSON:
            self._outbox.add(Drop(DeployWish(board.node, delivery.model, 0)))

    def evict(self, board: Board, model: ModelReference, *, keep: bool = True) -> None:
        """Want a model off a board."""
        self.unwant(board, model.sha256)
        if model.sha256 not in board.evictions:
            board.evictions[model.sha256] = Eviction(model)
            if keep:
                self._outbox.add(Keep(EvictWish(board.node, model)))

    def calibrate(self, board: Board, *, keep: bool = True) -> None:
        """Want a board to measure itself."""
        if board.calibration is None:
            board.calibration = Calibration()
            if keep:
                self._outbox.add(Keep(CalibrateWish(board.node)))

    # --- time ------------------------------------------------------------------------------

    def tick(self, board: Board, needed: set[bytes], now_ms: float) -> float:
        """Send what is due to a board that is there; returns when to look again."""
        self._compare(board, needed, now_ms)
        next_ms = self._orders(board, now_ms)
        current = board.current
        if current is None:
            waiting = [found for found in board.deliveries.values() if found.phase is Phase.WAITING]
            due = [found for found in waiting if found.next_ms <= now_ms]
            if due:
                current = due[0]
                current.phase = Phase.SENDING
                current.nonce = board.next_nonce()
                current.repeats = -1
                current.next_ms = now_ms
                current.started_ms = current.started_ms or now_ms
                text = f"{current.model.name} version {current.model.version}"
                self._outbox.report("board.deploying", now_ms, board.node, text)
            else:
                next_ms = min([next_ms, *(found.next_ms for found in waiting)])
        if current is not None:
            if current.next_ms <= now_ms:
                self._order(board, current, now_ms)
            next_ms = min(next_ms, current.next_ms)
        return next_ms

    def _order(self, board: Board, delivery: Delivery, now_ms: float) -> None:
        delivery.repeats += 1
        if delivery.repeats > REPEATS:
            self._failed(
                board,
                delivery,
                ErrorCode.NODE_ERROR,
                f"node {board.node} is there but says nothing of the delivery: update its "
                "software, or look at its log",
                now_ms,
            )
            return
        delivery.next_ms = now_ms + SILENCE_MS
        order = ModelOrder(ModelCommand.DEPLOY, delivery.model, delivery.nonce)
        self._outbox.add(SendOrder(board.node, order))

    def _orders(self, board: Board, now_ms: float) -> float:
        """Evictions and calibration; returns when to look again."""
        next_ms = float("inf")
        for sha256, eviction in list(board.evictions.items()):
            if eviction.tries and not board.holds(sha256):
                self._gone(board, sha256, now_ms)
                continue
            if eviction.next_ms <= now_ms:
                eviction.nonce = eviction.nonce or board.next_nonce()
                eviction.tries += 1
                eviction.next_ms = now_ms + back_off_ms(eviction.tries)
                order = ModelOrder(ModelCommand.EVICT, eviction.model, eviction.nonce)
                self._outbox.add(SendOrder(board.node, order))
            next_ms = min(next_ms, eviction.next_ms)
        calibration = board.calibration
        if calibration is not None:
            if calibration.next_ms <= now_ms:
                calibration.nonce = calibration.nonce or board.next_nonce()
                calibration.tries += 1
                calibration.next_ms = now_ms + 5 * back_off_ms(calibration.tries)
                order = ModelOrder(ModelCommand.CALIBRATE, None, calibration.nonce)
                self._outbox.add(SendOrder(board.node, order))
            next_ms = min(next_ms, calibration.next_ms)
        return next_ms

    def pause(self, board: Board) -> None:
        """The board is gone or another process: its delivery waits and goes on where it was."""
        for delivery in board.deliveries.values():
            if delivery.phase is Phase.SENDING:
                delivery.phase = Phase.WAITING
                delivery.next_ms = 0.0
        for eviction in board.evictions.values():
            eviction.next_ms = 0.0
            eviction.tries = 0
        if board.calibration is not None:
            board.calibration.next_ms = 0.0

    # --- what the board says ---------------------------------------------------------------

    def report(self, board: Board, report: ModelReport, now_ms: float) -> None:
        """Take what a board says of an order or of a model."""
        if report.state is ModelState.CALIBRATED:
            self._calibrated(board, report, now_ms)
            return
        sha256 = report.sha256
        if sha256 is None:
            return
        delivery = board.deliveries.get(sha256)
        match report.state:
            case ModelState.WANT:
                self._wanted(board, delivery, sha256, report, now_ms)
            case ModelState.READY:
                if delivery is not None:
                    self._ready(board, delivery, report.run_us, now_ms)
            case ModelState.FAILED:
                eviction = board.evictions.get(sha256)
                if eviction is not None and report.nonce == eviction.nonce:
                    self._not_evicted(board, eviction, report, now_ms)
                elif (
                    delivery is not None
                    and delivery.phase is Phase.SENDING
                    and report.nonce == delivery.nonce
                ):
                    self._failed(board, delivery, report.code, report.text, now_ms)
            case _:
                found = board.evictions.get(sha256)
                if found is not None and report.nonce == found.nonce:
                    self._gone(board, sha256, now_ms)

    def _wanted(
        self,
        board: Board,
        delivery: Delivery | None,
        sha256: bytes,
        report: ModelReport,
        now_ms: float,
    ) -> None:
        if delivery is None or not delivery.open:
            return  # of an earlier order: it asks ever more seldom, and the next order ends it
        if delivery.phase is Phase.WAITING:
            if board.current is not None or delivery.attempts:
                return
            # The coordinator started anew in the middle of it, or the board was only away.
            delivery.phase = Phase.SENDING
            delivery.nonce = report.nonce
            delivery.started_ms = delivery.started_ms or now_ms
        if report.offset >= delivery.model.size_bytes or report.length == 0:
            return  # nonsense: the order's repetition sorts it out or ends it
        delivery.offset = report.offset
        delivery.repeats = 0
        delivery.next_ms = now_ms + SILENCE_MS
        length = min(
            report.length,
            MAX_CHUNK_BYTES,
            delivery.model.size_bytes - report.offset,
            max(1, board.max_message_bytes - CHUNK_OVERHEAD_BYTES),
        )
        self._outbox.add(SendChunk(board.node, sha256, report.offset, length))

    def _ready(self, board: Board, delivery: Delivery, run_us: int, now_ms: float) -> None:
        if delivery.phase is Phase.READY:
            delivery.run_us = run_us or delivery.run_us
            return
        model = delivery.model
        if not board.holds(model.sha256):
            board.held |= {model.sha256[:8]}
        delivery.phase = Phase.READY
        delivery.offset = model.size_bytes
        delivery.run_us = run_us or delivery.run_us
        delivery.code, delivery.text = ErrorCode.NONE, ""
        if delivery.started_ms:
            delivery.took_ms = now_ms - delivery.started_ms
            self._outbox.report(
                "board.deployed",
                now_ms,
                board.node,
                f"{model.name} version {model.version}",
                took_ms=int(delivery.took_ms),
                run_us=run_us,
            )

    def _failed(
        self, board: Board, delivery: Delivery, code: ErrorCode, text: str, now_ms: float
    ) -> None:
        delivery.attempts += 1
        delivery.code, delivery.text = code, text
        if is_final(code) or delivery.attempts >= ATTEMPTS:
            self.give_up(board, delivery, code, text, now_ms)
            return
        delivery.phase = Phase.WAITING
        delivery.next_ms = now_ms + back_off_ms(delivery.attempts)

    def give_up(
        self, board: Board, delivery: Delivery, code: ErrorCode, text: str, now_ms: float
    ) -> None:
        """End a delivery for good, with its reason, and the tasks that wait for it."""
        model = delivery.model
        delivery.phase = Phase.FAILED
        delivery.code, delivery.text = code, text
        said = f"{model.name} version {model.version}: {text or code.name.lower()}"
        self._outbox.report("board.deploy_failed", now_ms, board.node, said, code=code.name)
        if delivery.origin is Origin.PERSON:
            wish = DeployWish(board.node, model, delivery.asked_at_unix_ms, code, text)
            self._outbox.add(Keep(wish))
        reason = f"node {board.node} cannot hold {said} ({code.name})"
        self._outbox.add(RefuseTasks(model, board.node, code, reason))

    def _not_evicted(
        self, board: Board, eviction: Eviction, report: ModelReport, now_ms: float
    ) -> None:
        if report.code.retryable and report.code not in FINAL:
            return  # it is asked again
        del board.evictions[eviction.model.sha256]
        self._outbox.add(Drop(EvictWish(board.node, eviction.model)))
        text = f"{eviction.model.name} stays: {report.text or report.code.name}"
        self._outbox.report("board.evict_failed", now_ms, board.node, text)

    def _gone(self, board: Board, sha256: bytes, now_ms: float) -> None:
        eviction = board.evictions.pop(sha256)
        board.held -= {sha256[:8]}
        self._outbox.add(Drop(EvictWish(board.node, eviction.model)))
        text = f"{eviction.model.name} version {eviction.model.version}"
        self._outbox.report("board.evicted", now_ms, board.node, text)

    def _calibrated(self, board: Board, report: ModelReport, now_ms: float) -> None:
        calibration = board.calibration
        if calibration is not None and report.nonce == calibration.nonce:
            board.calibration = None
            board.calibrated += 1
            self._outbox.add(Drop(CalibrateWish(board.node)))
            self._outbox.report("board.calibrated", now_ms, board.node, "")

    # --- what is there and what should be ----------------------------------------------------

    def _compare(self, board: Board, needed: set[bytes], now_ms: float) -> None:
        """Take note of models that came or went without our knowing."""
        for sha256, delivery in list(board.deliveries.items()):
            if board.holds(sha256):
                if delivery.phase is not Phase.READY:
                    self._ready(board, delivery, 0, now_ms)
            elif delivery.phase is Phase.READY:
                if delivery.origin is Origin.TASK:
                    del board.deliveries[sha256]
                else:
                    delivery.phase = Phase.WAITING
                    delivery.offset, delivery.attempts, delivery.next_ms = 0, 0, 0.0
                    delivery.started_ms = 0.0
        self._make_room(board, needed, now_ms)

    def _make_room(self, board: Board, needed: set[bytes], now_ms: float) -> None:
        """Where more is wanted than fits, what was wanted longest ago gave way."""
        state = board.state
        if state is None:
            return
        built_in = {model.sha256 for model in state.models if not model.removable}
        wanted = [
            (delivery.asked_at_unix_ms, sha256)
            for sha256, delivery in board.deliveries.items()
            if delivery.phase is not Phase.FAILED and sha256 not in built_in
        ]
        missing = [
            found
            for found in sorted(wanted)
            if not board.holds(found[1]) and found[1] not in needed
        ]
        newest = max(wanted, default=None)
        for found in missing[: max(0, len(wanted) - state.max_models)]:
            if found == newest:
                continue
            model = board.deliveries[found[1]].model
            self.unwant(board, found[1])
            text = f"{model.name} version {model.version} gave way to a newer one"
            self._outbox.report("board.replaced", now_ms, board.node, text)
