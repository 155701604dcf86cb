"""The cores of tasks and boards, boards in Python, and a bus that loses, doubles and delays."""

import hashlib
import heapq
from dataclasses import dataclass, field
from random import Random

import numpy as np

from maille_coordinator.boards import actions as wanted
from maille_coordinator.boards import events as happened
from maille_coordinator.boards.core import BoardsCore
from maille_coordinator.boards.records import Wish, key_of
from maille_coordinator.boards.state import Phase
from maille_coordinator.core import Core
from maille_coordinator.core.actions import (
    Action,
    NeedModel,
    SendOffers,
    SendToNode,
    Tell,
    WakeAt,
    Write,
)
from maille_coordinator.core.events import (
    BrokerConnected,
    ClientSpoke,
    Event,
    ModelAdded,
    ModelRefused,
    NodeSpoke,
    TasksRestored,
    TimeReached,
)
from maille_coordinator.packing import offer_bytes
from maille_coordinator.records import MeshEvent, ModelRecord, TaskEnd, TaskRecord
from maille_protocol import (
    BoardState,
    Chunk,
    Message,
    ModelFormat,
    ModelReference,
    ModelReport,
    Offers,
    Outcome,
    Reading,
    Readings,
    Submission,
    Submit,
    pack,
    topics,
    unpack,
)
from maille_protocol.tensors import encode_tensors
from maille_protocol.tiny import decode_model, signature
from maille_simulator.boards.python_board import BoardLimits, Flash, PythonBoard, ReadSensor


@dataclass(frozen=True)
class Weather:
    """How bad the bus is."""

    loss: float = 0.0
    doubling: float = 0.0
    delay_ms: tuple[float, float] = (1.0, 1.0)


@dataclass
class Device:
    """A board's plug: its flash outlives its processes."""

    board: PythonBoard
    flash: Flash
    boot: int
    limits: BoardLimits
    sensors: dict[str, tuple[int, ReadSensor]]
    seq: int = 0
    on: bool = True


def record_of(name: str, data: bytes, version: int = 1) -> ModelRecord:
    inputs, outputs = signature(decode_model(data))
    return ModelRecord(
        name,
        version,
        hashlib.sha256(data).digest(),
        len(data),
        ModelFormat.TINY,
        inputs,
        outputs,
        False,
        0,
    )


def reference_of(record: ModelRecord) -> ModelReference:
    return ModelReference(
        record.name, record.version, record.sha256, record.size_bytes, record.format
    )


@dataclass
class World:
    """A mesh of boards in virtual time."""

    weather: Weather = field(default_factory=Weather)
    seed: int = 0
    now_ms: float = 1_000_000.0
    epoch: int = 1
    artefacts: dict[bytes, bytes] = field(default_factory=dict)
    models: dict[str, ModelRecord] = field(default_factory=dict)
    devices: dict[str, Device] = field(default_factory=dict)
    journal: dict[tuple[str, str], Wish] = field(default_factory=dict)
    open_tasks: dict[bytes, TaskRecord] = field(default_factory=dict)
    ends: dict[bytes, TaskEnd] = field(default_factory=dict)
    told: list[Outcome] = field(default_factory=list)
    events: list[MeshEvent] = field(default_factory=list)
    readings: list[tuple[str, Reading]] = field(default_factory=list)
    sent: list[tuple[str, Message]] = field(default_factory=list)
    refused: list[wanted.RefuseTasks] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self._bus: list[tuple[float, int, str, bool, bytes, str]] = []
        self._order = 0
        self._boots = 0
        self._batch = 0
        self.begin()

    # --- the coordinator -------------------------------------------------------------------

    def begin(self) -> None:
        """A coordinator's process begins with what the journal has."""
        self.core = Core(epoch=self.epoch, random=Random(self.seed))
        self.boards = BoardsCore()
        self._seen: dict[str, happened.NodeChanged] = {}
        self._core_wake = self._boards_wake = float("inf")
        self._seq = 0
        self._take_boards(happened.Restored(tuple(self.journal.values())))
        for record in self.models.values():
            self.take(ModelAdded(record))
        open_tasks = tuple((record, None) for record in self.open_tasks.values())
        self.take(TasksRestored(open_tasks, tuple(self.ends)))
        self.take(BrokerConnected())

    def restart_coordinator(self) -> None:
        self.epoch += 1
        self.begin()

    def add_model(self, name: str, data: bytes) -> ModelRecord:
        record = record_of(name, data)
        self.artefacts[record.sha256] = data
        self.models[name] = record
        self.take(ModelAdded(record))
        return record

    def take(self, *events: Event) -> None:
        needs: list[NeedModel] = []
        for event in events:
            needs += self._carry_out(self.core.handle(event, self.now_ms))
            if isinstance(event, NodeSpoke):
                record = self.core.registry.get(event.node)
                message = event.envelope.message
                if record is not None and record.boot == event.envelope.boot:
                    self._note(event.node)
                    if isinstance(message, BoardState | ModelReport | Readings):
                        self._take_boards(happened.BoardSpoke(event.node, message))
        for node in list(self._seen):
            self._note(node)
        for need in needs:
            self._take_boards(happened.ModelNeeded(need.model, need.node, need.offer_bytes))
        self.core.validate()

    def _note(self, node: str) -> None:
        record = self.core.registry.get(node)
        if record is None or not record.is_board:
            return
        now = happened.node_changed(record)
        if now is not None and self._seen.get(node) != now:
            self._seen[node] = now
            self._take_boards(now)

    def _carry_out(self, actions: list[Action]) -> list[NeedModel]:
        needs = []
        for action in actions:
            match action:
                case SendOffers(node, model, offers):
                    assert len(offers) == 1, "a publish to a board carries one task"
                    message = Offers(model, offers)
                    content = offers[0].content
                    assert isinstance(content, bytes)
                    size = len(self._packed(message))
                    assert size <= offer_bytes(model, offers[0].flags, content)
                    self._send(node, message)
                case SendToNode(node, order):
                    self._send(node, order)
                case NeedModel():
                    needs.append(action)
                case Tell(_, outcome):
                    self.told.append(outcome)
                case Write(TaskRecord() as task):
                    self.open_tasks[task.task_id] = task
                case Write(TaskEnd() as end):
                    assert end.task_id not in self.ends, "a task ended twice"
                    self.ends[end.task_id] = end
                    del self.open_tasks[end.task_id]
                case WakeAt(at_ms):
                    self._core_wake = at_ms
                case _:
                    pass
        return needs

    def ask(self, event: happened.Event) -> None:
        """A person asks something of boards."""
        self._take_boards(event)

    def _take_boards(self, event: happened.Event) -> None:
        for action in self.boards.handle(event, self.now_ms):
            match action:
                case wanted.Keep(wish):
                    self.journal[key_of(wish)] = wish
                case wanted.Drop(wish):
                    self.journal.pop(key_of(wish), None)
                case wanted.SendOrder(node, message):
                    self._send(node, message)
                case wanted.SendChunk(node, sha256, offset, length):
                    data = self.artefacts[sha256][offset : offset + length]
                    self._send(node, Chunk(sha256, offset, data))
                case wanted.RefuseTasks(model, node, code, text):
                    self.refused.append(action)
                    self.take(ModelRefused(model.name, model.version, node, code, text))
                case wanted.TakeReading(node, reading):
                    self.readings.append((node, reading))
                case wanted.Report(event_told):
                    self.events.append(event_told)
                case wanted.WakeAt(at_ms):
                    self._boards_wake = at_ms
                case _:
                    pass
        for board in self.boards.boards.values():
            under_way = [d for d in board.deliveries.values() if d.phase is Phase.SENDING]
            assert len(under_way) <= 1, "one delivery at a time"

    def submit(self, number: int, model: str, target: str | None = None, values: int = 1) -> bytes:
        self._batch += 1
        task_id = number.to_bytes(16, "big")
        content = encode_tensors({"x": np.full(values, 200, np.uint8)})
        submission = Submission(task_id, content)
        self.take(
            ClientSpoke(
                "me", Submit(self._batch, model, 0, 5, 600_000, 0, 0, target, (submission,))
            )
        )
        return task_id

    # --- the devices -----------------------------------------------------------------------

    def plug_in(
        self,
        node: str,
        limits: BoardLimits | None = None,
        sensors: dict[str, tuple[int, ReadSensor]] | None = None,
    ) -> Device:
        flash, found = Flash(), limits or BoardLimits()
        self._boots += 1
        board = PythonBoard(node, flash, boot=self._boots, sensors=sensors, limits=found)
        device = Device(board, flash, self._boots, found, sensors or {})
        self.devices[node] = device
        self._say(node, board.start(self.now_ms))
        return device

    def power_cut(self, node: str) -> None:
        device = self.devices[node]
        self._boots += 1
        device.boot, device.seq, device.on = self._boots, 0, True
        device.board = PythonBoard(
            node, device.flash, boot=device.boot, sensors=device.sensors, limits=device.limits
        )
        self._say(node, device.board.start(self.now_ms))

    def unplug(self, node: str) -> None:
        self.devices[node].on = False

    def _say(self, node: str, said: list[tuple[topics.Topic, Message]]) -> None:
        device = self.devices[node]
        for topic, message in said:
            device.seq += 1
            data = pack(message, boot=device.boot, seq=device.seq, epoch=device.board.epoch)
            self._post(node, False, data, topic.suffix)

    def _packed(self, message: Message) -> bytes:
        return pack(message, boot=1 << 63, seq=self._seq + 1, epoch=self.epoch)

    def _send(self, node: str, message: Message) -> None:
        self._seq += 1
        self.sent.append((node, message))
        data = pack(message, boot=1 << 63, seq=self._seq, epoch=self.epoch)
        device = self.devices.get(node)
        if device is not None:
            assert len(data) <= device.limits.max_message_bytes, f"{message} is too large"
        self._post(node, True, data, "")

    def _post(self, node: str, down: bool, data: bytes, suffix: str) -> None:
        copies = 1 + (self.random.random() < self.weather.doubling)
        for _ in range(copies):
            if self.random.random() < self.weather.loss:
                continue
            self._order += 1
            at_ms = self.now_ms + self.random.uniform(*self.weather.delay_ms)
            heapq.heappush(self._bus, (at_ms, self._order, node, down, data, suffix))

    # --- time ------------------------------------------------------------------------------

    def run(self, ms: float) -> None:
        """Let virtual time pass."""
        until_ms = self.now_ms + ms
        while True:
            times = [self._core_wake, self._boards_wake]
            times += [self._bus[0][0]] if self._bus else []
            times += [device.board.next_ms for device in self.devices.values() if device.on]
            next_ms = max(self.now_ms, min(times))
            if next_ms > until_ms:
                self.now_ms = until_ms
                return
            self.now_ms = next_ms
            if self._core_wake <= next_ms:
                self._core_wake = float("inf")
                self.take(TimeReached())
            if self._boards_wake <= next_ms:
                self._boards_wake = float("inf")
                self._take_boards(happened.TimeReached())
            for node, device in self.devices.items():
                if device.on and device.board.next_ms <= next_ms:
                    self._say(node, device.board.tick(self.now_ms))
            while self._bus and self._bus[0][0] <= next_ms:
                _, _, node, down, data, _ = heapq.heappop(self._bus)
                self._arrive(node, down, data)

    def _arrive(self, node: str, down: bool, data: bytes) -> None:
        envelope = unpack(data)
        if not down:
            self.take(NodeSpoke(node, envelope))
            return
        device = self.devices.get(node)
        if device is not None and device.on:
            self._say(node, device.board.handle(envelope, self.now_ms))

    # --- what tests look at ------------------------------------------------------------------

    def holds(self, node: str, record: ModelRecord) -> bool:
        return record.sha256 in self.devices[node].flash.models

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]
