"""A node's tasks from offer to result.

    offer -> [FETCHING] -> QUEUED -> RUNNING -> [UPLOADING] -> one Result, remembered
       |-> refused            any of these -> cancelled: forgotten without a Result

An offer that comes again takes over the held task (newer attempt or epoch), is answered from
memory (the task has ended) or is passed over (a late copy).
"""

from collections.abc import Iterable
from dataclasses import replace

from maille_node import events
from maille_node.memory import FinishedMemory, Remembered
from maille_node.outbox import Outbox
from maille_node.voice import Voice
from maille_node.work import Held, ModelWork, Stage, oldest_ready
from maille_protocol import (
    ErrorCode,
    ModelFormat,
    ModelReference,
    Offer,
    Reference,
    Result,
    Results,
    ResultStatus,
    TaskFlag,
    topics,
)
from maille_protocol.contents import Content
from maille_protocol.limits import (
    MAX_INLINE_CONTENT_BYTES,
    MAX_TEXT_CHARACTERS,
)

MAX_REMEMBERED = 20_000
MAX_REMEMBERED_BYTES = 32 * 1024 * 1024
MAX_WAITING = 10_000
MAX_WAITING_BYTES = 32 * 1024 * 1024
MAX_UPLOADING_BYTES = 256 * 1024 * 1024
MAX_KNOWN_MODELS = 256
CANCELLED_KEPT_MS = 60_000.0
LATE_COPY_MS = 30_000.0
"""How much later than the offer itself a copy of it may come."""
SENT_AGAIN_MS = 60_000.0
"""Results younger than this are repeated to a coordinator that appears (again)."""

_EXPIRED_PER_TICK = 5_000
_TASK_FORMATS = frozenset({ModelFormat.ONNX, ModelFormat.TINY})


class NodeTasks:
    """Held tasks, ended tasks and results on their way. No I/O, no clock.

    Args:
        voice: where actions go.
        workers: batches that may run at the same time.
        max_batch: tasks in one batch.
    """

    def __init__(self, voice: Voice, *, workers: int, max_batch: int) -> None:
        self.held: dict[bytes, Held] = {}
        self.warm: dict[bytes, None] = {}
        """SHA-256 of the models in memory, the newest last."""
        self._voice = voice
        self._workers = workers
        self._max_batch = max_batch
        self._works: dict[bytes, ModelWork] = {}
        self._batches: dict[int, list[Held]] = {}
        self._last_batch = 0
        self._uploading_bytes = 0
        self._memory = FinishedMemory(MAX_REMEMBERED, MAX_REMEMBERED_BYTES)
        self._outbox = Outbox(MAX_WAITING, MAX_WAITING_BYTES)
        self._reported_drops = 0

    @property
    def capacity(self) -> int:
        """Tasks held at most."""
        return self._voice.info.slots + 1

    # --- offers --------------------------------------------------------------------------------

    def offered(
        self, model: ModelReference, offer: Offer, now_ms: float, *, accepting: bool
    ) -> None:
        """Answer, take over, accept or refuse an offer of the epoch obeyed."""
        epoch = self._voice.epoch
        held = self.held.get(offer.task_id)
        if held is not None:
            if (epoch, offer.attempt) > (held.epoch, held.attempt):
                held.epoch, held.attempt = epoch, offer.attempt
                held.deadline_ms = now_ms + offer.remaining_ms
            return
        known = self._memory.get(offer.task_id, now_ms)
        if known is not None:
            newer = (epoch, offer.attempt) > (known.epoch, known.attempt)
            if not (newer and known.repeatable):
                if known.result is None:
                    return
                if newer:
                    result = replace(known.result, attempt=offer.attempt, epoch=epoch)
                    known = replace(known, attempt=offer.attempt, epoch=epoch, result=result)
                    self._memory.keep(offer.task_id, known)
                if (epoch, offer.attempt) == (known.epoch, known.attempt) and known.result:
                    self._outbox.put(known.result)
                return
        if offer.remaining_ms == 0:
            self._answer_offer(
                offer,
                ResultStatus.EXPIRED,
                ErrorCode.DEADLINE,
                "the deadline had passed on arrival",
            )
        elif not accepting:
            self.refuse(offer, epoch, ErrorCode.DRAINING, "the node is draining")
            self._remember_refusal(offer, now_ms)
        elif model.format not in self._voice.info.formats or model.format not in _TASK_FORMATS:
            formats = " and ".join(known.name for known in self._voice.info.formats)
            text = f"this node runs {formats} models, {model.name} is {model.format.name}"
            self.refuse(offer, epoch, ErrorCode.UNSUPPORTED_FORMAT, text)
        elif len(self.held) >= self.capacity:
            text = f"the node holds {len(self.held)} tasks already"
            self.refuse(offer, epoch, ErrorCode.BUSY, text)
            self._remember_refusal(offer, now_ms)
        else:
            self._accept(model, offer, now_ms)

    def _accept(self, model: ModelReference, offer: Offer, now_ms: float) -> None:
        held = Held(
            offer.task_id,
            offer.attempt,
            self._voice.epoch,
            model,
            offer.content,
            now_ms,
            now_ms + offer.remaining_ms,
            Stage.QUEUED,
            at_most_once=bool(offer.flags & TaskFlag.AT_MOST_ONCE),
        )
        self.held[offer.task_id] = held
        self._memory.forget(offer.task_id)
        # A refusal of an earlier offer that still waits to be sent has become wrong.
        self._outbox.discard(offer.task_id)
        work = self._works.get(model.sha256)
        if work is None:
            self._forget_idle_works()
            work = self._works[model.sha256] = ModelWork(model)
        if not work.held:
            self._voice.do(events.Prepare(model))
        work.held += 1
        if isinstance(offer.content, Reference):
            held.stage = Stage.FETCHING
            self._voice.do(events.FetchInput(offer.task_id, offer.content))
        else:
            work.queue.append(held)

    def _remember_refusal(self, offer: Offer, now_ms: float) -> None:
        """A copy of a refused offer may find room here when the task has gone elsewhere."""
        if not offer.flags & TaskFlag.AT_MOST_ONCE:
            return
        known = Remembered(
            self._voice.epoch,
            offer.attempt,
            None,
            repeatable=True,
            ended_ms=now_ms,
            forget_at_ms=now_ms + LATE_COPY_MS,
        )
        self._memory.keep(offer.task_id, known)

    def refuse(self, offer: Offer, epoch: int, code: ErrorCode, text: str) -> None:
        """Answer an offer without accepting it."""
        self._outbox.put(
            Result(
                offer.task_id, offer.attempt, epoch, ResultStatus.REFUSED, code, _text(text), 0, 0
            )
        )

    def _answer_offer(self, offer: Offer, status: ResultStatus, code: ErrorCode, text: str) -> None:
        self._outbox.put(
            Result(offer.task_id, offer.attempt, self._voice.epoch, status, code, _text(text), 0, 0)
        )

    def cancelled(self, task_id: bytes, attempt: int, now_ms: float) -> None:
        """Forget an attempt; nothing is answered."""
        held = self.held.get(task_id)
        if held is not None:
            if (held.epoch, held.attempt) > (self._voice.epoch, attempt):
                return
            self._leave(held)
            if held.stage is Stage.RUNNING:
                batch = self._batches.get(held.batch, [])
                if all(other.gone for other in batch):
                    self._voice.do(events.AbortBatch(held.batch))
        else:
            known = self._memory.get(task_id, now_ms) or self._outbox.get(task_id)
            if known is not None and (known.epoch, known.attempt) > (self._voice.epoch, attempt):
                return
        self._outbox.discard(task_id)
        # Remembered so that a late copy of the offer does not start what nobody wants.
        self._memory.keep(
            task_id,
            Remembered(
                self._voice.epoch,
                attempt,
                None,
                repeatable=True,
                ended_ms=now_ms,
                forget_at_ms=now_ms + CANCELLED_KEPT_MS,
            ),
        )

    def model_ready(self, sha256: bytes, *, joinable: bool) -> None:
        """A model is in memory: its tasks may run."""
        self.warm[sha256] = None
        work = self._works.get(sha256)
        if work is not None:
            work.ready = True
            work.joinable = joinable

    def model_failed(self, sha256: bytes, code: ErrorCode, text: str, now_ms: float) -> None:
        """A model cannot be had: its tasks end."""
        for held in [held for held in self.held.values() if held.model.sha256 == sha256]:
            self._fail(held, code, text, now_ms)

    def input_ready(self, task_id: bytes) -> None:
        """An input is on disk: its task may run."""
        held = self.held.get(task_id)
        if held is not None and held.stage is Stage.FETCHING:
            held.stage = Stage.QUEUED
            self._works[held.model.sha256].queue.append(held)

    def input_failed(self, task_id: bytes, code: ErrorCode, text: str, now_ms: float) -> None:
        """An input cannot be had: its task ends."""
        held = self.held.get(task_id)
        if held is not None and held.stage is Stage.FETCHING:
            self._fail(held, code, text, now_ms)

    # --- running -------------------------------------------------------------------------------

    def dispatch(self, now_ms: float) -> None:
        """Give free workers what has waited longest."""
        workers = self._workers
        while len(self._batches) < workers and self._uploading_bytes < MAX_UPLOADING_BYTES:
            work = oldest_ready(self._works.values())
            if work is None:
                return
            batch: list[Held] = []
            for held in work.take(self._max_batch, workers - len(self._batches)):
                if held.deadline_ms <= now_ms:
                    self._expire(held, now_ms)
                else:
                    held.stage = Stage.RUNNING
                    held.started_ms = now_ms
                    batch.append(held)
            if not batch:
                continue
            self._last_batch += 1
            for held in batch:
                held.batch = self._last_batch
            self._batches[self._last_batch] = batch
            items = tuple([events.BatchItem(held.task_id, held.content) for held in batch])
            self._voice.do(events.RunBatch(self._last_batch, work.model.sha256, items))

    def batch_ended(self, event: events.BatchEnded, now_ms: float) -> None:
        """A worker is free: answer its tasks, or have large outputs delivered first."""
        batch = self._batches.pop(event.batch, [])
        ends = {end.task_id: end for end in event.ends}
        if batch:
            work = self._works.get(batch[0].model.sha256)
            if work is not None:
                work.joinable = event.joinable
                times_us = [end.run_us for end in event.ends if end.code is ErrorCode.NONE]
                if times_us:
                    work.measured(sum(times_us) / len(times_us))
        for held in batch:
            if held.gone:
                continue
            end = ends.get(held.task_id)
            if end is None:
                self._fail(held, ErrorCode.NODE_ERROR, "the run gave no result", now_ms)
                continue
            held.run_us = end.run_us
            if end.code is not ErrorCode.NONE:
                text = end.content[:MAX_TEXT_CHARACTERS]
                refused = end.refused and end.code.retryable
                status = ResultStatus.REFUSED if refused else ResultStatus.FAILED
                self._end(held, status, end.code, text, now_ms)
                continue
            self._voice.has_run(end.run_us)
            if len(end.content) > MAX_INLINE_CONTENT_BYTES:
                held.stage = Stage.UPLOADING
                held.upload_bytes = len(end.content)
                self._uploading_bytes += held.upload_bytes
                self._voice.do(events.Upload(held.task_id, end.content))
            else:
                self._end(held, ResultStatus.DONE, ErrorCode.NONE, end.content, now_ms)

    def uploaded(self, task_id: bytes, reference: Reference, now_ms: float) -> None:
        """An output lies at the coordinator: its task has ended."""
        held = self.held.get(task_id)
        if held is not None and held.stage is Stage.UPLOADING:
            self._end(held, ResultStatus.DONE, ErrorCode.NONE, reference, now_ms)

    def upload_failed(self, task_id: bytes, code: ErrorCode, text: str, now_ms: float) -> None:
        """An output could not be delivered: its task ends."""
        held = self.held.get(task_id)
        if held is not None and held.stage is Stage.UPLOADING:
            self._fail(held, code, text, now_ms)

    def _fail(self, held: Held, code: ErrorCode, text: str, now_ms: float) -> None:
        ran = held.stage in {Stage.RUNNING, Stage.UPLOADING}
        # Refused means: certainly not run, so that even an at-most-once task may go elsewhere.
        status = ResultStatus.REFUSED if code.retryable and not ran else ResultStatus.FAILED
        self._end(held, status, code, _text(text), now_ms)

    def _expire(self, held: Held, now_ms: float) -> None:
        text = _text("the deadline passed while the task was queued on the node")
        self._end(held, ResultStatus.EXPIRED, ErrorCode.DEADLINE, text, now_ms)

    def _end(
        self, held: Held, status: ResultStatus, code: ErrorCode, content: Content, now_ms: float
    ) -> None:
        started_ms = held.started_ms or now_ms
        result = Result(
            held.task_id,
            held.attempt,
            held.epoch,
            status,
            code,
            content,
            held.run_us,
            max(0, round((started_ms - held.accepted_ms) * 1000)),
        )
        self._leave(held)
        self._memory.keep(
            held.task_id,
            Remembered(
                held.epoch,
                held.attempt,
                result,
                repeatable=code is not ErrorCode.NONE and code.retryable,
                ended_ms=now_ms,
                # A copy of the offer may come later than its deadline would have it.
                forget_at_ms=max(held.deadline_ms, now_ms) + LATE_COPY_MS,
            ),
        )
        self._outbox.put(result)

    def _leave(self, held: Held) -> None:
        held.gone = True
        del self.held[held.task_id]
        self._uploading_bytes -= held.upload_bytes
        if isinstance(held.content, Reference):
            self._voice.do(events.ReleaseInput(held.task_id, held.content))
        work = self._works[held.model.sha256]
        work.held -= 1
        if not work.held:
            # What was measured stays known, so that the next burst is cut well from the start.
            work.ready = False
            work.queue.clear()
            self._voice.do(events.Release(held.model.sha256))

    def _forget_idle_works(self) -> None:
        if len(self._works) >= MAX_KNOWN_MODELS:
            self._works = {sha256: work for sha256, work in self._works.items() if work.held}

    # --- time, loss and the end ----------------------------------------------------------------

    def tick(self, now_ms: float) -> None:
        """End what has waited too long, forget what nobody can ask for any more."""
        for held in list(self.held.values()):
            if held.stage in {Stage.QUEUED, Stage.FETCHING} and held.deadline_ms <= now_ms:
                self._expire(held, now_ms)
        self._memory.expire(now_ms, _EXPIRED_PER_TICK)
        if self._outbox.dropped > self._reported_drops:
            count = self._outbox.dropped - self._reported_drops
            self._reported_drops = self._outbox.dropped
            self._voice.warn(
                f"{count} results could not be kept while disconnected; they will be asked again"
            )

    def give_back_all(self, now_ms: float) -> None:
        """The node stops: end all that is held, and the runs under way."""
        for held in list(self.held.values()):
            text = "the node stopped before the task was finished"
            self._fail(held, ErrorCode.DRAINING, text, now_ms)
        for batch in self._batches:
            self._voice.do(events.AbortBatch(batch))

    def not_published(self, results: Iterable[Result]) -> None:
        """Results that the link did not take wait for the next event."""
        self._outbox.put_back(results)

    def send_again(self, now_ms: float) -> None:
        """Repeat results that went to a broker or coordinator that was about to die.

        A coordinator never misses more of them than it may have given to this node.
        """
        if self._voice.up:
            self._outbox.put_back(self._memory.newest(self.capacity, now_ms - SENT_AGAIN_MS))

    def send_results(self) -> None:
        """Publish what waits, if anyone hears it."""
        if self._voice.up and len(self._outbox):
            for results in self._outbox.take_all():
                self._voice.publish(topics.NODE_RESULTS, Results(results), results)


def _text(text: str) -> bytes:
    return text[:MAX_TEXT_CHARACTERS].encode()
