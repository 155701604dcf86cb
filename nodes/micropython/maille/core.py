"""The decisions of a board: presence, orders, epochs, what runs when. No I/O, no clock, no chance.

`Core.handle` is the only mutator: what happened in, what must be done out (see `voice` for the
actions). The worker does one thing at a time: a task, a sense, a measurement or the end of a
delivery; it is busy until the event that answers its action.
"""

from micropython import const

from . import codes
from .delivery import MAX_MODELS, Delivery
from .senses import Senses
from .tasks import SLOTS, Tasks
from .voice import MEASURE, SENSE, STOP, Voice

# Events, with their arguments.
TICK = const(0)
HEARD = const(1)  # message type, (boot, seq, epoch, body)
LINK_UP = const(2)
LINK_DOWN = const(3)
RAN = const(4)  # held, code, content, run_us
SENSED = const(5)  # sense, code, content, run_us, age_ms
MEASURED = const(6)  # kernels
STORED = const(7)  # offset
FINISHED = const(8)  # models, run_us
FAILED = const(9)  # code, text, whether the worker reports it
HOLDS = const(10)  # models
FAULT = const(11)
LEAVE = const(12)  # reason
FORGET = const(13)
"""The session with a gateway is over, and its tasks and senses with it."""


class Core:
    """One board's decisions; see the module's text.

    Args:
        boot: random and not 0, drawn when the process starts.
        facts: [name, software, max_message_bytes, measured, kernels, max_model_bytes,
            arena_bytes, resets, reset cause], where measured and kernels are as in the messages.
        sensors: numbers in one reading (0: as many as wanted), by the sensor's name.
        jitter: gives numbers from -1 to 1.
        free_memory: gives the bytes that are free now.
        now_ms: the time of the start.
    """

    def __init__(
        self, boot: int, facts: list, sensors: dict, jitter, free_memory, now_ms: int
    ) -> None:
        name, software, max_message_bytes, measured = facts[:4]
        info = [codes.KIND_MICROPYTHON, name, software, SLOTS, (codes.FORMAT_TINY,)]
        info += [max_message_bytes, measured, None]
        self._facts = facts
        self._free_memory = free_memory
        self._voice = Voice(boot, info, jitter, now_ms)
        self._senses = Senses(self._voice, sensors)
        # A chunk's envelope takes at most 84 bytes.
        chunk_bytes = max_message_bytes - 84
        self._delivery = Delivery(self._voice, facts[5], chunk_bytes, self._senses.uses)
        self._tasks = Tasks(self._voice, self._delivery.sha256s, max_message_bytes)
        self._online = False
        self._drained = False
        self._order_boot = 0
        # Of the last order: a copy of an earlier one must not undo it.
        self._order_seq = 0
        self._leaving = False
        self._busy = False
        self._measure_nonce = -1
        self.stopped = False

    # --- what the shell may ask ----------------------------------------------------------------

    def will(self) -> tuple:
        """(type, boot, seq, epoch, body) of what the broker is to publish when the board vanishes."""
        body = (codes.STATE_LOST, "the connection broke")
        return (codes.NODE_STATUS, self._voice.boot, 0, 0, body)

    @property
    def boot(self) -> int:
        """The number of this process."""
        return self._voice.boot

    @property
    def models(self) -> list:
        """What is held."""
        return self._delivery.models

    def holds(self, task_id) -> bool:
        """Whether that task is held and not answered yet."""
        return task_id in self._tasks.held

    def wake_at_ms(self) -> int:
        """When the next TICK is due at the latest."""
        at_ms = self._voice.heartbeat_at_ms
        want_ms = self._delivery.want_at_ms
        if want_ms:
            at_ms = min(at_ms, want_ms)
        sense_ms = None if self._busy else self._senses.next_ms()
        return at_ms if sense_ms is None else min(at_ms, sense_ms)

    # --- the one mutator -----------------------------------------------------------------------

    def handle(self, kind: int, now_ms: int, *what) -> list:
        """Take in what happened; what must be done now, in this order."""
        if self.stopped:
            return []
        voice, tasks, delivery = self._voice, self._tasks, self._delivery
        if kind == HEARD:
            self._hear(what[0], what[1], now_ms)
        elif kind == TICK:
            tasks.expire(now_ms)
            delivery.tick(now_ms)
            if now_ms >= voice.heartbeat_at_ms:
                self._heartbeat(now_ms, False)
        elif kind == RAN:
            self._busy = False
            tasks.ran(what[0], what[1], what[2], what[3], now_ms)
        elif kind == SENSED:
            self._busy = False
            self._senses.sensed(*what)
        elif kind == LINK_UP:
            voice.up = True
            self._birth(now_ms)
        elif kind == LINK_DOWN:
            voice.up = False
        elif kind == STORED:
            delivery.stored(what[0], now_ms)
        elif kind == FINISHED:
            self._busy = False
            delivery.finished(what[0], what[1])
            self._senses.keep(delivery.sha256s)
            self._say_board()
        elif kind == FAILED:
            self._busy = self._busy and not what[2]
            delivery.failed(what[0], what[1])
        elif kind == HOLDS:
            delivery.hold(what[0])
        elif kind == MEASURED:
            self._busy = False
            self._facts[4] = what[0]
            delivery.calibrated(self._measure_nonce)
            self._measure_nonce = -1
            self._say_board()
        elif kind == FAULT:
            voice.faults += 1
        elif kind == FORGET:
            tasks.forget_all()
            self._senses.all.clear()
        elif kind == LEAVE:
            self._leaving = True
            voice.publish(codes.NODE_STATUS, (codes.STATE_DRAINING, what[0]))
        self._dispatch(now_ms)
        tasks.send_results()
        if self._leaving and not tasks.held:
            self.stopped = True
            voice.publish(codes.NODE_STATUS, (codes.STATE_DISCONNECTED, "stopped"))
            voice.do(STOP, "everything held was finished")
        return voice.taken()

    def _dispatch(self, now_ms: int) -> None:
        """Give the worker what comes first: tasks, the end of a delivery, orders, senses."""
        if self._busy:
            return
        tasks = self._tasks
        tasks.dispatch(now_ms)
        if tasks.running is not None:
            self._busy = True
        elif self._delivery.complete:
            self._busy = True
            self._delivery.finish()
        elif self._measure_nonce >= 0:
            self._busy = True
            self._voice.do(MEASURE)
        else:
            sense = self._senses.due(now_ms)
            if sense is not None:
                self._busy = True
                self._voice.do(SENSE, sense)

    # --- messages ------------------------------------------------------------------------------

    def _hear(self, kind: int, envelope: tuple, now_ms: int) -> None:
        voice, tasks = self._voice, self._tasks
        boot, seq, epoch, body = envelope
        newer = epoch > voice.epoch
        if newer:
            voice.epoch = epoch
        if kind == codes.OFFERS:
            model, offers = body
            accepting = not self._leaving and not self._drained
            is_tiny = model[4] == codes.FORMAT_TINY
            for offer in offers:
                if offer[3] & codes.AT_MOST_ONCE and offer[5] != voice.boot:
                    # Another process with this id may run it; a refusal would say nothing of that.
                    continue
                tasks.offered(model[2], is_tiny, offer, epoch, accepting, now_ms)
        elif epoch < voice.epoch:
            return
        elif kind == codes.CANCEL:
            for task_id, attempt in body:
                tasks.cancelled(task_id, attempt, now_ms)
        elif kind == codes.CONTROL:
            # A gateway's session gives orders in order, without numbers.
            if boot != self._order_boot or seq > self._order_seq or not seq:
                self._order_boot, self._order_seq = boot, seq
                self._ordered(body, now_ms)
        elif kind == codes.COORDINATOR_STATE:
            self._coordinator(body, newer, now_ms)
        elif kind == codes.MODEL_ORDER:
            self._model_ordered(body, now_ms)
        elif kind == codes.CHUNK:
            self._delivery.chunk(body[0], body[1], body[2])
        elif kind == codes.SENSE_ORDER:
            self._sense_ordered(body, now_ms)
        if newer:
            # A coordinator that has just started learns at once what runs here.
            self._heartbeat(now_ms, True)

    def _coordinator(self, body: list, newer: bool, now_ms: int) -> None:
        voice = self._voice
        online = body[0]
        if online:
            if newer or not self._online:
                voice.note("coordinator found, epoch {}".format(voice.epoch))
            self._tasks.send_again(now_ms)
        elif self._online:
            voice.note("the coordinator is gone; waiting for it")
        self._online = online

    def _ordered(self, body: list, now_ms: int) -> None:
        command, boot, reason = body
        voice = self._voice
        if boot not in (0, voice.boot):
            return
        if command == codes.REBIRTH:
            self._birth(now_ms)
        elif command == codes.STOP_DUPLICATE:
            if boot == voice.boot:
                self.stopped = True
                text = "another node with this id is in the mesh ({}): give one of them another id"
                # No farewell on the state topic: it belongs to the other node.
                voice.do(STOP, text.format(reason))
        elif (command == codes.DRAIN) != self._drained and not self._leaving:
            self._drained = command == codes.DRAIN
            voice.note("{}: {}".format("draining" if self._drained else "resuming", reason))
            voice.publish(codes.NODE_STATUS, (self._state(), reason))

    def _model_ordered(self, body: list, now_ms: int) -> None:
        command, model, nonce = body
        if command == codes.REPORT:
            self._say_board()
        elif command == codes.CALIBRATE:
            self._measure_nonce = nonce
        elif model is None:
            self._voice.faults += 1
        elif command == codes.DEPLOY:
            self._delivery.deploy(model, nonce, now_ms)
        else:
            self._senses.stop_model(model[2])
            if self._delivery.evict(model[2], nonce):
                self._say_board()

    def _sense_ordered(self, body: list, now_ms: int) -> None:
        senses = self._senses
        if body[0] == codes.SENSE_STOP:
            changed = senses.stop(body[1])
        elif body[2] is None:
            self._voice.faults += 1
            return
        else:
            changed = senses.start(body, self._delivery.held(body[2]), now_ms)
        if changed:
            self._say_board()

    # --- presence ------------------------------------------------------------------------------

    def _state(self) -> int:
        draining = self._leaving or self._drained
        return codes.STATE_DRAINING if draining else codes.STATE_READY

    def _heartbeat(self, now_ms: int, everything: bool) -> None:
        tasks = self._tasks
        running = 0 if tasks.running is None or tasks.running.gone else 1
        self._voice.heartbeat(tasks.held, running, self._delivery.sha256s, now_ms, everything)

    def _birth(self, now_ms: int) -> None:
        voice = self._voice
        voice.publish(codes.NODE_STATUS, (codes.STATE_INIT, ""))
        voice.publish(codes.NODE_INFO, voice.info)
        self._say_board()
        self._heartbeat(now_ms, True)
        voice.publish(codes.NODE_STATUS, (self._state(), ""))

    def _say_board(self) -> None:
        facts = self._facts
        body = (
            [(name, values) for name, values in self._senses.sensors.items()],
            [(model.name, model.sha256, True) for model in self._delivery.models],
            facts[4],
            codes.TINY_FORMAT_VERSION,
            MAX_MODELS,
            facts[5],
            facts[6],
            self._free_memory(),
            facts[7],
            facts[8],
            self._voice.faults,
            list(self._senses.all),
        )
        self._voice.publish(codes.BOARD_STATE, body)
