"""The shell of language models: files read and cut in threads, tokens made text, actions done."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import asdict

from maille_coordinator.core import Core
from maille_coordinator.language import actions as wanted
from maille_coordinator.language import events as happened
from maille_coordinator.language.answers import Answer, answer_of
from maille_coordinator.language.core import LanguageCore
from maille_coordinator.language.model_files import LoadedModel
from maille_coordinator.language.node_watch import NodeWatch
from maille_coordinator.language.records import SessionStart
from maille_coordinator.language.requests import prompt_tokens, session_start
from maille_coordinator.language.service import (
    GenerateRequest,
    LanguageModelView,
    PlanView,
    TextPiece,
)
from maille_coordinator.language.shelf import ModelShelf
from maille_coordinator.language.slice_files import SliceFiles
from maille_coordinator.language.state import LanguageLimits
from maille_coordinator.language.surroundings import Surroundings
from maille_coordinator.language.views import model_view, plan_view, unread_view
from maille_coordinator.models import ModelsError
from maille_coordinator.placement import PlacementImpossible
from maille_coordinator.records import ModelRecord
from maille_coordinator.service import ServiceError
from maille_coordinator.slices import LanguageModelError
from maille_coordinator.store import StoredSession, StoreError
from maille_protocol import (
    Message,
    ModelFormat,
    Reference,
)

logger = logging.getLogger(__name__)

KEEP_ENDED_S = 600.0
RESUME_WITHIN_S = 60.0
_MAX_ANSWERS = 10_000
_STATUS = {
    "unknown_model": 404,
    "context_too_long": 400,
    "response_exists": 409,
    "queue_full": 429,
    "model_impossible": 503,
    "model_unavailable": 503,
    "cache_too_small": 507,
}


class LanguageService:
    """What `service.LanguageApi` promises. All calls belong into the coordinator's event loop."""

    def __init__(
        self, surroundings: Surroundings, slices: SliceFiles, limits: LanguageLimits
    ) -> None:
        self._around = surroundings
        self._slices = slices
        self._limits = limits
        self._shelf = ModelShelf(
            surroundings.artefacts, surroundings.catalogue, self._was_read, self._is_broken
        )
        self._work: set[asyncio.Task[None]] = set()
        self._answers: dict[str, Answer] = {}
        self._unmade: dict[happened.ModelKey, list[StoredSession]] = {}
        """Of the journal, until their tokeniser has been read."""
        self._watch = NodeWatch()
        self._timer: asyncio.TimerHandle | None = None
        self._core = LanguageCore(epoch=0, limits=limits)

    # --- life ------------------------------------------------------------------------------

    def open(self, epoch: int) -> None:
        """Read the journal, begin to read the models' files. StoreError."""
        self._core = LanguageCore(epoch=epoch, limits=self._limits)
        stored, stages = self._around.store.stored_sessions()
        restored = []
        for found in stored:
            start = found.start
            self._unmade.setdefault((start.model, start.version), []).append(found)
            if found.end is None:
                restored.append(happened.RestoredSession(start, found.tokens))
        rings = tuple(self._around.store.stored_rings())
        self._take(happened.Restored(tuple(restored), tuple(stages), rings))
        if restored:
            logger.info("restored %d open generations from the journal", len(restored))
        for record in self._around.catalogue.list():
            if record.format is ModelFormat.GGUF:
                self.add_model(record)

    def close(self) -> None:
        """Stop what runs."""
        if self._timer is not None:
            self._timer.cancel()
        self._shelf.close()
        for task in self._work:
            task.cancel()

    def prune(self) -> None:
        """Forget answers that ended a while ago."""
        oldest_s = time.monotonic() - KEEP_ENDED_S
        for name, answer in list(self._answers.items()):
            if answer.ended and answer.ended_s < oldest_s and not answer.readers:
                del self._answers[name]
        self._around.store.prune_sessions(int(self._around.now_ms() - KEEP_ENDED_S * 1000))

    # --- models ----------------------------------------------------------------------------

    def add_model(self, record: ModelRecord) -> None:
        """Read a model that the catalogue has."""
        self._shelf.read(record)

    def _was_read(self, loaded: LoadedModel) -> None:
        for found in self._unmade.pop(loaded.key, []):
            self._make_again(loaded, found)
        length = loaded.model.context_length
        self._take(happened.ModelAdded(loaded.key, loaded.shape, length, loaded.check_tokens))

    def _is_broken(self, key: happened.ModelKey) -> None:
        for found in self._unmade.pop(key, []):
            self._take(happened.SessionCancelled(found.start.session, "error"))

    def remove_model(self, name: str, version: int) -> bool:
        """Withdraw a model (version 0: all versions); whether there was one."""
        found = self._shelf.keys_of(name, version)
        for key in found:
            self._take(happened.ModelRemoved(key))
            loaded = self._shelf.remove(key)
            if loaded is not None and not self._around.catalogue.uses(loaded.record.sha256):
                self._slices.forget(loaded.record.sha256)
        return bool(found)

    def _make_again(self, loaded: LoadedModel, found: StoredSession) -> None:
        """An answer of an earlier run, for those who resume it."""
        answer = self._new_answer(loaded, found.start)
        for token in found.tokens:
            answer.add(token)
        if found.end is not None:
            end = found.end
            answer.end(end.finish, end.code, end.text, time.monotonic())
            return
        loop = asyncio.get_running_loop()
        loop.call_later(RESUME_WITHIN_S, self._cancel_unread, found.start.session)

    def _cancel_unread(self, response_id: str) -> None:
        answer = self._answers.get(response_id)
        if answer is not None and not answer.readers and not answer.ended:
            self._take(happened.SessionCancelled(response_id, "cancelled"))

    # --- the core --------------------------------------------------------------------------

    def observe(self, core: Core, heard: Iterable[tuple[str, int, Message]]) -> None:
        """Take note of what a round of the task core has changed, and of nodes' messages.

        Args:
            core: of the tasks.
            heard: node, boot number and message of what nodes said.
        """
        for event in self._watch.observe(core, heard):
            self._take(event)

    def broker_changed(self, *, connected: bool) -> None:
        """The coordinator's own connection went up or down."""
        self._take(happened.BrokerChanged(connected))

    def _take(self, event: happened.Event) -> None:
        actions = self._core.handle(event, self._around.now_ms())
        try:
            self._carry_out(actions)
        except StoreError as error:
            self._around.failed(error)

    def _carry_out(self, actions: Sequence[wanted.Action]) -> None:
        records = [action.record for action in actions if isinstance(action, wanted.WriteSession)]
        if records:
            self._around.store.commit_sessions(records)
        stopped: list[str] = []
        for action in actions:
            match action:
                case wanted.SendToStage(node, message):
                    self._around.send(action.topic, node, message)
                case wanted.TokenOut(session, index, token):
                    answer = self._answers.get(session)
                    # Tokens that the journal had not yet come again after a restart.
                    if answer is not None and index == answer.count and answer.add(token):
                        stopped.append(session)
                case wanted.SessionShared(session, count):
                    answer = self._answers.get(session)
                    if answer is not None:
                        answer.cached_tokens = count
                case wanted.SessionEnded(session, finish, code, text):
                    self._ended(session, finish, code, text)
                case wanted.CutSlice(key, first, last, with_ends):
                    self._run(self._cut(key, first, last, with_ends=with_ends))
                case wanted.Report(event):
                    logger.info("%s %s %s", event.kind, event.subject, event.text)
                    self._around.publish(event)
                case wanted.WakeAt(at_ms):
                    self._wake_at(at_ms)
        for session in stopped:
            self._take(happened.SessionCancelled(session, "stop"))

    def _ended(self, session: str, finish: str, code: str, text: str) -> None:
        answer = self._answers.get(session)
        if answer is None:
            return
        if not answer.count and code in _STATUS:
            answer.refusal = (code, text)
        answer.end(finish, code, text, time.monotonic())

    def _wake_at(self, at_ms: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_s = max(0.0, (at_ms - self._around.now_ms()) / 1000)
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._take(happened.TimeReached())

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _cut(self, key: happened.ModelKey, first: int, last: int, *, with_ends: bool) -> None:
        loaded = self._shelf.loaded.get(key)
        if loaded is None:
            return
        try:
            reference = await self._slices.cut(
                loaded.model, loaded.record.sha256, first, last, with_ends=with_ends
            )
            text = ""
        except (LanguageModelError, ModelsError) as error:
            logger.warning("model %s version %d: %s", *key, error)
            reference, text = None, str(error)
        self._take(happened.SliceCut(key, first, last, with_ends, reference, text))

    # --- what the API asks -----------------------------------------------------------------

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TextPiece]:
        """Generate; see `service.LanguageApi`."""
        loaded = await self._shelf.require(request.model)
        vocabulary = None
        if request.grammar is not None:
            vocabulary = await self._vocabulary(loaded)
        start = self._start(loaded, request, vocabulary)
        answer = self._new_answer(loaded, start)
        self._take(happened.SessionAsked(start))
        if answer.refusal is not None:
            code, text = answer.refusal
            self._answers.pop(start.session, None)
            raise ServiceError(_STATUS[code], code, text)
        async with contextlib.aclosing(self._follow(answer, 0)) as pieces:
            async for piece in pieces:
                if piece.error and not answer.count and piece.error_code in _STATUS:
                    raise ServiceError(_STATUS[piece.error_code], piece.error_code, piece.error)
                yield piece

    async def resume(self, response_id: str, from_index: int = 0) -> AsyncIterator[TextPiece]:
        """Go on reading an answer; see `service.LanguageApi`."""
        if response_id not in self._answers:
            await self._shelf.wait()
        answer = self._answers.get(response_id)
        if answer is None:
            raise ServiceError(
                404,
                "unknown_response",
                f"no response {response_id[:80]!r} is kept: it may have ended more than "
                f"{KEEP_ENDED_S / 60:g} minutes ago; ask again",
            )
        # A coordinator that started anew may be some tokens behind what was read: they come again.
        most = answer.count if answer.ended else answer.most_tokens
        if not 0 <= from_index <= most:
            raise ServiceError(
                400,
                "bad_parameter",
                f"the response has {answer.count} tokens so far: go on from 0 to {most}",
            )
        async with contextlib.aclosing(self._follow(answer, from_index)) as pieces:
            async for piece in pieces:
                yield piece

    async def _follow(self, answer: Answer, from_index: int) -> AsyncGenerator[TextPiece, None]:
        answer.readers += 1
        try:
            async for piece in answer.follow(from_index):
                yield piece
        finally:
            answer.readers -= 1
            self._cancel_unread(answer.response_id)

    def cancel(self, response_id: str) -> bool:
        """End a generation; whether there was one that had not ended."""
        answer = self._answers.get(response_id)
        if answer is None or answer.ended:
            return False
        self._take(happened.SessionCancelled(response_id, "cancelled"))
        return True

    def models(self) -> list[LanguageModelView]:
        """Every language model, by name and version."""
        views = []
        for record in self._around.catalogue.list():
            if record.format is not ModelFormat.GGUF:
                continue
            key = (record.name, record.version)
            loaded, model = self._shelf.loaded.get(key), self._core.models.get(key)
            if loaded is None or model is None:
                views.append(unread_view(record, self._shelf.broken.get(key)))
            else:
                views.append(model_view(loaded, model))
        return views

    async def plan(self, model: str, *, explain: bool = True) -> PlanView:
        """How a model is, or would be, cut."""
        loaded = await self._shelf.require(model)
        found = self._core.models[loaded.key]
        if found.pipeline is not None and not explain:
            return plan_view(found, found.pipeline.plan, current=True)
        try:
            plan = self._core.plan(loaded.key)
        except PlacementImpossible as error:
            return PlanView(*loaded.key, False, False, (), 0.0, tuple(str(error).splitlines()))
        running = found.pipeline
        current = running is not None and [
            (stage.node, stage.first_layer, stage.last_layer) for stage in plan.stages
        ] == [(slot.primary, slot.first, slot.last) for slot in running.slots]
        return plan_view(found, plan, current=current)

    async def token_count(self, model: str, messages: Sequence[Mapping[str, object]] | str) -> int:
        """How many tokens a prompt takes."""
        loaded = await self._shelf.require(model)
        prompt = messages if isinstance(messages, str) else tuple(messages)
        return len(prompt_tokens(loaded, prompt))

    def counters(self) -> Mapping[str, float]:
        """For /metrics."""
        counts = {
            f"language_{name}_total": float(value)
            for name, value in asdict(self._core.counters).items()
        }
        counts["language_sessions_open"] = float(self._core.open_sessions)
        counts["language_spares_missing"] = float(self._core.spares_missing)
        counts["language_pipelines"] = float(len(self._core.pipelines))
        return counts

    # --- helpers ---------------------------------------------------------------------------

    async def _vocabulary(self, loaded: LoadedModel) -> Reference:
        if not loaded.model.eos_tokens:
            text = "this model has no end token, which JSON answers need: ask for text"
            raise ServiceError(400, "bad_parameter", text)
        try:
            return await self._slices.vocabulary(
                loaded.model, loaded.tokenizer, loaded.record.sha256
            )
        except ModelsError as error:
            raise ServiceError(507, "cache_too_small", str(error)) from error

    def _start(
        self, loaded: LoadedModel, request: GenerateRequest, vocabulary: Reference | None
    ) -> SessionStart:
        response_id = request.response_id or f"gen-{secrets.token_hex(12)}"
        if len(response_id) > 80:
            raise ServiceError(400, "bad_parameter", "a response id has up to 80 characters")
        if response_id in self._answers or len(self._answers) >= _MAX_ANSWERS:
            if response_id in self._answers:
                text = f"there is a response {response_id!r} already: choose another id"
                raise ServiceError(409, "response_exists", text)
            raise ServiceError(429, "queue_full", "too many answers are kept: try again later")
        return session_start(
            loaded,
            request,
            response_id,
            vocabulary,
            self._limits.context_tokens,
            int(self._around.now_ms()),
        )

    def _new_answer(self, loaded: LoadedModel, start: SessionStart) -> Answer:
        try:
            answer = answer_of(loaded.tokenizer, start)
        except ValueError as error:
            raise ServiceError(400, "bad_parameter", str(error)) from error
        self._answers[start.session] = answer
        return answer
