"""A board in plain Python: what section 13 of SPEC.md asks of one, as a core without I/O.

It holds tiny models that are delivered to it, runs them with the reference interpreter, and feeds
them from sensors that are functions. Time is an argument; what is kept over a reset lies in a
`Flash`. `python_board_process` puts it on a real broker.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from maille_protocol import (
    BoardState,
    Cancel,
    Chunk,
    Control,
    ControlOrder,
    CoordinatorState,
    Envelope,
    ErrorCode,
    Heartbeat,
    HeldModel,
    Kernel,
    KernelSpeed,
    Measured,
    Message,
    ModelCommand,
    ModelFormat,
    ModelOrder,
    ModelReference,
    ModelReport,
    ModelState,
    NodeInfo,
    NodeKind,
    NodeState,
    NodeStatus,
    Offer,
    Offers,
    Reading,
    Readings,
    Reference,
    ResetCause,
    Result,
    Results,
    ResultStatus,
    SenseCommand,
    SenseMode,
    SenseOrder,
    Sensor,
    TaskFlag,
    UsageError,
    WireError,
    topics,
)
from maille_protocol.limits import (
    HEARTBEAT_INTERVAL_MS,
    MAX_CHUNK_BYTES,
    MAX_MICROCONTROLLER_PUBLISH_BYTES,
    WARM_MODEL_BYTES,
)
from maille_protocol.tensors import Array, decode_tensors, encode_tensors
from maille_protocol.tiny import Model, decode_model, quantise_inputs, run, self_test, signature
from maille_protocol.topics import Topic

WANT_FIRST_MS = 1_000.0
WANT_MOST_MS = 10_000.0
_REMEMBERED = 64

ReadSensor = Callable[[], Sequence[float]]
"""Gives the numbers of one reading; OSError if there is none."""

Said = list[tuple[Topic, Message]]


@dataclass(slots=True)
class Flash:
    """What survives a reset."""

    models: dict[bytes, tuple[str, bytes]] = field(default_factory=dict)
    """Name and container by SHA-256, the one used longest ago first."""
    partial: tuple[bytes, bytearray] | None = None
    """SHA-256 and the bytes so far of a model on its way."""
    resets: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardLimits:
    """What the device can do."""

    max_models: int = 1
    max_model_bytes: int = 64 * 1024
    arena_bytes: int = 32 * 1024
    max_message_bytes: int = MAX_MICROCONTROLLER_PUBLISH_BYTES
    chunk_bytes: int = MAX_CHUNK_BYTES
    format_version: int = 1
    max_senses: int = 4


@dataclass(slots=True)
class _Coming:
    model: ModelReference
    nonce: int
    again_ms: float
    delay_ms: float = WANT_FIRST_MS


@dataclass(slots=True)
class _Sensing:
    order: SenseOrder
    next_ms: float
    counter: int = 0
    last: bytes = b""
    failing: bool = False


class PythonBoard:
    """One process of a board, from reset to reset.

    Every method returns what the board publishes, as (topic, message). Give it the time often:
    `tick`, at least at `next_ms`.
    """

    def __init__(
        self,
        node: str,
        flash: Flash,
        *,
        boot: int,
        sensors: dict[str, tuple[int, ReadSensor]] | None = None,
        limits: BoardLimits | None = None,
        kind: NodeKind = NodeKind.MICROPYTHON,
        gateway: str | None = None,
        cause: ResetCause = ResetCause.POWER,
    ) -> None:
        self.node = node
        self.boot = boot
        self.limits = limits or BoardLimits()
        self.epoch = 0
        self.faults = 0
        self.tasks_run = 0
        self.calibrations = 0
        self._flash = flash
        self._sensors = sensors or {}
        self._kind = kind
        self._gateway = gateway
        self._cause = cause
        self._models = {sha256: decode_model(data) for sha256, (_, data) in flash.models.items()}
        self._coming: _Coming | None = None
        self._senses: dict[int, _Sensing] = {}
        self._ended: dict[tuple[bytes, int], Result] = {}
        self._heartbeat_ms = -math.inf
        self._started_ms = 0.0
        flash.resets += 1

    # --- birth and time --------------------------------------------------------------------

    def start(self, now_ms: float) -> Said:
        """The connection is up (again): the birth."""
        self._heartbeat_ms = now_ms + HEARTBEAT_INTERVAL_MS
        return [
            (topics.NODE_STATE, NodeStatus(NodeState.INIT)),
            (topics.NODE_INFO, self._info()),
            (topics.NODE_BOARD, self._state()),
            (topics.NODE_HEARTBEAT, self._beat(now_ms)),
            (topics.NODE_STATE, NodeStatus(NodeState.READY)),
        ]

    @property
    def next_ms(self) -> float:
        """When it wants to be ticked."""
        times = [self._heartbeat_ms, *(sensing.next_ms for sensing in self._senses.values())]
        if self._coming is not None:
            times.append(self._coming.again_ms)
        return min(times)

    def tick(self, now_ms: float) -> Said:
        """Do what is due."""
        said: Said = []
        if now_ms >= self._heartbeat_ms:
            self._heartbeat_ms = now_ms + HEARTBEAT_INTERVAL_MS
            said.append((topics.NODE_HEARTBEAT, self._beat(now_ms)))
        coming = self._coming
        if coming is not None and now_ms >= coming.again_ms:
            coming.delay_ms = min(WANT_MOST_MS, 2 * coming.delay_ms)
            coming.again_ms = now_ms + coming.delay_ms
            said.append(self._want(coming))
        for number, sensing in list(self._senses.items()):
            if now_ms >= sensing.next_ms:
                interval_ms = max(1.0, float(sensing.order.interval_ms))
                missed = (now_ms - sensing.next_ms) // interval_ms
                sensing.next_ms += interval_ms * (missed + 1)
                said += self._run_sense(number, sensing)
        return said

    def _info(self) -> NodeInfo:
        return NodeInfo(
            self._kind,
            self.node,
            "maille-python-board",
            1,
            (ModelFormat.TINY,),
            self.limits.max_message_bytes,
            Measured(cores=1, memory_bytes=264 * 1024, multiply_accumulates_per_s=1_000_000),
            self._gateway,
        )

    def _state(self) -> BoardState:
        limits = self.limits
        return BoardState(
            tuple(Sensor(name, values) for name, (values, _) in self._sensors.items()),
            tuple(
                HeldModel(name, sha256, removable=True)
                for sha256, (name, _) in self._flash.models.items()
            ),
            (KernelSpeed(Kernel.DENSE, 1_000_000 + self.calibrations),),
            limits.format_version,
            limits.max_models,
            limits.max_model_bytes,
            limits.arena_bytes,
            100_000,
            self._flash.resets,
            self._cause,
            self.faults,
            tuple(self._senses),
        )

    def _beat(self, now_ms: float) -> Heartbeat:
        warm = tuple(sha256[:WARM_MODEL_BYTES] for sha256 in self._models)
        return Heartbeat(int(now_ms - self._started_ms), 0, 0, 0, None, warm, ())

    # --- messages --------------------------------------------------------------------------

    def handle(self, envelope: Envelope, now_ms: float) -> Said:
        """Obey a message from the coordinator."""
        message = envelope.message
        if envelope.epoch < self.epoch:
            return []
        self.epoch = envelope.epoch
        match message:
            case ControlOrder(command=Control.REBIRTH):
                return self.start(now_ms)
            case Offers(model, offers):
                return [
                    self._answer(model, offer)
                    for offer in offers
                    if not offer.flags & TaskFlag.AT_MOST_ONCE or offer.boot == self.boot
                ]
            case ModelOrder():
                return self._order(message, now_ms)
            case Chunk():
                return self._chunk(message, now_ms)
            case SenseOrder():
                return self._sense(message, now_ms)
            case ControlOrder() | Cancel() | CoordinatorState():
                return []
            case _:
                self.faults += 1
                return []

    def _answer(self, model: ModelReference, offer: Offer) -> tuple[Topic, Message]:
        known = self._ended.get((offer.task_id, offer.attempt))
        if known is None:
            status, code, content = self._run_task(model, offer)
            known = Result(offer.task_id, offer.attempt, self.epoch, status, code, content, 100, 0)
            self._ended[offer.task_id, offer.attempt] = known
            while len(self._ended) > _REMEMBERED:
                del self._ended[next(iter(self._ended))]
        return (topics.NODE_RESULTS, Results((known,)))

    def _run_task(
        self, reference: ModelReference, offer: Offer
    ) -> tuple[ResultStatus, ErrorCode, bytes]:
        model = self._models.get(reference.sha256)
        if model is None:
            return (ResultStatus.REFUSED, ErrorCode.MODEL_NOT_HELD, b"not delivered")
        if isinstance(offer.content, Reference):
            return (ResultStatus.REFUSED, ErrorCode.CONTENT_UNAVAILABLE, b"no HTTP here")
        try:
            content = _run(model, decode_tensors(offer.content))
        except (WireError, UsageError) as error:
            return (ResultStatus.FAILED, ErrorCode.INPUT_SHAPE, str(error).encode())
        self.tasks_run += 1
        return (ResultStatus.DONE, ErrorCode.NONE, content)

    # --- delivery --------------------------------------------------------------------------

    def _order(self, order: ModelOrder, now_ms: float) -> Said:
        model = order.model
        match order.command:
            case ModelCommand.REPORT:
                return [(topics.NODE_BOARD, self._state())]
            case ModelCommand.CALIBRATE:
                self.calibrations += 1
                done = ModelReport(ModelState.CALIBRATED, None, order.nonce)
                return [(topics.NODE_MODEL_REPORT, done), (topics.NODE_BOARD, self._state())]
            case ModelCommand.EVICT if model is not None:
                return self._evict(model.sha256, order.nonce)
            case ModelCommand.DEPLOY if model is not None:
                return self._deploy(model, order.nonce, now_ms)
            case _:
                self.faults += 1
                return []

    def _deploy(self, model: ModelReference, nonce: int, now_ms: float) -> Said:
        if model.sha256 in self._models:
            self._coming = None
            return [self._report(ModelState.READY, model.sha256, nonce, run_us=100)]
        refusal = self._refusal(model)
        if refusal is not None:
            self._coming = None
            return [self._report(ModelState.FAILED, model.sha256, nonce, *refusal)]
        if self._coming is None or self._coming.model.sha256 != model.sha256:
            partial = self._flash.partial
            if partial is None or partial[0] != model.sha256:
                self._flash.partial = (model.sha256, bytearray())
        self._coming = _Coming(model, nonce, now_ms + WANT_FIRST_MS)
        return self._go_on(self._coming)

    def _refusal(self, model: ModelReference) -> tuple[ErrorCode, str] | None:
        limits = self.limits
        if model.format is not ModelFormat.TINY:
            return (ErrorCode.UNSUPPORTED_FORMAT, "not a tiny model")
        if model.size_bytes > limits.max_model_bytes:
            text = f"{model.size_bytes} bytes, {limits.max_model_bytes} fit"
            return (ErrorCode.MODEL_TOO_LARGE, text)
        if len(self._models) >= limits.max_models and self._replaceable() is None:
            return (ErrorCode.NO_SPACE, "senses need every model")
        return None

    def _replaceable(self) -> bytes | None:
        used = {sensing.order.sha256 for sensing in self._senses.values()}
        return next((sha256 for sha256 in self._flash.models if sha256 not in used), None)

    def _want(self, coming: _Coming) -> tuple[Topic, Message]:
        assert self._flash.partial is not None  # noqa: S101 - `_deploy` has made it
        offset = len(self._flash.partial[1])
        length = self.limits.chunk_bytes
        return self._report(
            ModelState.WANT, coming.model.sha256, coming.nonce, offset=offset, length=length
        )

    def _chunk(self, chunk: Chunk, now_ms: float) -> Said:
        coming, partial = self._coming, self._flash.partial
        if coming is None or partial is None or chunk.sha256 != coming.model.sha256:
            return []
        data = partial[1]
        if chunk.offset != len(data) or not chunk.data:
            return []
        if len(data) + len(chunk.data) > coming.model.size_bytes:
            self.faults += 1
            return []
        data += chunk.data
        coming.delay_ms = WANT_FIRST_MS
        coming.again_ms = now_ms + WANT_FIRST_MS
        return self._go_on(coming)

    def _go_on(self, coming: _Coming) -> Said:
        assert self._flash.partial is not None  # noqa: S101 - as above
        data = bytes(self._flash.partial[1])
        if len(data) < coming.model.size_bytes:
            return [self._want(coming)]
        self._coming = None
        self._flash.partial = None
        sha256 = coming.model.sha256
        failure = self._install(coming.model, data)
        if failure is not None:
            return [self._report(ModelState.FAILED, sha256, coming.nonce, *failure)]
        return [
            self._report(ModelState.READY, sha256, coming.nonce, run_us=100),
            (topics.NODE_BOARD, self._state()),
        ]

    def _install(self, reference: ModelReference, data: bytes) -> tuple[ErrorCode, str] | None:
        if hashlib.sha256(data).digest() != reference.sha256:
            return (ErrorCode.ARTEFACT_CORRUPT, "another SHA-256")
        try:
            model = decode_model(data)
        except WireError as error:
            return (ErrorCode.MODEL_INVALID, str(error)[:200])
        if model.arena_bytes > self.limits.arena_bytes:
            text = f"arena of {model.arena_bytes} bytes, {self.limits.arena_bytes} fit"
            return (ErrorCode.MODEL_TOO_LARGE, text)
        failed = self_test(model)
        if failed is not None:
            return (ErrorCode.SELF_TEST_FAILED, f"vector {failed}")
        if len(self._models) >= self.limits.max_models:
            oldest = self._replaceable()
            if oldest is None:
                return (ErrorCode.NO_SPACE, "senses need every model")
            del self._models[oldest], self._flash.models[oldest]
        self._flash.models[reference.sha256] = (reference.name, data)
        self._models[reference.sha256] = model
        return None

    def _evict(self, sha256: bytes, nonce: int) -> Said:
        for number in [n for n, s in self._senses.items() if s.order.sha256 == sha256]:
            del self._senses[number]
        if self._coming is not None and self._coming.model.sha256 == sha256:
            self._coming = self._flash.partial = None
        self._models.pop(sha256, None)
        self._flash.models.pop(sha256, None)
        return [
            self._report(ModelState.GONE, sha256, nonce),
            (topics.NODE_BOARD, self._state()),
        ]

    def _report(
        self,
        state: ModelState,
        sha256: bytes,
        nonce: int,
        code: ErrorCode = ErrorCode.NONE,
        text: str = "",
        *,
        offset: int = 0,
        length: int = 0,
        run_us: int = 0,
    ) -> tuple[Topic, Message]:
        report = ModelReport(state, sha256, nonce, offset, length, code, text, run_us)
        return (topics.NODE_MODEL_REPORT, report)

    # --- senses ----------------------------------------------------------------------------

    def _sense(self, order: SenseOrder, now_ms: float) -> Said:
        number = order.sense
        if order.command is SenseCommand.STOP:
            if self._senses.pop(number, None) is None:
                return []
            return [(topics.NODE_BOARD, self._state())]
        known = self._senses.get(number)
        if known is not None and known.order == order:
            return []
        refusal = self._sense_refusal(order)
        if refusal is not None:
            code, text = refusal
            reading = Reading(number, 0, 0, code, text.encode(), 0)
            return [(topics.NODE_READINGS, Readings((reading,)))]
        counter = 0 if known is None else known.counter
        self._senses[number] = _Sensing(order, now_ms, counter)
        return [(topics.NODE_BOARD, self._state())]

    def _sense_refusal(self, order: SenseOrder) -> tuple[ErrorCode, str] | None:
        model = None if order.sha256 is None else self._models.get(order.sha256)
        if model is None:
            return (ErrorCode.MODEL_NOT_HELD, "not delivered")
        found = self._sensors.get(order.sensor)
        if found is None:
            return (ErrorCode.NO_SUCH_SENSOR, order.sensor)
        wanted = model.description.inputs[0].count
        if len(model.inputs) != 1 or found[0] not in (0, wanted):
            return (ErrorCode.INPUT_SHAPE, f"{found[0]} values, the model takes {wanted}")
        if order.sense not in self._senses and len(self._senses) >= self.limits.max_senses:
            return (ErrorCode.NO_SPACE, "no more senses")
        return None

    def _run_sense(self, number: int, sensing: _Sensing) -> Said:
        order = sensing.order
        model = self._models[order.sha256 or b""]
        values, read = self._sensors[order.sensor]
        described = model.description.inputs[0]
        sensing.counter += 1
        try:
            count = described.count if values == 0 else 1
            samples = [number for _ in range(count) for number in read()]
            real: Array = np.array(samples, np.float64).reshape(described.shape)
            content = _run(model, quantise_inputs(model, {described.name: real}))
        except (OSError, UsageError, ValueError) as error:
            if sensing.failing:
                return []
            sensing.failing = True
            text = str(error).encode()
            failed = Reading(number, sensing.counter, 0, ErrorCode.SENSOR_ERROR, text, 0)
            return [(topics.NODE_READINGS, Readings((failed,)))]
        recovered, sensing.failing = sensing.failing, False
        if order.mode is SenseMode.CHANGES and content == sensing.last and not recovered:
            return []
        sensing.last = content
        reading = Reading(number, sensing.counter, 0, ErrorCode.NONE, content, 100)
        return [(topics.NODE_READINGS, Readings((reading,)))]


def _run(model: Model, arrays: dict[str, Array]) -> bytes:
    """Named integer tensors in, encoded ones out; UsageError for inputs that do not fit."""
    inputs, outputs = signature(model)
    names = [spec.name for spec in inputs]
    if set(names) != set(arrays):
        raise UsageError(f"inputs {sorted(arrays)}, the model has {names}")
    given = run(model, [arrays[name] for name in names])
    return encode_tensors(
        {
            spec.name: output.reshape([int(str(size)) for size in spec.shape])
            for spec, output in zip(outputs, given, strict=True)
        }
    )
