"""Models on their way to a board: pulled from the mesh as any board pulls, then stored by the board."""

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from maille_node.gateway.events import Portrait
from maille_protocol import (
    Chunk,
    ErrorCode,
    Message,
    ModelFormat,
    ModelOrder,
    ModelReport,
    WireError,
    topics,
)
from maille_protocol.codes import ModelCommand, ModelState
from maille_protocol.limits import MAX_CHUNK_BYTES
from maille_protocol.serial import messages as board
from maille_protocol.serial.messages import ToBoard
from maille_protocol.tiny import Model, decode_model
from maille_protocol.topics import Topic

FIRST_REPEAT_MS = 1000.0
LAST_REPEAT_MS = 10_000.0


@dataclass(slots=True)
class _Delivery:
    sha256: bytes
    size_bytes: int
    nonce: int
    slot: int
    arena_bytes: int
    data: bytearray = field(default_factory=bytearray)
    model: Model | None = None
    """Once everything is here and the board stores it."""
    repeat_ms: float = FIRST_REPEAT_MS
    repeat_at_ms: float = 0.0


class Deliveries:
    """One delivery at a time, and evictions."""

    def __init__(
        self,
        tell: Callable[[ToBoard], None],
        speak: Callable[[Topic, Message], None],
        changed: Callable[[bytes, Model | None], None],
    ) -> None:
        """`changed` is told of a model that was installed, or (None) is gone."""
        self.calibrating: int | None = None
        """Nonce of a CALIBRATE that is not answered yet."""
        self._tell = tell
        self._speak = speak
        self._changed = changed
        self._current: _Delivery | None = None
        self._evictions: dict[int, tuple[bytes, int]] = {}

    def order(self, order: ModelOrder, portrait: Portrait, now_ms: float) -> None:
        """Begin a delivery or an eviction, or answer at once."""
        model = order.model
        if model is None:
            return
        held = {record.sha256: record for record in portrait.models.values()}
        record = held.get(model.sha256)
        if order.command is ModelCommand.EVICT:
            if record is None:
                self._report(ModelState.GONE, model.sha256, order.nonce)
            elif not record.removable:
                text = "it is built into the firmware: flash another one"
                self._fail(model.sha256, order.nonce, ErrorCode.NODE_ERROR, text)
            else:
                self._evictions[record.model] = (model.sha256, order.nonce)
                self._tell(board.Evict(record.model))
            return
        if record is not None:
            self._report(ModelState.READY, model.sha256, order.nonce)
            return
        info = portrait.info
        if model.format is not ModelFormat.TINY:
            text = f"a board runs tiny models, this is {model.format.name}"
            self._fail(model.sha256, order.nonce, ErrorCode.UNSUPPORTED_FORMAT, text)
        elif info.max_models == 0:
            text = "this firmware holds only the models it was built with"
            self._fail(model.sha256, order.nonce, ErrorCode.NO_SPACE, text)
        elif model.size_bytes > info.max_model_bytes:
            text = f"the model has {model.size_bytes} bytes, the board takes {info.max_model_bytes}"
            self._fail(model.sha256, order.nonce, ErrorCode.MODEL_TOO_LARGE, text)
        elif self._current is not None and self._current.sha256 == model.sha256:
            self._current.nonce = order.nonce
            if self._current.model is None:
                self._want(self._current, now_ms)
        else:
            slot = _free_slot(portrait)
            self._current = _Delivery(
                model.sha256, model.size_bytes, order.nonce, slot, info.arena_bytes
            )
            self._want(self._current, now_ms)

    def chunk(self, chunk: Chunk, now_ms: float) -> None:
        """A part of the model came from the mesh."""
        delivery = self._current
        if (
            delivery is None
            or delivery.model is not None
            or chunk.sha256 != delivery.sha256
            or chunk.offset != len(delivery.data)
            or not 0 < len(chunk.data) <= delivery.size_bytes - len(delivery.data)
        ):
            return
        delivery.data += chunk.data
        delivery.repeat_ms = FIRST_REPEAT_MS
        if len(delivery.data) < delivery.size_bytes:
            self._want(delivery, now_ms)
        else:
            self._hand_over(delivery)

    def tick(self, now_ms: float) -> None:
        """Ask again for what did not come."""
        delivery = self._current
        if delivery is not None and delivery.model is None and now_ms >= delivery.repeat_at_ms:
            self._want(delivery, now_ms)
            delivery.repeat_ms = min(2 * delivery.repeat_ms, LAST_REPEAT_MS)

    def resume(self) -> None:
        """The board is back: it asks again for what it had not stored."""
        for slot in self._evictions:
            self._tell(board.Evict(slot))
        if self._current is not None and self._current.model is not None:
            self._deploy(self._current)

    def wanted(self, want: board.Want) -> None:
        """The board asks for bytes."""
        delivery = self._current
        if delivery is None or delivery.model is None or want.model != delivery.slot:
            return
        data = bytes(delivery.data[want.offset : want.offset + want.length])
        if data:
            self._tell(board.ModelChunk(want.model, want.offset, data))

    def ended(self, state: board.ModelStateReport, portrait: Portrait) -> None:
        """The board has stored a model, could not, or has forgotten one."""
        eviction = self._evictions.pop(state.model, None)
        if eviction is not None:
            sha256, nonce = eviction
            if state.state is ModelState.FAILED:
                self._fail(sha256, nonce, state.code, "the board could not forget it")
                return
            portrait.models.pop(state.model, None)
            self._report(ModelState.GONE, sha256, nonce)
            self._changed(sha256, None)
            return
        delivery = self._current
        if delivery is None or delivery.model is None or state.model != delivery.slot:
            return
        self._current = None
        if state.state is not ModelState.READY:
            text = f"the board answers {state.state.name}, {state.code.name}"
            self._fail(delivery.sha256, delivery.nonce, state.code or ErrorCode.NODE_ERROR, text)
            return
        replaced = portrait.models.get(state.model)
        portrait.models[state.model] = board.ModelRecord(
            state.model, delivery.size_bytes, delivery.sha256, removable=True
        )
        if replaced is not None and replaced.sha256 != delivery.sha256:
            self._changed(replaced.sha256, None)
        report = ModelReport(ModelState.READY, delivery.sha256, delivery.nonce, run_us=state.run_us)
        self._speak(topics.NODE_MODEL_REPORT, report)
        self._changed(delivery.sha256, delivery.model)

    def _want(self, delivery: _Delivery, now_ms: float) -> None:
        delivery.repeat_at_ms = now_ms + delivery.repeat_ms
        offset = len(delivery.data)
        length = min(MAX_CHUNK_BYTES, delivery.size_bytes - offset)
        report = ModelReport(
            ModelState.WANT, delivery.sha256, delivery.nonce, offset=offset, length=length
        )
        self._speak(topics.NODE_MODEL_REPORT, report)

    def _hand_over(self, delivery: _Delivery) -> None:
        data = bytes(delivery.data)
        code, text = ErrorCode.NONE, ""
        if hashlib.sha256(data).digest() != delivery.sha256:
            code, text = ErrorCode.ARTEFACT_CORRUPT, "what came has another SHA-256"
        else:
            try:
                delivery.model = decode_model(data)
            except WireError as error:
                code, text = ErrorCode.MODEL_INVALID, str(error)
        if delivery.model is not None and delivery.model.arena_bytes > delivery.arena_bytes:
            code = ErrorCode.MODEL_TOO_LARGE
            text = (
                f"it computes in {delivery.model.arena_bytes} bytes, "
                f"the board has {delivery.arena_bytes}"
            )
        if code is not ErrorCode.NONE:
            self._current = None
            self._fail(delivery.sha256, delivery.nonce, code, text)
        else:
            self._deploy(delivery)

    def _deploy(self, delivery: _Delivery) -> None:
        crc32 = zlib.crc32(delivery.data)
        self._tell(board.Deploy(delivery.slot, delivery.size_bytes, crc32, delivery.sha256))

    def _report(self, state: ModelState, sha256: bytes, nonce: int) -> None:
        self._speak(topics.NODE_MODEL_REPORT, ModelReport(state, sha256, nonce))

    def _fail(self, sha256: bytes, nonce: int, code: ErrorCode, text: str) -> None:
        report = ModelReport(ModelState.FAILED, sha256, nonce, code=code, text=text)
        self._speak(topics.NODE_MODEL_REPORT, report)


def _free_slot(portrait: Portrait) -> int:
    """A slot that can be delivered to: an empty one, or else the first."""
    built_in = sum(not record.removable for record in portrait.models.values())
    slots = range(built_in, built_in + portrait.info.max_models)
    return next((slot for slot in slots if slot not in portrait.models), built_in)
