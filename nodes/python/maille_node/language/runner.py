"""Carries out a node's slice work: loading, measuring, and steps in one thread for each slice.

Short steps were tried in the event loop itself: with slices of 0.13 ms a hop took as long (0.5 ms
either way, most of it the broker's), so no step ever holds up the loop. ONNX Runtime lets go of
Python's lock.
"""

import asyncio
import contextlib
import logging
import queue
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import psutil

from maille_node.language.choosing import token_of
from maille_node.language.errors import LogitsNotFinite, SamplingError
from maille_node.language.grammars import Grammars
from maille_node.language.pages import forget_pages, trim_heap
from maille_node.language.probe import probe_kernels
from maille_node.language.sampling import sample
from maille_node.language.slice_errors import ActivationRefused, SliceUnusable
from maille_node.language.stage import KeyValueCache, Stage, Unchecked
from maille_node.language.stage_events import Compute, Computed, ShareCache, SliceFacts
from maille_protocol import ErrorCode, Token

__all__ = ["LoadedSlice", "SliceRunner", "load_slice", "run_step"]

logger = logging.getLogger(__name__)

_DECODE_STEPS = 9
_PREFILL_STEPS = 3
_TIDY_AFTER_S = 0.5
_PREFILL_POSITIONS = 32
_WARM_UP = 3
_MOST_MEASURED = 256


@dataclass(slots=True, eq=False)
class LoadedSlice:
    """A slice in memory, measured."""

    stage: Stage
    facts: SliceFacts
    caches: dict[int, KeyValueCache] = field(default_factory=dict)
    """Made and used by the one thread that runs the slice's steps."""


def load_slice(path: Path, *, threads: int = 1, measured: SliceFacts | None = None) -> LoadedSlice:
    """In a worker thread: load a slice and measure it; takes as long as about eighty tokens.

    Args:
        path: of the slice.
        threads: of one step.
        measured: what an earlier load in this process found, so that this one is ready sooner.

    Raises:
        SliceUnusable: the file is damaged, there is no memory for it, or ONNX Runtime refuses it.
    """
    size_bytes = path.stat().st_size
    available_bytes = psutil.virtual_memory().available
    if size_bytes > available_bytes:
        raise SliceUnusable(
            f"the slice takes {size_bytes} bytes, {available_bytes} are free: use a node with more "
            "memory, or cut the model into smaller slices"
        )
    process = psutil.Process()
    before_bytes = process.memory_info().rss
    stage = Stage.open(path, threads=threads)
    if measured is not None:
        return LoadedSlice(stage, measured)
    decode_us, prefill_us = _measure(stage)
    fingerprint = probe_kernels(stage).fingerprint
    # The inputs of both touched rows of the embedding all over the file.
    forget_pages(path)
    trim_heap()
    # What other threads took and gave back meanwhile is in it too; a slice takes at least itself.
    grown_bytes = process.memory_info().rss - before_bytes
    info = stage.info
    facts = SliceFacts(
        with_embedding=info.with_embedding,
        with_head=info.with_head,
        hidden_size=info.hidden_size,
        vocabulary_size=info.vocabulary_size,
        context_length=info.context_length,
        cache_bytes=info.cache_bytes(1) - info.cache_bytes(0),
        decode_us=decode_us,
        prefill_us=prefill_us,
        resident_bytes=max(grown_bytes, size_bytes),
        fingerprint=fingerprint,
    )
    return LoadedSlice(stage, facts)


def _measure(stage: Stage) -> tuple[int, int]:
    """Microseconds of one token alone (median), and of one token of a prefill step (median)."""
    info = stage.info
    room = min(info.context_length, _PREFILL_POSITIONS + _WARM_UP + _DECODE_STEPS)
    step = min(_PREFILL_POSITIONS, room)
    rows: Unchecked
    if info.with_embedding:
        rows = np.arange(step, dtype=np.int64) % info.vocabulary_size
    else:
        rows = np.linspace(-1, 1, step * info.hidden_size, dtype=np.float32).reshape(step, -1)
    cache = stage.new_cache(room)
    wanted = [0] if info.with_head else []

    def timed(values: Unchecked, length: int) -> float:
        cache.truncate(length)
        started_ns = time.perf_counter_ns()
        stage.run(cache, values, wanted)
        return (time.perf_counter_ns() - started_ns) / 1000

    prefill = [timed(rows, 0) for _ in range(_PREFILL_STEPS)]
    lengths = [min(step + turn, room - 1) for turn in range(_WARM_UP + _DECODE_STEPS)]
    decode = [timed(rows[:1], length) for length in lengths][_WARM_UP:]
    return (
        max(1, round(statistics.median(decode))),
        max(1, round(statistics.median(prefill) / step)),
    )


def share(loaded: LoadedSlice, source: KeyValueCache, work: ShareCache) -> None:
    """Make a cache that begins with a copy of another one's positions."""
    cache = loaded.stage.new_cache(work.capacity)
    cache.copy_from(source, work.count)
    loaded.caches[work.cache] = cache


def run_step(loaded: LoadedSlice, work: Compute, grammars: Grammars) -> Computed:
    """Cut the cache back, compute, and sample; whatever goes wrong is in the answer."""
    try:
        cache = loaded.caches.get(work.cache)
        if work.position > (0 if cache is None else cache.length):
            text = "the shared beginning of the cache is not here"
            return Computed(work.job, code=ErrorCode.CACHE_GAP, text=text)
        output, token = _run(loaded, work, grammars)
    except ActivationRefused as error:
        return Computed(work.job, code=ErrorCode.INPUT_MALFORMED, text=str(error))
    except LogitsNotFinite as error:
        return Computed(work.job, code=ErrorCode.NODE_ERROR, text=str(error))
    except SamplingError as error:
        return Computed(work.job, code=ErrorCode.MODEL_ERROR, text=str(error))
    except MemoryError:
        text = "no memory for keys and values; close other programs or use another node"
        return Computed(work.job, code=ErrorCode.OUT_OF_MEMORY, text=text)
    # Whatever it is, the ring must hear of it.
    except Exception as error:
        logger.exception("a step could not be computed")
        text = f"the step failed with {type(error).__name__}: {error}"
        return Computed(work.job, code=ErrorCode.NODE_ERROR, text=text[:500])
    return Computed(work.job, output, token)


def _run(loaded: LoadedSlice, work: Compute, grammars: Grammars) -> tuple[bytes, Token | None]:
    stage = loaded.stage
    info = stage.info
    cache = loaded.caches.get(work.cache)
    if cache is None:
        cache = loaded.caches[work.cache] = stage.new_cache(work.capacity)
    values: Unchecked
    if info.with_embedding:
        values = np.frombuffer(work.values, "<u4").astype(np.int64)
    else:
        values = np.frombuffer(work.values, np.float32).reshape(work.count, info.hidden_size)
    cache.truncate(work.position)
    wanted = work.sample
    output = stage.run(cache, values, () if wanted is None else (work.count - 1,))
    if not info.with_head:
        return output.tobytes(), None
    if wanted is None:
        return b"", None
    chosen = sample(
        output[0],
        wanted.settings,
        wanted.position,
        wanted.tokens,
        wanted.prompt_length,
        grammars.allowed(work.cache, wanted),
    )
    return b"", token_of(chosen)


class SliceRunner:
    """The slices in memory, for one event loop.

    Args:
        feed: takes a `Computed`, in the event loop.
        threads: of one step.
    """

    def __init__(
        self,
        feed: Callable[[Computed], None],
        *,
        threads: int = 1,
    ) -> None:
        self._feed = feed
        self._threads = threads
        self._slices: dict[bytes, LoadedSlice] = {}
        self._workers: dict[bytes, _Worker] = {}
        self._places: dict[int, bytes] = {}
        self._untidy: set[Path] = set()
        self._tidying: asyncio.TimerHandle | None = None
        self._measured: dict[bytes, SliceFacts] = {}
        self.grammars = Grammars()
        self._loop = asyncio.get_running_loop()

    async def load(self, sha256: bytes, path: Path) -> SliceFacts:
        """Bring a slice into memory and measure it.

        Raises:
            SliceUnusable: it cannot be run here.
        """
        loaded = self._slices.get(sha256)
        if loaded is None:
            measured = self._measured.get(sha256)
            loaded = await asyncio.to_thread(
                load_slice, path, threads=self._threads, measured=measured
            )
            self._slices[sha256] = loaded
            if measured is None and len(self._measured) < _MOST_MEASURED:
                self._measured[sha256] = loaded.facts
        return loaded.facts

    def drop(self, sha256: bytes) -> None:
        """Free a slice and all its caches; a step under way ends by itself."""
        self._slices.pop(sha256, None)
        worker = self._workers.pop(sha256, None)
        if worker is not None:
            worker.stop()
        self._tidy_later()

    def compute(self, work: Compute) -> None:
        """Run a step; `Computed` follows, never from within this call."""
        loaded = self._slices.get(work.sha256)
        if loaded is None:
            text = "the slice is not in memory"
            failed = Computed(work.job, code=ErrorCode.NODE_ERROR, text=text)
            self._loop.call_soon(self._feed, failed)
            return
        self._places[work.cache] = work.sha256
        self._worker(work.sha256).put(lambda: run_step(loaded, work, self.grammars), loaded, work)

    def share(self, work: ShareCache) -> None:
        """Begin a cache with a part of another; what cannot be done is found by the next step."""
        loaded = self._slices.get(work.sha256)
        source = None if loaded is None else loaded.caches.get(work.source)
        if loaded is None or source is None or source.length < work.count:
            return
        self._places[work.cache] = work.sha256
        self._worker(work.sha256).put(lambda: share(loaded, source, work), loaded, work)

    def _worker(self, sha256: bytes) -> "_Worker":
        worker = self._workers.get(sha256)
        if worker is None:
            worker = self._workers[sha256] = _Worker(self._loop, self._done)
        return worker

    def free(self, cache: int) -> None:
        """Forget a cache."""
        self.grammars.forget(cache)
        sha256 = self._places.pop(cache, None)
        loaded = self._slices.get(sha256) if sha256 is not None else None
        if loaded is not None:
            loaded.caches.pop(cache, None)
            self._tidy_later()

    def _tidy_later(self) -> None:
        """Give memory back soon: a thread or a coroutine may hold what was freed a moment longer."""
        if self._tidying is None:
            self._tidying = self._loop.call_later(_TIDY_AFTER_S, self._tidy)

    def _tidy(self) -> None:
        self._tidying = None
        # Every prompt touches rows of the embedding all over the file.
        for path in self._untidy:
            forget_pages(path)
        self._untidy.clear()
        trim_heap()

    def close(self) -> None:
        """Free everything; steps under way are waited for."""
        if self._tidying is not None:
            self._tidying.cancel()
        self._slices.clear()
        workers = list(self._workers.values())
        self._workers.clear()
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join()

    def _done(self, loaded: LoadedSlice, work: Compute | ShareCache, done: Computed | None) -> None:
        if work.cache not in self._places:
            # It was freed while this job waited for its turn, and the job has made it again.
            loaded.caches.pop(work.cache, None)
        if done is None or isinstance(work, ShareCache):
            return
        if work.count > 1 and loaded.stage.info.with_embedding:
            self._untidy.add(loaded.stage.path)
            self._tidy_later()
        self._feed(done)


_Job: TypeAlias = tuple[Callable[[], Computed | None], LoadedSlice, Compute | ShareCache]


class _Worker:
    """One thread that runs steps in order."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_done: Callable[[LoadedSlice, Compute | ShareCache, Computed | None], None],
    ) -> None:
        self._loop = loop
        self._on_done = on_done
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="slice", daemon=True)
        self._thread.start()

    def put(
        self, run: Callable[[], Computed | None], loaded: LoadedSlice, work: Compute | ShareCache
    ) -> None:
        """Queue a step, or another job on the slice's caches."""
        self._jobs.put((run, loaded, work))

    def stop(self) -> None:
        """End after what is queued."""
        self._jobs.put(None)

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            run, loaded, work = job
            try:
                done = run()
            # Only a copy of a cache can fail here; the next step on it says that it is not there.
            except Exception:
                logger.exception("a cache could not be copied")
                done = None
            # The loop may be closed: then nobody waits for the answer.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._on_done, loaded, work, done)
            del job, run, loaded
