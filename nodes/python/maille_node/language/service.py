"""The shell of a node's stages: carries their core's actions out and tells it what happened."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil

from maille_node.errors import TaskProblem
from maille_node.feeding import Feeder
from maille_node.language import stage_events as events
from maille_node.language.errors import ConstraintError
from maille_node.language.grammars import read_vocabulary
from maille_node.language.runner import SliceRunner
from maille_node.language.slice_errors import SliceUnusable
from maille_node.language.stage_events import StageAction, StageEvent
from maille_node.language.stages import StageCore
from maille_protocol import Envelope, ErrorCode, MessageType, Reference, StageReport, Tokens

__all__ = ["STAGE_MESSAGES", "StageService"]

logger = logging.getLogger(__name__)

STAGE_MESSAGES = frozenset(
    {
        MessageType.STAGE_ORDER,
        MessageType.ROUTE,
        MessageType.SESSION_ORDER,
        MessageType.ACTIVATION,
    }
)


class StageService:
    """One node's slices in its event loop.

    Args:
        node: the node's id.
        boot: of this process.
        fetch: brings a slice to the disk and keeps it there until `release`; TaskProblem.
        release: undoes one `fetch` that succeeded.
        send: publishes a packed activation to a node.
        say: tells the coordinator.
        on_serving: called when the number of stages that the mesh counts on has changed.
        threads: of one step.
    """

    def __init__(
        self,
        node: str,
        boot: int,
        *,
        fetch: Callable[[Reference], Awaitable[Path]],
        release: Callable[[bytes], None],
        send: Callable[[str, bytes], None],
        say: Callable[[StageReport | Tokens], None],
        on_serving: Callable[[int], None],
        threads: int = 1,
    ) -> None:
        self._fetch = fetch
        self._release = release
        self._send = send
        self._say = say
        self._on_serving = on_serving
        self._serving = 0
        self._loop = asyncio.get_running_loop()
        self._runner = SliceRunner(self._feed, threads=threads)
        self._core = StageCore(node, boot, free_bytes=self._free_bytes)
        self._feeder: Feeder[StageEvent, StageAction] = Feeder(
            self._core.handle, self._carry_out, _now_ms
        )
        self._timer: asyncio.TimerHandle | None = None
        self._loads: dict[bytes, asyncio.Task[None]] = {}
        self._kept: set[bytes] = set()
        self._vocabularies: set[asyncio.Task[None]] = set()

    @property
    def core(self) -> StageCore:
        """The decisions, to look at."""
        return self._core

    def heard(self, envelope: Envelope) -> None:
        """A message of one of the `STAGE_MESSAGES` types came in."""
        self._feed(events.Heard(envelope))

    async def close(self) -> None:
        """Stop everything and free all memory."""
        self._feeder.stop()
        if self._timer is not None:
            self._timer.cancel()
        loads = [*self._loads.values(), *self._vocabularies]
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        self._runner.close()

    # --- in and out ----------------------------------------------------------------------------

    def _feed(self, event: StageEvent) -> None:
        if not self._feeder.feed(event):
            return
        serving = self._core.serving
        if serving != self._serving:
            self._serving = serving
            self._on_serving(serving)

    def _carry_out(self, action: StageAction) -> None:
        match action:
            case events.SendActivation(node=node, payload=payload):
                self._send(node, payload)
            case events.Say(message=message):
                self._say(message)
            case events.Compute():
                self._runner.compute(action)
            case events.ShareCache():
                self._runner.share(action)
            case events.FreeCache(cache=cache):
                self._runner.free(cache)
            case events.LoadSlice(reference=reference):
                self._start_load(reference)
            case events.DropSlice(sha256=sha256):
                self._drop(sha256)
            case events.LoadVocabulary(reference=reference):
                work = self._loop.create_task(self._load_vocabulary(reference))
                self._vocabularies.add(work)
                work.add_done_callback(self._vocabularies.discard)
            case events.DropVocabulary(sha256=sha256):
                self._runner.grammars.drop(sha256)
            case events.WakeAt(at_ms=at_ms):
                if self._timer is not None:
                    self._timer.cancel()
                delay_s = max(0.0, (at_ms - _now_ms()) / 1000)
                self._timer = self._loop.call_later(delay_s + 0.0005, self._feed, events.Tick())
            case events.Note(level=level, text=text):
                logger.log(level, "%s", text)

    def _free_bytes(self) -> int:
        return max(0, psutil.virtual_memory().available - self._core.unfilled_bytes)

    # --- slices --------------------------------------------------------------------------------

    def _start_load(self, reference: Reference) -> None:
        earlier = self._loads.get(reference.sha256)
        load = self._loop.create_task(self._load(reference, earlier))
        self._loads[reference.sha256] = load
        load.add_done_callback(lambda done: self._loaded(reference.sha256, done))

    def _loaded(self, sha256: bytes, load: asyncio.Task[None]) -> None:
        if self._loads.get(sha256) is load:
            del self._loads[sha256]

    async def _load(self, reference: Reference, earlier: asyncio.Task[None] | None) -> None:
        """Fetch, load, measure; ends with `SliceReady` or `SliceFailed` unless dropped."""
        sha256 = reference.sha256
        if earlier is not None:
            await asyncio.wait((earlier,))
        try:
            path = await self._fetch(reference)
            if sha256 in self._kept:
                self._release(sha256)
            self._kept.add(sha256)
            facts = await self._runner.load(sha256, path)
        except TaskProblem as problem:
            logger.warning("slice %s: %s", sha256.hex()[:12], problem.text)
            self._load_failed(sha256, problem.code, problem.text)
        except SliceUnusable as error:
            logger.warning("slice %s: %s", sha256.hex()[:12], error)
            self._load_failed(sha256, ErrorCode.MODEL_INVALID, str(error))
        # Whatever it is, the coordinator must hear of it.
        except Exception as error:
            logger.exception("slice %s could not be loaded", sha256.hex()[:12])
            text = f"the node failed to load the slice: {type(error).__name__}: {error}"
            self._load_failed(sha256, ErrorCode.NODE_ERROR, text[:500])
        else:
            self._feed(events.SliceReady(sha256, facts))

    async def _load_vocabulary(self, reference: Reference) -> None:
        sha256 = reference.sha256
        try:
            path = await self._fetch(reference)
            try:
                vocabulary = await asyncio.to_thread(read_vocabulary, path)
            finally:
                self._release(sha256)
        except TaskProblem as problem:
            failed = events.VocabularyFailed(sha256, problem.code, problem.text)
        except (ConstraintError, OSError) as error:
            failed = events.VocabularyFailed(sha256, ErrorCode.INPUT_MALFORMED, str(error))
        else:
            self._runner.grammars.add(sha256, vocabulary)
            self._feed(events.VocabularyReady(sha256))
            return
        logger.warning("vocabulary %s: %s", sha256.hex()[:12], failed.text)
        self._feed(failed)

    def _load_failed(self, sha256: bytes, code: ErrorCode, text: str) -> None:
        self._give_back(sha256)
        self._feed(events.SliceFailed(sha256, code, text))

    def _drop(self, sha256: bytes) -> None:
        load = self._loads.get(sha256)
        if load is not None:
            load.cancel()
        self._runner.drop(sha256)
        self._give_back(sha256)

    def _give_back(self, sha256: bytes) -> None:
        if sha256 in self._kept:
            self._kept.remove(sha256)
            self._release(sha256)


def _now_ms() -> float:
    return time.monotonic_ns() / 1e6
