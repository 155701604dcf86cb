"""The shell of boards: orders out, chunks read from the artefact store, wishes into the journal."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from maille_coordinator.boards import actions as wanted
from maille_coordinator.boards import events as happened
from maille_coordinator.boards.core import BoardsCore
from maille_coordinator.boards.events import node_changed
from maille_coordinator.boards.fitting import crowded, refusal
from maille_coordinator.boards.readings import ReadingStore
from maille_coordinator.boards.records import SenseWish
from maille_coordinator.boards.service import BoardView, DeliveryView, ReadingView, SenseView
from maille_coordinator.boards.state import Board, Sense
from maille_coordinator.boards.views import board_view, delivery_view, sense_view
from maille_coordinator.core import Core
from maille_coordinator.core.actions import NeedModel
from maille_coordinator.core.events import ModelRefused
from maille_coordinator.core.registry import NodeRecord
from maille_coordinator.models import ModelsError
from maille_coordinator.models.tiny_models import TinyModels
from maille_coordinator.records import MeshEvent, ModelRecord
from maille_coordinator.service import ServiceError
from maille_coordinator.store import Store, StoreError
from maille_protocol import (
    BoardState,
    Chunk,
    Message,
    ModelFormat,
    ModelOrder,
    ModelReference,
    ModelReport,
    Readings,
    SenseMode,
    topics,
)
from maille_protocol.topics import Topic

logger = logging.getLogger(__name__)


SWEEP_MS = 200.0
"""How often all boards are looked at while messages of other nodes come."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the coordinator gives the service to work with."""

    store: Store
    models: TinyModels
    now_ms: Callable[[], float]
    send: Callable[[Topic, str, Message], bool]
    publish: Callable[[MeshEvent], None]
    refuse: Callable[[ModelRefused], None]
    """Told, soon, that tasks wait in vain."""
    failed: Callable[[StoreError], None]
    """Told that the journal cannot be written: the process must end."""


class BoardService:
    """What `service.BoardApi` promises. All calls belong into the coordinator's event loop."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._around = surroundings
        self._core = BoardsCore()
        self._nodes: dict[str, happened.NodeChanged] = {}
        self._readings = ReadingStore(surroundings.models)
        self._timer: asyncio.TimerHandle | None = None
        self._next_sense = 1
        self._swept_ms = 0.0
        self._tasks: Core | None = None
        self.chunks_sent = 0
        self.readings_taken = 0

    # --- life ------------------------------------------------------------------------------

    def open(self, tasks: Core) -> None:
        """Read the journal. StoreError."""
        self._tasks = tasks
        wishes = self._around.store.wishes()
        numbers = [wish.sense for wish in wishes if isinstance(wish, SenseWish)]
        self._next_sense = max(numbers, default=0) + 1
        self._take(happened.Restored(tuple(wishes)))

    def close(self) -> None:
        """Stop what runs."""
        if self._timer is not None:
            self._timer.cancel()

    # --- the core --------------------------------------------------------------------------

    def observe(
        self,
        core: Core,
        heard: Iterable[tuple[str, int, Message]],
        needs: Iterable[NeedModel],
        *,
        timed: bool,
    ) -> None:
        """Take note of what a round of the task core has changed and wants, and of messages.

        Args:
            core: of the tasks.
            heard: node, boot number and message of what nodes said.
            needs: models that tasks wait for.
            timed: whether a timer of the task core ran: nodes may have fallen silent.
        """
        for node, boot, message in heard:
            record = core.registry.get(node)
            if record is None or record.boot != boot:
                continue
            if record.is_board:
                self._note(record)
                if isinstance(message, BoardState | ModelReport | Readings):
                    self._take(happened.BoardSpoke(node, message))
        now_ms = self._around.now_ms()
        if timed or now_ms - self._swept_ms >= SWEEP_MS:
            self._swept_ms = now_ms
            self._sweep(core)
        for need in needs:
            self._take(happened.ModelNeeded(need.model, need.node, need.offer_bytes))

    def _sweep(self, core: Core) -> None:
        """See what has become of boards that said nothing."""
        for node in list(self._nodes):
            known = core.registry.get(node)
            if known is None:
                del self._nodes[node]
                self._take(happened.NodeForgotten(node))
            else:
                self._note(known)

    def _note(self, record: NodeRecord) -> None:
        now = node_changed(record)
        if now is not None and self._nodes.get(record.node) != now:
            self._nodes[record.node] = now
            self._take(now)

    def _take(self, event: happened.Event) -> None:
        actions = self._core.handle(event, self._around.now_ms())
        try:
            self._carry_out(actions)
        except StoreError as error:
            self._around.failed(error)

    def _carry_out(self, actions: Sequence[wanted.Action]) -> None:
        changes = [
            (action.wish, isinstance(action, wanted.Keep))
            for action in actions
            if isinstance(action, wanted.Keep | wanted.Drop)
        ]
        if changes:
            self._around.store.commit_wishes(changes)
        missing: dict[bytes, str] = {}
        for action in actions:
            match action:
                case wanted.SendOrder(node, message):
                    is_model = isinstance(message, ModelOrder)
                    topic = topics.NODE_MODEL if is_model else topics.NODE_SENSE
                    self._around.send(topic, node, message)
                case wanted.SendChunk(node, sha256, offset, length):
                    try:
                        data = self._around.models.data(sha256)[offset : offset + length]
                    except (ModelsError, OSError) as error:
                        missing[sha256] = str(error)
                        continue
                    self.chunks_sent += 1
                    self._around.send(topics.NODE_CHUNK, node, Chunk(sha256, offset, data))
                case wanted.RefuseTasks(model, refused_on, code, text):
                    self._around.refuse(
                        ModelRefused(model.name, model.version, refused_on, code, text)
                    )
                case wanted.TakeReading():
                    self._reading(action)
                case wanted.ForgetReadings(sense):
                    self._readings.forget(sense)
                case wanted.Report(event):
                    logger.info("%s %s %s", event.kind, event.subject, event.text)
                    self._around.publish(event)
                case wanted.WakeAt(at_ms):
                    self._wake_at(at_ms)
                case _:
                    pass  # written above
        for sha256, text in missing.items():
            self._take(happened.ArtefactMissing(sha256, text))

    def _reading(self, action: wanted.TakeReading) -> None:
        sense = self._core.senses.senses.get(action.reading.sense)
        if sense is None:
            return
        now_ms = self._around.now_ms()
        self.readings_taken += 1
        view = self._readings.add(action.reading, sense.wish.model.sha256, now_ms)
        self._around.publish(
            MeshEvent(
                "sense.reading",
                view.at_unix_ms,
                action.node,
                view.text if view.outputs is None else json.dumps(view.outputs, ensure_ascii=False),
                {
                    "sense": view.sense,
                    "model": sense.wish.model.name,
                    "sensor": sense.wish.sensor,
                    "counter": view.counter,
                    "code": view.code,
                    "run_us": view.run_us,
                },
            )
        )

    def _wake_at(self, at_ms: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_s = max(0.0, (at_ms - self._around.now_ms()) / 1000)
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._take(happened.TimeReached())

    def remove_model(self, sha256: bytes) -> None:
        """The catalogue no longer has a model."""
        self._take(happened.ModelRemoved(sha256))

    # --- what the API asks -----------------------------------------------------------------

    def boards(self) -> list[BoardView]:
        """Every board, by id."""
        return [self._view(board) for _, board in sorted(self._core.boards.items())]

    def board(self, node: str) -> BoardView:
        """One board."""
        return self._view(self._known(node))

    def deploy(self, node: str, record: ModelRecord) -> DeliveryView:
        """Want a model on a board, and to stay there; one that failed is tried again."""
        board = self._known(node)
        model = self._fitting(board, record)
        self._take(happened.DeployAsked(node, model))
        return delivery_view(board, model.sha256)

    def evict(self, node: str, name: str, record: ModelRecord | None) -> BoardView:
        """Want a model off a board; without a record the one that the board calls `name`."""
        board = self._known(node)
        state = board.state or board.told
        held = () if state is None else state.models
        model = None if record is None else _reference(record)
        if model is None:
            # It was removed from the catalogue, or built in: the board knows it all the same.
            named = [found.sha256 for found in held if found.name == name]
            model = ModelReference(name, 0, named[0], 0, ModelFormat.TINY) if named else None
        wanted_there = model is not None and (
            board.holds(model.sha256) or model.sha256 in board.deliveries
        )
        if model is None or not wanted_there:
            raise ServiceError(
                404,
                "model_not_held",
                f"node {node} does not hold {name[:80]!r}: see `maille nodes`",
            )
        using = [
            str(number)
            for number, sense in self._core.senses.of(node).items()
            if sense.wish.model.sha256 == model.sha256
        ]
        if using:
            raise ServiceError(
                409,
                "model_in_use",
                f"sense {', '.join(using)} runs {name} on {node}: stop it first "
                f"(maille sense --stop {using[0]})",
            )
        if any(found.sha256 == model.sha256 and not found.removable for found in held):
            raise ServiceError(
                409,
                "model_built_in",
                f"model {name} is built into the firmware of {node}: flash another one",
            )
        self._take(happened.EvictAsked(node, model))
        return self._view(board)

    def calibrate(self, node: str) -> BoardView:
        """Have a board measure its kernels again."""
        board = self._known(node)
        self._take(happened.CalibrateAsked(node))
        return self._view(board)

    def sense(
        self, node: str, record: ModelRecord, sensor: str, interval_ms: int, mode: SenseMode
    ) -> SenseView:
        """Run a model on a board's sensor from now on; replaces one of the same three."""
        board = self._known(node)
        model = self._fitting(board, record)
        self._check_sensor(board, record, sensor)
        now_ms = int(self._around.now_ms())
        for number, found in list(self._core.senses.of(node).items()):
            same = (found.wish.model.name, found.wish.sensor) == (record.name, sensor)
            if same:
                self._take(happened.SenseStopped(number))
        wish = SenseWish(self._next_sense, node, model, sensor, interval_ms, mode, now_ms)
        self._next_sense = self._next_sense % 0xFFFFFFFF + 1
        self._take(happened.SenseAsked(wish))
        return self.show_sense(wish.sense)

    def senses(self) -> list[SenseView]:
        """Every sense, by number."""
        return [self._sense_view(sense) for _, sense in sorted(self._core.senses.senses.items())]

    def show_sense(self, sense: int) -> SenseView:
        """One sense."""
        return self._sense_view(self._known_sense(sense))

    def stop_sense(self, sense: int) -> SenseView:
        """End a sense; returns how it was."""
        view = self.show_sense(sense)
        self._take(happened.SenseStopped(sense))
        return view

    def readings(self, sense: int, limit: int) -> list[ReadingView]:
        """The last readings of a sense, newest first."""
        self._known_sense(sense)
        return self._readings.newest(sense, limit)

    def counters(self) -> Mapping[str, float]:
        """For /metrics."""
        boards = self._core.boards.values()
        return {
            "boards_reachable": float(sum(board.reachable for board in boards)),
            "boards_known": float(len(boards)),
            "senses": float(len(self._core.senses.senses)),
            "chunks_sent_total": float(self.chunks_sent),
            "readings_total": float(self.readings_taken),
        }

    # --- helpers ---------------------------------------------------------------------------

    def _view(self, board: Board) -> BoardView:
        return board_view(board)

    def _sense_view(self, sense: Sense) -> SenseView:
        return sense_view(sense, self._readings.latest(sense.wish.sense))

    def _known(self, node: str) -> Board:
        board = self._core.boards.get(node)
        if board is not None and node in self._nodes:
            return board
        record = None if self._tasks is None else self._tasks.registry.get(node)
        if record is None and board is None:
            raise ServiceError(
                404, "unknown_node", f"no node is called {node[:80]!r}: see `maille nodes`"
            )
        if board is not None:
            return board
        raise ServiceError(
            409,
            "not_a_board",
            f"node {node} fetches models by itself when a task needs them: nothing is delivered to "
            "it, and it has no sensors",
        )

    def _fitting(self, board: Board, record: ModelRecord) -> ModelReference:
        if record.format is not ModelFormat.TINY:
            raise ServiceError(
                409,
                "wrong_format",
                f"{record.name} is {record.format.name.lower()}, boards run the tiny format: "
                "convert it with `maille models convert`",
            )
        model = _reference(record)
        found = refusal(board, model) or crowded(board, model, self._core.senses.needed(board.node))
        if found is not None:
            raise ServiceError(409, found[0].name.lower(), found[1])
        return model

    def _check_sensor(self, board: Board, record: ModelRecord, sensor: str) -> None:
        state = board.state or board.told
        if state is None:
            return  # the board itself will say
        names = [found.name for found in state.sensors]
        if sensor not in names:
            there = ", ".join(names) or "none"
            raise ServiceError(
                409,
                "no_such_sensor",
                f"node {board.node} has no sensor {sensor[:80]!r}; it has: {there}",
            )
        (values,) = [found.values for found in state.sensors if found.name == sensor][:1]
        wants = _elements(record)
        if values and values != wants:
            raise ServiceError(
                409,
                "input_shape",
                f"sensor {sensor} gives {values} value(s), {record.name} takes {wants}",
            )

    def _known_sense(self, number: int) -> Sense:
        sense = self._core.senses.senses.get(number)
        if sense is None:
            raise ServiceError(
                404, "unknown_sense", f"there is no sense {number}: see `maille sense --list`"
            )
        return sense


def _reference(record: ModelRecord) -> ModelReference:
    return ModelReference(
        record.name, record.version, record.sha256, record.size_bytes, record.format
    )


def _elements(record: ModelRecord) -> int:
    count = 0
    for spec in record.inputs:
        size = 1
        for dimension in spec.shape:
            size *= dimension if isinstance(dimension, int) else 1
        count += size
    return count
