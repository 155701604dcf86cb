"""A core with a stage around it: fake nodes and clients that are lists of messages."""

from dataclasses import dataclass, field
from random import Random

import numpy as np

from maille_coordinator.core import Core, CoreLimits
from maille_coordinator.core.actions import Action, SendOffers, SendToNode, Tell, WakeAt, Write
from maille_coordinator.core.events import (
    BrokerConnected,
    ClientSpoke,
    Event,
    ModelAdded,
    NodeSpoke,
    TimeReached,
)
from maille_coordinator.records import ModelRecord, TaskEnd
from maille_protocol import (
    Envelope,
    ErrorCode,
    Heartbeat,
    Measured,
    Message,
    ModelFormat,
    NodeInfo,
    NodeKind,
    NodeState,
    NodeStatus,
    Offer,
    Outcome,
    Result,
    Results,
    ResultStatus,
    Submission,
    Submit,
)
from maille_protocol.signature import TensorSpec
from maille_protocol.tensors import encode_tensors

START_MS = 1_000_000.0
EPOCH = 7
INPUT = encode_tensors({"x": np.zeros((1, 4), np.float32)})
OUTPUT = encode_tensors({"y": np.ones((1,), np.int64)})
DIGITS = ModelRecord(
    "digits",
    1,
    b"d" * 32,
    1000,
    ModelFormat.ONNX,
    (TensorSpec("x", "float32", ("n", 4)),),
    (TensorSpec("y", "int64", ("n",)),),
    True,
    0,
)


def node_info(node: str, *, slots: int = 8, cores: int = 2) -> NodeInfo:
    measured = Measured(cores=cores)
    return NodeInfo(NodeKind.PC, node, "test", slots, (ModelFormat.ONNX,), 48 * 1024, measured)


def task_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


@dataclass
class Stage:
    """Feeds a core and keeps what it wanted."""

    core: Core
    now_ms: float = START_MS
    sequences: dict[tuple[str, int], int] = field(default_factory=dict)
    written: list[object] = field(default_factory=list)
    told: list[Outcome] = field(default_factory=list)
    wake_ms: float | None = None
    batch: int = 0

    def do(self, event: Event) -> list[Action]:
        actions = self.core.handle(event, self.now_ms)
        for action in actions:
            match action:
                case Write(record):
                    self.written.append(record)
                case Tell(_, outcome):
                    self.told.append(outcome)
                case WakeAt(at_ms):
                    self.wake_ms = at_ms
                case _:
                    pass
        return actions

    def say(
        self,
        node: str,
        message: Message,
        *,
        boot: int = 1,
        seq: int | None = None,
        retained: bool = False,
    ) -> list[Action]:
        if seq is None:
            seq = self.sequences[node, boot] = self.sequences.get((node, boot), 0) + 1
        return self.do(NodeSpoke(node, Envelope(boot, seq, EPOCH, message), retained))

    def join(self, node: str, *, slots: int = 8, boot: int = 1, cores: int = 2) -> list[Action]:
        actions = self.say(node, NodeStatus(NodeState.INIT), boot=boot)
        actions += self.say(node, node_info(node, slots=slots, cores=cores), boot=boot)
        return actions + self.say(node, NodeStatus(NodeState.READY), boot=boot)

    def beat(
        self, node: str, *held: tuple[bytes, int], boot: int = 1, warm: tuple[bytes, ...] = ()
    ) -> list[Action]:
        return self.say(node, Heartbeat(0, 0, 0, 0, None, warm, held), boot=boot)

    def submit(self, *numbers: int, client: str = "me", **options: object) -> list[Action]:
        self.batch += 1
        values: dict[str, object] = {
            "batch": self.batch,
            "model": "digits",
            "version": 0,
            "priority": 5,
            "deadline_ms": 0,
            "max_attempts": 0,
            "flags": 0,
            "target": None,
        }
        content = options.pop("content", INPUT)
        values.update(options)
        tasks = tuple(Submission(task_id(n), content) for n in numbers)  # type: ignore[arg-type]
        return self.do(ClientSpoke(client, Submit(**values, tasks=tasks)))  # type: ignore[arg-type]

    def answer(
        self,
        node: str,
        *pairs: tuple[bytes, int],
        boot: int = 1,
        epoch: int = EPOCH,
        status: ResultStatus = ResultStatus.DONE,
        code: ErrorCode = ErrorCode.NONE,
        content: bytes = OUTPUT,
    ) -> list[Action]:
        results = tuple(
            Result(found, attempt, epoch, status, code, content, 50, 10) for found, attempt in pairs
        )
        return self.say(node, Results(results), boot=boot)

    def pass_time(self, ms: float) -> list[Action]:
        """Move on, waking the core whenever it asked for it."""
        until_ms = self.now_ms + ms
        actions: list[Action] = []
        while self.wake_ms is not None and self.wake_ms <= until_ms:
            self.now_ms = max(self.now_ms, self.wake_ms)
            self.wake_ms = None
            actions += self.do(TimeReached())
        self.now_ms = until_ms
        return actions

    @property
    def ends(self) -> list[TaskEnd]:
        return [record for record in self.written if isinstance(record, TaskEnd)]


def offers(actions: list[Action]) -> list[tuple[str, Offer]]:
    """(node, offer) of everything offered."""
    return [
        (action.node, offer)
        for action in actions
        if isinstance(action, SendOffers)
        for offer in action.offers
    ]


def sent_to(actions: list[Action], node: str) -> list[object]:
    return [a.message for a in actions if isinstance(a, SendToNode) and a.node == node]


def new_stage() -> Stage:
    """A core that is connected and knows one model."""
    stage = Stage(Core(epoch=EPOCH, random=Random(1), limits=CoreLimits(max_open_tasks=1000)))
    stage.do(BrokerConnected())
    stage.do(ModelAdded(DIGITS))
    return stage
