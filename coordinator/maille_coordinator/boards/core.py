"""The decisions on boards: `BoardsCore.handle(event, now_ms) -> actions`, the only mutator.

No I/O, no clock, no randomness. Deployments and senses that people want are desired state: what a
board says is compared with it, and orders go out for the difference. `Deliveries` gets models
there, `Senses` keeps them running on sensors.
"""

import heapq

from maille_coordinator.boards.actions import Action, Drop, Keep, RefuseTasks, SendOrder, WakeAt
from maille_coordinator.boards.deliveries import Deliveries, back_off_ms
from maille_coordinator.boards.events import (
    ArtefactMissing,
    BoardSpoke,
    CalibrateAsked,
    DeployAsked,
    Event,
    EvictAsked,
    ModelNeeded,
    ModelRemoved,
    NodeChanged,
    NodeForgotten,
    Restored,
    SenseAsked,
    SenseStopped,
    TimeReached,
)
from maille_coordinator.boards.fitting import crowded, refusal
from maille_coordinator.boards.outbox import Outbox
from maille_coordinator.boards.records import (
    CalibrateWish,
    DeployWish,
    EvictWish,
    SenseWish,
    Wish,
)
from maille_coordinator.boards.senses import Senses
from maille_coordinator.boards.state import Board, Delivery, Origin, Phase, Sense
from maille_protocol import (
    BoardState,
    ErrorCode,
    ModelCommand,
    ModelOrder,
    ModelReport,
    Readings,
)
from maille_protocol.limits import WARM_MODEL_BYTES


class BoardsCore:
    """All that is known and wanted of boards."""

    def __init__(self) -> None:
        self.boards: dict[str, Board] = {}
        self._outbox = Outbox()
        self.deliveries = Deliveries(self._outbox)
        self.senses = Senses(self._outbox, self.deliveries)
        self._heap: list[tuple[float, str]] = []
        self._awake_at_ms = float("inf")
        self._changed: set[str] = set()

    # --- the one entry ---------------------------------------------------------------------

    def handle(self, event: Event, now_ms: float) -> list[Action]:
        """Take an event; what is returned must be done, in order."""
        match event:
            case Restored(wishes):
                for wish in wishes:
                    self._restore(wish)
            case NodeChanged():
                self._node_changed(event, now_ms)
            case NodeForgotten(node):
                self._forget(node)
            case BoardSpoke(node, message):
                self._spoke(self._board(node), message, now_ms)
            case DeployAsked(node, model):
                self.deliveries.want(self._board(node), model, Origin.PERSON, now_ms)
            case EvictAsked(node, model):
                self.deliveries.evict(self._board(node), model)
            case CalibrateAsked(node):
                self.deliveries.calibrate(self._board(node))
            case SenseAsked(wish):
                self._sense(wish)
            case SenseStopped(number):
                self._stop_sense(number, now_ms)
            case ModelNeeded():
                self._needed(event, now_ms)
            case ModelRemoved(sha256):
                self._model_removed(sha256, now_ms)
            case ArtefactMissing(sha256, text):
                self._missing(sha256, text, now_ms)
            case TimeReached():
                self._awake_at_ms = float("inf")
        while self._heap and self._heap[0][0] <= now_ms:
            at_ms, node = heapq.heappop(self._heap)
            board = self.boards.get(node)
            if board is not None and at_ms >= board.wake_ms:
                board.wake_ms = float("inf")
                self._changed.add(node)
        while self._changed:
            self._tick(self._changed.pop(), now_ms)
        if self._heap and self._heap[0][0] < self._awake_at_ms:
            self._awake_at_ms = self._heap[0][0]
            self._outbox.add(WakeAt(self._awake_at_ms))
        return self._outbox.take()

    # --- boards ----------------------------------------------------------------------------

    def _board(self, node: str) -> Board:
        """The board, made known if it was not; it is looked at after the event."""
        self._changed.add(node)
        board = self.boards.get(node)
        if board is None:
            board = self.boards[node] = Board(node)
        return board

    def _node_changed(self, event: NodeChanged, now_ms: float) -> None:
        board = self._board(event.node)
        another = event.boot != board.boot
        if another or not event.reachable:
            self.deliveries.pause(board)
            if another:
                self.senses.pause(board)
                board.state = None
                board.ask_ms, board.asked = now_ms + 1000.0, 0
        board.boot = event.boot
        board.reachable = event.reachable
        board.held = event.held
        board.max_message_bytes = event.max_message_bytes
        board.runs_tiny = event.runs_tiny

    def _forget(self, node: str) -> None:
        board = self.boards.pop(node, None)
        self._changed.discard(node)
        if board is None:
            return
        for delivery in board.deliveries.values():
            if delivery.origin is Origin.PERSON:
                self._outbox.add(Drop(DeployWish(node, delivery.model, 0)))
        for eviction in board.evictions.values():
            self._outbox.add(Drop(EvictWish(node, eviction.model)))
        if board.calibration is not None:
            self._outbox.add(Drop(CalibrateWish(node)))
        for number in list(self.senses.of(node)):
            self.senses.remove(number)

    def _spoke(
        self, board: Board, message: BoardState | ModelReport | Readings, now_ms: float
    ) -> None:
        match message:
            case BoardState():
                board.state = board.told = message
                board.asked = 0
                board.held = frozenset(model.sha256[:WARM_MODEL_BYTES] for model in message.models)
                board.running = frozenset(message.senses)
                for number in [found for found in board.stops if found not in board.running]:
                    del board.stops[number]
            case ModelReport():
                self.deliveries.report(board, message, now_ms)
            case Readings(readings):
                for reading in readings:
                    self.senses.reading(board, reading, now_ms)

    def _tick(self, node: str, now_ms: float) -> None:
        board = self.boards.get(node)
        if board is None or not board.reachable:
            return
        next_ms = float("inf")
        if board.state is None:
            next_ms = self._ask(board, now_ms)
        else:
            # Senses first: they want models, which deliveries then bring.
            next_ms = min(next_ms, self.senses.tick(board, now_ms))
            needed = self.senses.needed(node)
            next_ms = min(next_ms, self.deliveries.tick(board, needed, now_ms))
        if next_ms < board.wake_ms:
            board.wake_ms = next_ms
            heapq.heappush(self._heap, (next_ms, node))

    def _ask(self, board: Board, now_ms: float) -> float:
        """A board that has not said its state on this boot is asked for it."""
        if board.ask_ms <= now_ms:
            board.asked += 1
            board.ask_ms = now_ms + back_off_ms(board.asked)
            order = ModelOrder(ModelCommand.REPORT, None, board.next_nonce())
            self._outbox.add(SendOrder(board.node, order))
        return board.ask_ms

    # --- wishes ----------------------------------------------------------------------------

    def _restore(self, wish: Wish) -> None:
        board = self._board(wish.node)
        match wish:
            case DeployWish(_, model, asked_at, code, text):
                delivery = Delivery(model, Origin.PERSON, asked_at)
                if code is not ErrorCode.NONE:
                    delivery.phase, delivery.code, delivery.text = Phase.FAILED, code, text
                board.deliveries[model.sha256] = delivery
            case EvictWish(_, model):
                self.deliveries.evict(board, model, keep=False)
            case CalibrateWish():
                self.deliveries.calibrate(board, keep=False)
            case SenseWish():
                self.senses.add(Sense(wish))

    def _sense(self, wish: SenseWish) -> None:
        board = self._board(wish.node)
        delivery = board.deliveries.get(wish.model.sha256)
        if delivery is not None and delivery.phase is Phase.FAILED:
            # Asked anew by a person: what failed before may go well now.
            self.deliveries.unwant(board, wish.model.sha256)
        self.senses.add(Sense(wish))
        self._outbox.add(Keep(wish))

    def _stop_sense(self, number: int, now_ms: float) -> None:
        sense = self.senses.remove(number)
        if sense is None:
            return
        self.senses.tell("sense.stopped", sense, "", now_ms)
        board = self._board(sense.wish.node)
        if board.reachable:
            self.senses.stop_now(board, number, now_ms)
        sha256 = sense.wish.model.sha256
        delivery = board.deliveries.get(sha256)
        if (
            delivery is not None
            and delivery.origin is Origin.SENSE
            and sha256 not in self.senses.needed(board.node)
        ):
            delivery.origin = Origin.TASK  # it may stay, but is not brought back

    def _model_removed(self, sha256: bytes, now_ms: float) -> None:
        for board in self.boards.values():
            numbers = [
                number
                for number, sense in self.senses.of(board.node).items()
                if sense.wish.model.sha256 == sha256
            ]
            for number in numbers:
                self._stop_sense(number, now_ms)
            if sha256 in board.deliveries:
                self._changed.add(board.node)
                self.deliveries.unwant(board, sha256)

    def _missing(self, sha256: bytes, text: str, now_ms: float) -> None:
        for board in self.boards.values():
            delivery = board.deliveries.get(sha256)
            if delivery is not None and delivery.open:
                code = ErrorCode.ARTEFACT_UNAVAILABLE
                self.deliveries.give_up(board, delivery, code, text, now_ms)
                self._changed.add(board.node)

    # --- tasks that wait ---------------------------------------------------------------------

    def _needed(self, event: ModelNeeded, now_ms: float) -> None:
        model = event.model
        if event.node is not None:
            board = self._board(event.node)
            found = self._refusal(board, event)
            if found is not None:
                self._outbox.add(RefuseTasks(model, event.node, *found))
            elif self._wants(board, model.sha256) is None:
                self.deliveries.want(board, model, Origin.TASK, now_ms)
            return
        there = [board for board in self.boards.values() if board.reachable]
        if any(self._wants(board, model.sha256) for board in there):
            return  # on its way
        reasons: list[tuple[ErrorCode, str]] = []
        best: Board | None = None
        for board in there:
            found = self._refusal(board, event)
            if found is not None:
                reasons.append(found)
            elif board.state is not None and (best is None or _load(board) < _load(best)):
                best = board
        if best is not None:
            self._changed.add(best.node)
            self.deliveries.want(best, model, Origin.TASK, now_ms)
        elif reasons and len(reasons) == len(there):
            text = f"no node of this mesh can run it: {'; '.join(text for _, text in reasons[:3])}"
            self._outbox.add(RefuseTasks(model, None, reasons[0][0], text))

    def _wants(self, board: Board, sha256: bytes) -> Delivery | None:
        delivery = board.deliveries.get(sha256)
        if delivery is None or delivery.phase is Phase.FAILED:
            return None
        return delivery

    def _refusal(self, board: Board, event: ModelNeeded) -> tuple[ErrorCode, str] | None:
        model = event.model
        found = refusal(board, model, event.offer_bytes)
        if found is None:
            found = crowded(board, model, self.senses.needed(board.node))
        delivery = board.deliveries.get(model.sha256)
        if found is None and delivery is not None and delivery.phase is Phase.FAILED:
            text = (
                f"node {board.node} could not take {model.name}: {delivery.text} "
                f"({delivery.code.name}); `maille deploy {model.name} --on {board.node}` tries again"
            )
            found = (delivery.code, text)
        return found


def _load(board: Board) -> tuple[int, str]:
    waiting = sum(delivery.open for delivery in board.deliveries.values())
    return (10 * waiting + len(board.held), board.node)
