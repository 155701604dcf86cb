"""Models fed by a board's own sensors: the mesh's orders to short handles, readings back."""

from collections.abc import Callable, Mapping

from maille_node.errors import TaskProblem
from maille_node.gateway.translate import mesh_outputs
from maille_protocol import ErrorCode, Message, Reading, Readings, SenseOrder, topics
from maille_protocol.codes import SenseCommand
from maille_protocol.serial import messages as board
from maille_protocol.serial.messages import SensorRecord, ToBoard
from maille_protocol.tiny import Model
from maille_protocol.topics import Topic

_MAX_SENSES = 16


class Senses:
    """The senses of one start of a board."""

    def __init__(
        self,
        tell: Callable[[ToBoard], None],
        model_of: Callable[[bytes], Model | None],
        speak: Callable[[Topic, Message], None],
    ) -> None:
        """`model_of` gives a model whose artefact is known."""
        self._tell = tell
        self._model_of = model_of
        self._speak = speak
        self._orders: dict[int, tuple[SenseOrder, int]] = {}
        """Order and the sensor's number, by handle."""
        self._last_handle = 0

    @property
    def running(self) -> tuple[int, ...]:
        """The mesh's numbers of those that run."""
        return tuple(order.sense for order, _ in self._orders.values())

    def order(
        self, order: SenseOrder, slots: Mapping[bytes, int], sensors: Mapping[int, SensorRecord]
    ) -> None:
        """Start, change or stop a sense."""
        handle = self._handle_of(order.sense)
        if order.command is SenseCommand.STOP:
            if handle is not None:
                del self._orders[handle]
                self._tell(board.StopSense(handle))
            return
        sensor = next((key for key, record in sensors.items() if record.name == order.sensor), None)
        if order.sha256 is None or order.sha256 not in slots:
            self._fault(order.sense, ErrorCode.MODEL_NOT_HELD, "the board does not hold the model")
        elif sensor is None:
            names = ", ".join(record.name for record in sensors.values()) or "none"
            text = f"the board has no sensor {order.sensor!r}; it has: {names}"
            self._fault(order.sense, ErrorCode.NO_SUCH_SENSOR, text)
        elif handle is None and len(self._orders) >= _MAX_SENSES:
            self._fault(order.sense, ErrorCode.NO_SPACE, f"{_MAX_SENSES} senses run already")
        elif handle is None or self._orders[handle] != (order, sensor):
            if handle is None:
                self._last_handle = handle = self._last_handle % 0xFFFF + 1
            self._orders[handle] = (order, sensor)
            self._start(handle, slots)

    def resume(self, slots: Mapping[bytes, int]) -> None:
        """The board is back and knows no senses."""
        for handle in list(self._orders):
            self._start(handle, slots)

    def refused(self, handle: int, error: ErrorCode) -> None:
        """The board cannot do it."""
        known = self._orders.pop(handle, None)
        if known is not None:
            self._fault(known[0].sense, error, f"the board answers {error.name}")

    def reading(self, reading: board.SenseReading) -> None:
        """The board ran a model on a sensor."""
        known = self._orders.get(reading.sense)
        if known is None or known[0].sha256 is None:
            # It crossed an order to stop on the way.
            return
        code, content = reading.code, b"".join(reading.outputs[:1])
        if code is ErrorCode.NONE:
            try:
                content = self._tensors(known[0].sha256, reading.outputs)
            except TaskProblem as problem:
                code, content = problem.code, problem.text.encode()
        elif not content:
            content = f"the board answers {code.name}".encode()
        self._say(
            Reading(known[0].sense, reading.counter, reading.age_ms, code, content, reading.run_us)
        )

    def _tensors(self, sha256: bytes, outputs: tuple[bytes, ...]) -> bytes:
        model = self._model_of(sha256)
        if model is None:
            text = "what the model gives is not known: its artefact could not be had"
            raise TaskProblem(ErrorCode.ARTEFACT_UNAVAILABLE, text)
        return mesh_outputs(model, outputs)

    def _start(self, handle: int, slots: Mapping[bytes, int]) -> None:
        order, sensor = self._orders[handle]
        slot = slots.get(order.sha256 or b"")
        if slot is None:
            self.refused(handle, ErrorCode.MODEL_NOT_HELD)
        else:
            self._tell(board.Sense(handle, slot, sensor, order.interval_ms, order.mode))

    def _handle_of(self, sense: int) -> int | None:
        for handle, (order, _) in self._orders.items():
            if order.sense == sense:
                return handle
        return None

    def _fault(self, sense: int, code: ErrorCode, text: str) -> None:
        self._say(Reading(sense, 0, 0, code, text.encode(), 0))

    def _say(self, reading: Reading) -> None:
        self._speak(topics.NODE_READINGS, Readings((reading,)))
