"""A board's tasks from offer to result, by the rules of section 10 of the protocol.

offer -> queued -> running -> one Result, remembered
   |-> refused     either of these -> cancelled: forgotten without a Result
"""

from micropython import const

from . import codes
from .voice import RUN, Voice

SLOTS = const(1)
MAX_REMEMBERED = const(12)
MAX_REMEMBERED_BYTES = const(2048)
MAX_WAITING = const(8)
_CANCELLED_KEPT_MS = const(60000)
_SENT_AGAIN_MS = const(60000)
_LATE_COPY_MS = const(30000)


class Held:
    """A task that was taken and is not answered yet."""

    def __init__(self, buffer: bytearray) -> None:
        self.buffer = buffer
        self.size = 0
        self.epoch = 0
        self.attempt = 0
        self.deadline_ms = 0

    def take(self, task_id: bytes, sha256: bytes, content: memoryview, now_ms: int) -> None:
        """Begin anew with another task; its inputs are copied."""
        self.task_id = task_id
        self.sha256 = sha256
        self.size = len(content)
        self.buffer[: self.size] = content
        self.accepted_ms = now_ms
        self.started_ms = 0
        self.running = False
        self.gone = False

    def content(self) -> memoryview:
        """The inputs as they came."""
        return memoryview(self.buffer)[: self.size]


class Ended:
    """How an attempt ended."""

    def __init__(
        self, held_id: bytes, epoch: int, attempt: int, ended_ms: int, until_ms: int
    ) -> None:
        self.task_id = held_id
        self.epoch = epoch
        self.attempt = attempt
        self.ended_ms = ended_ms
        self.until_ms = until_ms
        self.result: tuple | None = None
        self.repeatable = True

    def size_bytes(self) -> int:
        """What its content takes."""
        return len(self.result[3]) if self.result else 0


class Tasks:
    """Held tasks, ended tasks, and results on their way. No I/O, no clock.

    Args:
        voice: where actions go.
        models: SHA-256 of the models held; kept up to date by the owner.
        max_content_bytes: the largest inputs that one message can carry.
    """

    def __init__(self, voice: Voice, models: list, max_content_bytes: int) -> None:
        self.held: dict = {}
        self.running = None
        self._voice = voice
        self._models = models
        # Taken once: inputs of as many tasks as are ever held.
        self._free = [Held(bytearray(max_content_bytes)) for _ in range(SLOTS + 1)]
        self._queue: list = []
        self._ended: list = []
        self._waiting: list = []

    # --- offers --------------------------------------------------------------------------------

    def offered(
        self, sha256: bytes, is_tiny: bool, offer: list, epoch: int, accepting: bool, now_ms: int
    ) -> None:
        """Answer, take over, accept or refuse one offer."""
        task_id, attempt, remaining_ms, _, content = offer[:5]
        if epoch < self._voice.epoch:
            text = "epoch {} is over, this node obeys {}".format(epoch, self._voice.epoch)
            self._answer(task_id, attempt, epoch, codes.REFUSED, codes.STALE_EPOCH, text)
            return
        held = self.held.get(task_id)
        if held is not None:
            if (epoch, attempt) > (held.epoch, held.attempt):
                held.epoch, held.attempt = epoch, attempt
                held.deadline_ms = now_ms + remaining_ms
            return
        known = self._known(task_id, now_ms)
        if known is not None:
            newer = (epoch, attempt) > (known.epoch, known.attempt)
            if not (newer and known.repeatable):
                if known.result is None:
                    return
                if newer:
                    known.epoch, known.attempt = epoch, attempt
                if (epoch, attempt) == (known.epoch, known.attempt):
                    self._send(known)
                return
        if remaining_ms == 0:
            text = "the deadline had passed on arrival"
            self._answer(task_id, attempt, epoch, codes.EXPIRED, codes.DEADLINE, text)
        elif not accepting:
            self._refuse(offer, epoch, codes.DRAINING, "the node is draining")
            self._remember_refusal(offer, epoch, now_ms)
        elif not is_tiny:
            self._refuse(offer, epoch, codes.UNSUPPORTED_FORMAT, "this board runs tiny models")
        elif sha256 not in self._models:
            self._refuse(offer, epoch, codes.MODEL_NOT_HELD, "the model was not delivered here")
        elif not self._free:
            text = "the node holds {} tasks already".format(len(self.held))
            self._refuse(offer, epoch, codes.BUSY, text)
            self._remember_refusal(offer, epoch, now_ms)
        elif isinstance(content, tuple):
            text = "this board takes inputs only inside the message"
            self._refuse(offer, epoch, codes.CONTENT_UNAVAILABLE, text)
        else:
            self._forget(task_id)
            held = self._free.pop()
            held.take(task_id, sha256, content, now_ms)
            held.epoch, held.attempt = epoch, attempt
            held.deadline_ms = now_ms + remaining_ms
            self.held[task_id] = held
            self._queue.append(held)

    def _refuse(self, offer: list, epoch: int, code: int, text: str) -> None:
        self._answer(offer[0], offer[1], epoch, codes.REFUSED, code, text)

    def _remember_refusal(self, offer: list, epoch: int, now_ms: int) -> None:
        """A copy of a refused offer may find room here when the task has gone elsewhere."""
        if offer[3] & codes.AT_MOST_ONCE:
            self._ended = [ended for ended in self._ended if ended.task_id != offer[0]]
            self._remember(Ended(offer[0], epoch, offer[1], now_ms, now_ms + _LATE_COPY_MS))

    def _answer(
        self, task_id: bytes, attempt: int, epoch: int, status: int, code: int, text: str
    ) -> None:
        self._put((task_id, attempt, epoch, (status, code, 0, text.encode(), 0)))

    def cancelled(self, task_id: bytes, attempt: int, now_ms: int) -> None:
        """Forget an attempt; nothing is answered."""
        mark = (self._voice.epoch, attempt)
        held = self.held.get(task_id)
        if held is not None:
            if (held.epoch, held.attempt) > mark:
                return
            self._leave(held)
        else:
            known = self._known(task_id, now_ms)
            if known is not None and (known.epoch, known.attempt) > mark:
                return
        self._forget(task_id)
        self._remember(Ended(task_id, mark[0], attempt, now_ms, now_ms + _CANCELLED_KEPT_MS))

    # --- running -------------------------------------------------------------------------------

    def dispatch(self, now_ms: int) -> None:
        """Begin what waits, if nothing runs."""
        while self._queue and self.running is None:
            held = self._queue.pop(0)
            if held.deadline_ms <= now_ms:
                text = "the deadline passed while the task was queued on the node"
                self.end(held, codes.EXPIRED, codes.DEADLINE, text.encode(), 0, now_ms)
            elif held.sha256 not in self._models:
                cause = b"the model was replaced"
                self.end(held, codes.REFUSED, codes.MODEL_NOT_HELD, cause, 0, now_ms)
            else:
                held.running = True
                held.started_ms = now_ms
                self.running = held
                self._voice.do(RUN, held)

    def ran(self, held: Held, code: int, content: bytes, run_us: int, now_ms: int) -> None:
        """A run is over: `content` is its outputs, or with a code the cause."""
        self.running = None
        if held.gone:
            self._free.append(held)
            return
        if code == codes.NONE:
            self._voice.has_run(run_us)
        status = codes.FAILED if code else codes.DONE
        self.end(held, status, code, content, run_us, now_ms)

    def end(
        self, held: Held, status: int, code: int, content: bytes, run_us: int, now_ms: int
    ) -> None:
        """Answer a held task and remember the answer."""
        started_ms = held.started_ms or now_ms
        held.running = False
        self._leave(held)
        until_ms = max(held.deadline_ms, now_ms + codes.HEARTBEAT_INTERVAL_MS)
        ended = Ended(held.task_id, held.epoch, held.attempt, now_ms, until_ms)
        queue_us = max(0, started_ms - held.accepted_ms) * 1000
        ended.result = (status, code, run_us, content, queue_us)
        ended.repeatable = 0 < code < codes.FIRST_FINAL_CODE
        self._remember(ended)
        self._send(ended)

    def _leave(self, held: Held) -> None:
        del self.held[held.task_id]
        if held in self._queue:
            self._queue.remove(held)
        if held.running:
            # Its buffer is in use until the run is over.
            held.gone = True
        else:
            self._free.append(held)

    # --- memory --------------------------------------------------------------------------------

    def _known(self, task_id: bytes, now_ms: int):
        for ended in self._ended:
            if ended.task_id == task_id and ended.until_ms > now_ms:
                return ended
        return None

    def _forget(self, task_id: bytes) -> None:
        self._ended = [ended for ended in self._ended if ended.task_id != task_id]
        self._waiting = [waiting for waiting in self._waiting if waiting[0] != task_id]

    def _remember(self, ended: Ended) -> None:
        memory = self._ended
        memory.append(ended)
        total = sum([other.size_bytes() for other in memory])
        while len(memory) > 1 and (len(memory) > MAX_REMEMBERED or total > MAX_REMEMBERED_BYTES):
            total -= memory.pop(0).size_bytes()

    def forget_all(self) -> None:
        """Drop all that is held and remembered; nothing is answered."""
        for held in list(self.held.values()):
            self._leave(held)
        self._ended = []
        self._waiting = []

    # --- results -------------------------------------------------------------------------------

    def _send(self, ended: Ended) -> None:
        self._put((ended.task_id, ended.attempt, ended.epoch, ended.result))

    def _put(self, waiting: tuple) -> None:
        for index, other in enumerate(self._waiting):
            if other[0] == waiting[0]:
                if (other[2], other[1]) <= (waiting[2], waiting[1]):
                    self._waiting[index] = waiting
                return
        if len(self._waiting) >= MAX_WAITING:
            # The coordinator will ask for it: no heartbeat lists it.
            self._waiting.pop(0)
        self._waiting.append(waiting)

    def send_results(self) -> None:
        """Publish what waits, if anyone hears it."""
        if not self._voice.up or not self._waiting:
            return
        for task_id, attempt, epoch, (status, code, run_us, content, queue_us) in self._waiting:
            result = (task_id, attempt, epoch, status, code, content, run_us, queue_us)
            self._voice.publish(codes.RESULTS, (result,))
        self._waiting = []

    def send_again(self, now_ms: int) -> None:
        """Repeat what went to a broker or coordinator that was about to die."""
        recent = [e for e in self._ended if e.result and e.ended_ms > now_ms - _SENT_AGAIN_MS]
        for ended in recent[-(SLOTS + 1) :]:
            self._send(ended)

    def expire(self, now_ms: int) -> None:
        """End what has waited too long, forget what nobody can ask for any more."""
        for held in list(self.held.values()):
            if not held.running and held.deadline_ms <= now_ms:
                text = "the deadline passed while the task was queued on the node"
                self.end(held, codes.EXPIRED, codes.DEADLINE, text.encode(), 0, now_ms)
        self._ended = [ended for ended in self._ended if ended.until_ms > now_ms]

    def give_back_all(self, now_ms: int) -> None:
        """The node stops: end all that is held."""
        for held in list(self.held.values()):
            status = codes.FAILED if held.running else codes.REFUSED
            text = b"the node stopped before the task was finished"
            self.end(held, status, codes.DRAINING, text, 0, now_ms)
