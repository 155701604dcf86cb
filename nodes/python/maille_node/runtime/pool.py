"""Models in memory and the threads that run them; small batches run in the loop's own thread."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from maille_node.errors import TaskProblem
from maille_node.events import BatchEnded, RunBatch, RunEnd
from maille_node.runtime import onnx
from maille_node.runtime.model import LoadedModel
from maille_protocol import ErrorCode, ModelReference, Reference

logger = logging.getLogger(__name__)

INLINE_SESSION_US = 250.0
"""A batch that spends less than this inside onnxruntime runs in the loop's thread.

Only that part of a batch lets other Python threads run, and a hand-over to a thread and back
costs as much (measured: 0.10 to 0.25 ms a round trip, see the README).
"""

INLINE_TOTAL_US = 2_000.0
"""As above for the whole batch, decoding and encoding included: the loop answers again after it."""

MEMORY_PER_FILE_BYTE = 2
"""A session holds its weights and, packed for the kernels, part of them once more."""

SESSION_BYTES = 1024 * 1024
MAX_INVALID_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class RuntimeCounters:
    """What has run where."""

    inline: int
    threaded: int


class Runtime:
    """Sessions by SHA-256, least recently used forgotten first; for one event loop.

    Args:
        workers: threads, each running one batch at a time.
        threads: of each session inside one run.
        memory_limit_bytes: for sessions together, by the estimate of `MEMORY_PER_FILE_BYTE`.
        read_reference: the bytes of an input that is on disk; called in a worker thread.
        on_forgotten: called with the SHA-256 of each model that leaves memory.
    """

    def __init__(
        self,
        *,
        workers: int,
        threads: int,
        memory_limit_bytes: int,
        read_reference: Callable[[Reference], bytes],
        on_forgotten: Callable[[bytes], None],
    ) -> None:
        self._threads = threads
        self._memory_limit_bytes = memory_limit_bytes
        self._read_reference = read_reference
        self._on_forgotten = on_forgotten
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="maille-run")
        self._models: OrderedDict[bytes, LoadedModel] = OrderedDict()
        self._pinned: set[bytes] = set()
        self._loading_bytes = 0
        self._invalid: OrderedDict[bytes, TaskProblem] = OrderedDict()
        self._options: dict[int, onnx.RunOptions] = {}
        self._inline_options = onnx.run_options()
        self._inline = 0
        self._threaded = 0

    @property
    def counters(self) -> RuntimeCounters:
        """What has run where since the start."""
        return RuntimeCounters(self._inline, self._threaded)

    @property
    def size_bytes(self) -> int:
        """Estimated memory of all sessions."""
        return sum([model.size_bytes for model in self._models.values()])

    def pin(self, sha256: bytes) -> LoadedModel | None:
        """The model if it is in memory; from now on it stays there until `unpin`."""
        model = self._models.get(sha256)
        if model is not None:
            self._models.move_to_end(sha256)
            self._pinned.add(sha256)
        return model

    def unpin(self, sha256: bytes) -> None:
        """The model may leave memory when space is short."""
        self._pinned.discard(sha256)

    def known_problem(self, sha256: bytes) -> TaskProblem | None:
        """Why this model cannot be loaded, if that was found out before."""
        return self._invalid.get(sha256)

    async def load(self, model: ModelReference, path: Path) -> LoadedModel:
        """Load a model that is on disk; pinned.

        Raises:
            TaskProblem: see `onnx.open_session`; OUT_OF_MEMORY also when the limit leaves no room.
        """
        size_bytes = model.size_bytes * MEMORY_PER_FILE_BYTE + SESSION_BYTES
        self._make_room(model, size_bytes)
        self._loading_bytes += size_bytes
        try:
            loaded = await self._loop.run_in_executor(
                None,
                lambda: LoadedModel.load(
                    path,
                    threads=self._threads,
                    size_bytes=size_bytes,
                    read_reference=self._read_reference,
                ),
            )
        except TaskProblem as problem:
            if not problem.code.retryable:
                self._invalid[model.sha256] = problem
                if len(self._invalid) > MAX_INVALID_REMEMBERED:
                    self._invalid.popitem(last=False)
            raise
        finally:
            self._loading_bytes -= size_bytes
        self._models[model.sha256] = loaded
        self._pinned.add(model.sha256)
        return loaded

    def start(self, batch: RunBatch, on_ended: Callable[[BatchEnded], None]) -> None:
        """Run a batch of a pinned model; `on_ended` is called in the loop, perhaps at once."""
        model = self._models.get(batch.sha256)
        if model is None:
            text = b"the model left memory before the run"
            ends = [RunEnd(item.task_id, ErrorCode.NODE_ERROR, text, 0) for item in batch.items]
            on_ended(BatchEnded(batch.batch, tuple(ends), joinable=False))
            return
        if self._belongs_inline(model, batch):
            self._inline += 1
            ends_inline = _run_safely(model, batch, self._inline_options)
            on_ended(BatchEnded(batch.batch, ends_inline, model.joinable))
            return
        self._threaded += 1
        options = self._options[batch.batch] = onnx.run_options()

        def finish(ends: tuple[RunEnd, ...]) -> None:
            self._options.pop(batch.batch, None)
            on_ended(BatchEnded(batch.batch, ends, model.joinable))

        def work() -> None:
            ends = _run_safely(model, batch, options)
            # Straight to the loop: a future between would cost one more turn of it.
            self._loop.call_soon_threadsafe(finish, ends)

        self._executor.submit(work)

    def abort(self, batch: int) -> None:
        """Make a running batch end soon."""
        options = self._options.get(batch)
        if options is not None:
            options.terminate = True

    def close(self) -> None:
        """Abort what runs and wait for the threads, so that none reports to a closed loop."""
        for options in self._options.values():
            options.terminate = True
        self._executor.shutdown(wait=True, cancel_futures=True)

    @staticmethod
    def _belongs_inline(model: LoadedModel, batch: RunBatch) -> bool:
        expected = model.expected(len(batch.items))
        return (
            expected is not None
            and expected.session_us < INLINE_SESSION_US
            and expected.total_us < INLINE_TOTAL_US
            # A reference is read from the disk, which may take any time.
            and all(isinstance(item.content, bytes) for item in batch.items)
        )

    def _make_room(self, model: ModelReference, size_bytes: int) -> None:
        limit_bytes = self._memory_limit_bytes
        if size_bytes > limit_bytes:
            raise TaskProblem(
                ErrorCode.OUT_OF_MEMORY,
                f"model {model.name} needs about {size_bytes} bytes of memory, this node gives its "
                f"models {limit_bytes}: raise the limit or use a larger machine",
            )
        for sha256 in list(self._models):
            if self.size_bytes + self._loading_bytes + size_bytes <= limit_bytes:
                return
            if sha256 not in self._pinned:
                del self._models[sha256]
                self._on_forgotten(sha256)
        if self.size_bytes + self._loading_bytes + size_bytes > limit_bytes:
            raise TaskProblem(
                ErrorCode.OUT_OF_MEMORY,
                f"no memory for model {model.name} beside the models that run now",
            )


def _run_safely(
    model: LoadedModel, batch: RunBatch, options: onnx.RunOptions
) -> tuple[RunEnd, ...]:
    try:
        return model.run(batch.items, options)
    # Whatever a model or its inputs provoke ends these tasks and never a worker or the loop.
    except Exception as error:
        logger.exception("a batch failed in a way that its own handling did not foresee")
        text = f"the node failed to run the batch: {type(error).__name__}".encode()
        return tuple([RunEnd(item.task_id, ErrorCode.NODE_ERROR, text, 0) for item in batch.items])
