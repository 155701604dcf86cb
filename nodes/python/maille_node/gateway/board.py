"""The decisions of one board behind a gateway, for one start of it. No I/O, no clock, no chance.

The mesh's side is `NodeCore`, the same as a PC's: presence, offers, leases, epochs. This core carries
out with a board's messages what that one asks of a runtime.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from maille_node import events as node
from maille_node.core import CoreSettings, NodeCore
from maille_node.errors import TaskProblem
from maille_node.gateway import events
from maille_node.gateway.delivery import Deliveries
from maille_node.gateway.describe import board_state, node_info
from maille_node.gateway.events import Action, Event, Portrait
from maille_node.gateway.senses import Senses
from maille_node.gateway.translate import board_inputs, mesh_outputs
from maille_protocol import (
    BoardState,
    Chunk,
    Envelope,
    ErrorCode,
    Log,
    Message,
    ModelOrder,
    ModelReference,
    ModelReport,
    ResultStatus,
    SenseOrder,
    UsageError,
    WireError,
    topics,
)
from maille_protocol.codes import ModelCommand, ModelState
from maille_protocol.serial import messages as board
from maille_protocol.serial.messages import FromBoard, ToBoard, encode_board_message
from maille_protocol.tiny import Model, decode_model
from maille_protocol.topics import Topic

_MAX_HANDLE = 0xFFFF
_MAX_UINT32 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class _Run:
    batch: int
    task_id: bytes
    sha256: bytes
    inputs: tuple[bytes, ...]
    told: bool = False
    """Whether the board may have begun with it."""


class BoardCore:
    """One board's decisions; see the module's text."""

    def __init__(
        self,
        portrait: Portrait,
        *,
        gateway: str,
        boot: int,
        jitter: Callable[[], float],
        now_ms: float,
    ) -> None:
        """Begin with what the board said of itself; it counts as reachable."""
        self.portrait = portrait
        self.load: board.Load | None = None
        """What the board said last of how it does."""
        self.tasks_done = 0
        self._models: dict[bytes, Model] = {}
        self._fetching: set[bytes] = set()
        self._line_up = True
        self._faults = 0
        self._runs: dict[int, _Run] = {}
        self._aborted: set[int] = set()
        self._last_handle = 0
        self._now_ms = now_ms
        self._actions: list[Action] = []
        self._queue: list[node.Event] = []
        workers = max(1, portrait.info.slots)
        info = node_info(portrait, gateway)
        self._node = NodeCore(
            CoreSettings(info=info, boot=boot, workers=workers, max_batch=1),
            jitter=jitter,
            now_ms=now_ms,
        )
        self._senses = Senses(self._tell, self._model_of, self._speak)
        self._deliveries = Deliveries(self._tell, self._speak, self._model_changed)
        self._node.set_board(self._state())
        self._learn_models()

    @property
    def core(self) -> NodeCore:
        """The mesh's side, to look at."""
        return self._node

    def handle(self, event: Event, now_ms: float) -> list[Action]:
        """Take in what happened; what must be done now, in this order."""
        self._now_ms = now_ms
        self._actions = []
        match event:
            case events.Mesh(inner):
                self._feed(inner)
                if isinstance(inner, node.Tick):
                    self._deliveries.tick(now_ms)
            case events.Heard(envelopes):
                self._heard(envelopes)
            case events.LineUp(portrait):
                self._came_back(portrait)
            case events.LineDown():
                self._line_up = False
            case events.Said(message):
                self._said(message)
            case events.ModelFetched(sha256, data):
                self._fetched(sha256, data)
            case events.ModelUnavailable(sha256, code, text):
                self._fetching.discard(sha256)
                self._feed(node.ModelFailed(sha256, code, text))
        return self._actions

    # --- the mesh's side -------------------------------------------------------------------------

    def _feed(self, event: node.Event) -> None:
        """Hand an event to the node's core and carry out here what is not the shell's to do."""
        self._queue.append(event)
        if len(self._queue) > 1:
            return
        while self._queue:
            for action in self._node.handle(self._queue[0], self._now_ms):
                self._carry_out(action)
            self._queue.pop(0)

    def _carry_out(self, action: node.Action) -> None:
        match action:
            case node.Prepare(model):
                self._prepare(model)
            case node.RunBatch(batch, sha256, items):
                self._run(batch, sha256, items[0])
            case node.AbortBatch(batch):
                self._abort(batch)
            case node.FetchInput(task_id, _):
                text = "the inputs are an artefact, a board takes them in the offer only"
                self._queue.append(node.InputFailed(task_id, ErrorCode.INPUT_TOO_LARGE, text))
            case node.Upload(task_id, _):
                text = "a board's outputs are never this large"
                self._queue.append(node.UploadFailed(task_id, ErrorCode.OUTPUT_TOO_LARGE, text))
            case node.UseCoordinator():
                self._actions.append(action)
                self._fetch_unknown()
            case node.Release() | node.ReleaseInput():
                pass
            case _:
                self._actions.append(action)

    def _heard(self, envelopes: tuple[Envelope, ...]) -> None:
        for envelope in envelopes:
            stale = envelope.epoch < self._node.epoch
            match envelope.message:
                case ModelOrder() as order if not stale:
                    self._ordered(order)
                case Chunk() as chunk if not stale:
                    self._deliveries.chunk(chunk, self._now_ms)
                case SenseOrder() as order if not stale:
                    self._fetch_unknown()
                    self._senses.order(order, self._slots(), self.portrait.sensors)
                    self._board_changed()
                case _:
                    pass
        self._feed(node.Heard(envelopes))

    def _ordered(self, order: ModelOrder) -> None:
        if order.command is ModelCommand.REPORT:
            self._board_changed()
        elif order.command is ModelCommand.CALIBRATE:
            self._deliveries.calibrating = order.nonce
            self._tell(board.Calibrate())
        elif order.model is not None:
            self._deliveries.order(order, self.portrait, self._now_ms)

    def _speak(self, topic: Topic, message: Message) -> None:
        self._feed(node.Speak(topic, message))

    def _board_changed(self) -> None:
        state = self._state()
        self._node.set_board(state)
        self._speak(topics.NODE_BOARD, state)

    def _state(self) -> BoardState:
        return board_state(self.portrait, self._models, self._faults, self._senses.running)

    # --- models ----------------------------------------------------------------------------------

    def _slots(self) -> dict[bytes, int]:
        """Slots of the models that the board holds, by SHA-256."""
        return {record.sha256: slot for slot, record in self.portrait.models.items()}

    def _model_of(self, sha256: bytes) -> Model | None:
        return self._models.get(sha256)

    def _prepare(self, model: ModelReference) -> None:
        if model.sha256 not in self._slots():
            text = f"the board does not hold {model.name}"
            self._queue.append(node.ModelFailed(model.sha256, ErrorCode.MODEL_NOT_HELD, text))
        elif model.sha256 in self._models:
            self._queue.append(node.ModelReady(model.sha256, joinable=False))
        else:
            self._fetch(model.sha256, model.size_bytes)

    def _fetch(self, sha256: bytes, size_bytes: int) -> None:
        if sha256 not in self._fetching:
            self._fetching.add(sha256)
            self._actions.append(events.FetchModel(sha256, size_bytes))

    def _fetch_unknown(self) -> None:
        for record in self.portrait.models.values():
            if record.sha256 not in self._models:
                self._fetch(record.sha256, record.size_bytes)

    def _learn_models(self) -> None:
        for record in self.portrait.models.values():
            self._feed(node.ModelReady(record.sha256, joinable=False))

    def _fetched(self, sha256: bytes, data: bytes) -> None:
        self._fetching.discard(sha256)
        try:
            self._models[sha256] = decode_model(data)
        except WireError as error:
            self._feed(node.ModelFailed(sha256, ErrorCode.MODEL_INVALID, str(error)))
            return
        if sha256 in self._slots():
            self._feed(node.ModelReady(sha256, joinable=False))
            self._board_changed()

    def _model_changed(self, sha256: bytes, model: Model | None) -> None:
        """A model was installed, or (None) is gone."""
        if model is None:
            self._models.pop(sha256, None)
            self._feed(node.ModelForgotten(sha256))
        else:
            self._models[sha256] = model
            self._feed(node.ModelReady(sha256, joinable=False))
        self._board_changed()

    # --- tasks -----------------------------------------------------------------------------------

    def _run(self, batch: int, sha256: bytes, item: node.BatchItem) -> None:
        model = self._models.get(sha256)
        if model is None:
            self._end(batch, item.task_id, ErrorCode.MODEL_NOT_HELD, b"the model is gone")
            return
        try:
            inputs = board_inputs(model, item.content)
        except TaskProblem as problem:
            self._end(batch, item.task_id, problem.code, problem.text.encode())
            return
        self._offer(_Run(batch, item.task_id, sha256, inputs))

    def _offer(self, run: _Run) -> None:
        slot = self._slots().get(run.sha256)
        if slot is None:
            self._end(run.batch, run.task_id, ErrorCode.MODEL_NOT_HELD, b"the model is gone")
            return
        while True:
            self._last_handle = self._last_handle % _MAX_HANDLE + 1
            if self._last_handle not in self._runs:
                break
        handle = self._last_handle
        remaining_ms = min(self._node.remaining_ms(run.task_id, self._now_ms), _MAX_UINT32)
        message = board.OfferTask(handle, slot, remaining_ms, run.inputs)
        size_bytes, limit = _size(message), self.portrait.hello.max_message_bytes
        if size_bytes > limit:
            text = f"the inputs take {size_bytes} bytes on the line, the board {limit}"
            self._end(run.batch, run.task_id, ErrorCode.INPUT_TOO_LARGE, text.encode())
            return
        self._runs[handle] = replace(run, told=self._line_up)
        self._tell(message)

    def _abort(self, batch: int) -> None:
        for handle, run in list(self._runs.items()):
            if run.batch == batch and self._line_up:
                # The board answers RESULT, which ends the batch.
                self._aborted.add(handle)
                self._tell(board.CancelTask(handle))
            elif run.batch == batch:
                del self._runs[handle]
                self._queue.append(node.BatchEnded(batch, (), joinable=False))

    def _end(self, batch: int, task_id: bytes, code: ErrorCode, content: bytes) -> None:
        ends = (node.RunEnd(task_id, code, content, 0, refused=True),)
        self._queue.append(node.BatchEnded(batch, ends, joinable=False))

    def _result(self, result: board.TaskResult) -> None:
        run = self._runs.pop(result.task, None)
        self._aborted.discard(result.task)
        if run is None:
            self._faults += 1
            return
        code, content = result.code, b"".join(result.outputs[:1])
        if result.status is ResultStatus.DONE:
            try:
                content = mesh_outputs(self._models[run.sha256], result.outputs)
                self.tasks_done += 1
            except TaskProblem as problem:
                code, content = problem.code, problem.text.encode()
        else:
            code = code or ErrorCode.NODE_ERROR
            content = content or f"the board answers {result.status.name}, {code.name}".encode()
        # Refused means that it did not run: it may go elsewhere, whatever its flags.
        refused = result.status is ResultStatus.REFUSED
        end = node.RunEnd(run.task_id, code, content, result.run_us, refused=refused)
        self._feed(node.BatchEnded(run.batch, (end,), joinable=False))

    # --- the board's side ------------------------------------------------------------------------

    def _tell(self, message: ToBoard) -> None:
        if self._line_up:
            self._actions.append(events.Tell(message))

    def _came_back(self, portrait: Portrait) -> None:
        self.portrait = portrait
        self._line_up = True
        runs, self._runs = self._runs, {}
        aborted, self._aborted = self._aborted, set()
        for handle, run in runs.items():
            if handle in aborted:
                self._feed(node.BatchEnded(run.batch, (), joinable=False))
            elif run.told and self._node.is_at_most_once(run.task_id):
                text = b"the line to the board broke while it had the task"
                end = node.RunEnd(run.task_id, ErrorCode.NODE_ERROR, text, 0)
                self._feed(node.BatchEnded(run.batch, (end,), joinable=False))
            else:
                self._offer(run)
        self._senses.resume(self._slots())
        self._deliveries.resume()
        self._board_changed()

    def _queue_or_feed(self, event: node.Event) -> None:
        self._feed(event)

    def _said(self, message: FromBoard) -> None:
        match message:
            case board.TaskResult():
                self._result(message)
            case board.Load():
                self.load = message
            case board.Want():
                self._deliveries.wanted(message)
            case board.ModelStateReport():
                self._deliveries.ended(message, self.portrait)
            case board.SenseReading():
                self._senses.reading(message)
            case board.BoardLog(level, text):
                # A board may say anything, also what moves a terminal's cursor.
                shown = "".join(sign if sign.isprintable() else "?" for sign in text)
                self._actions.append(node.Note(min(level, logging.CRITICAL), f"it says: {shown}"))
                self._speak(topics.NODE_LOG, Log(min(level, logging.CRITICAL), text))
            case board.Refused():
                self._refused(message)
            case board.Info():
                self.portrait.info = message
                nonce, self._deliveries.calibrating = self._deliveries.calibrating, None
                if nonce is not None:
                    report = ModelReport(ModelState.CALIBRATED, None, nonce)
                    self._speak(topics.NODE_MODEL_REPORT, report)
                    self._board_changed()
            case board.SensorRecord(sensor):
                self.portrait.sensors[sensor] = message
            case board.ModelRecord(slot):
                self.portrait.models[slot] = message

    def _refused(self, message: board.Refused) -> None:
        self._faults += 1
        match message.message:
            case board.OfferTask.CODE if message.handle in self._runs:
                status = ResultStatus.REFUSED
                self._result(board.TaskResult(message.handle, status, message.error, 0, ()))
            case board.Sense.CODE:
                self._senses.refused(message.handle, message.error)
                self._board_changed()
            case board.Deploy.CODE | board.ModelChunk.CODE | board.Evict.CODE:
                failed = ModelState.FAILED
                report = board.ModelStateReport(message.handle & 0xFF, failed, message.error, 0)
                self._deliveries.ended(report, self.portrait)
            case _:
                text = f"it refuses message {message.message}: {message.error.name}"
                self._actions.append(node.Note(logging.WARNING, text))


def _size(message: ToBoard) -> int:
    try:
        return len(encode_board_message(message))
    except UsageError:
        return _MAX_UINT32
