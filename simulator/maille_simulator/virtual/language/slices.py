"""The slices in a virtual node's memory: as the real runner, with arithmetic for the kernels."""

from collections.abc import Callable

from maille_node.language import stage_events as stage
from maille_protocol import ErrorCode
from maille_simulator.virtual.language.arithmetic import ArithmeticModel, Chain

Later = Callable[[float, Callable[[], None]], None]
"""Calls something after so many ms, if the process lives then."""


class _Loaded:
    """One slice, its caches, and the thread that runs its steps."""

    __slots__ = ("busy_until_ms", "caches")

    def __init__(self) -> None:
        self.caches: dict[int, list[Chain]] = {}
        self.busy_until_ms = 0.0


class VirtualSlices:
    """Runs steps one after the other for each slice.

    Args:
        model: whose slices they are.
        layer_us: of one token in one layer on this node.
        now_ms: the time.
        later: see `Later`.
        feed: takes a `Computed`.
        sick: whether every step fails now, by the node's fault.
    """

    def __init__(
        self,
        model: ArithmeticModel,
        layer_us: float,
        now_ms: Callable[[], float],
        later: Later,
        feed: Callable[[stage.StageEvent], None],
        sick: Callable[[], bool],
    ) -> None:
        self._model = model
        self._layer_us = layer_us
        self._now_ms = now_ms
        self._later = later
        self._feed = feed
        self._slices: dict[bytes, _Loaded] = {}
        self._sick = sick
        self._places: dict[int, bytes] = {}

    @property
    def cache_count(self) -> int:
        """Caches in memory."""
        return sum(len(loaded.caches) for loaded in self._slices.values())

    @property
    def used_bytes(self) -> int:
        """What slices and filled positions take."""
        used = 0
        for sha256, loaded in self._slices.items():
            first, last, _ = self._model.slices[sha256]
            positions = sum(len(cache) for cache in loaded.caches.values())
            layer_bytes = self._model.layer_bytes + positions * self._model.cache_bytes
            used += (last - first + 1) * layer_bytes
        return used

    def load(self, sha256: bytes) -> stage.SliceFacts:
        """A slice is in memory."""
        self._slices.setdefault(sha256, _Loaded())
        return self._model.facts(sha256, self._layer_us)

    def drop(self, sha256: bytes) -> None:
        """Free a slice and its caches; a step under way ends by itself."""
        self._slices.pop(sha256, None)

    def compute(self, job: stage.Compute) -> None:
        """Run a step; `Computed` follows."""
        loaded = self._slices.get(job.sha256)
        if loaded is None:
            text = "the slice is not in memory"
            failed = stage.Computed(job.job, code=ErrorCode.NODE_ERROR, text=text)
            self._later(0.0, lambda: self._feed(failed))
            return
        self._places[job.cache] = job.sha256
        first, last, _ = self._model.slices[job.sha256]
        each_us = self._layer_us if job.count == 1 else self._layer_us / 4
        took_ms = (last - first + 1) * each_us * job.count / 1000
        loaded.busy_until_ms = max(loaded.busy_until_ms, self._now_ms()) + took_ms
        self._later(loaded.busy_until_ms - self._now_ms(), lambda: self._run(loaded, job))

    def share(self, work: stage.ShareCache) -> None:
        """Begin a cache with a part of another; what cannot be done is found by the next step."""
        loaded = self._slices.get(work.sha256)
        source = None if loaded is None else loaded.caches.get(work.source)
        if loaded is None or source is None or len(source) < work.count:
            return
        self._places[work.cache] = work.sha256
        copy = source[: work.count]

        def copied() -> None:
            if work.cache in self._places:
                loaded.caches[work.cache] = copy

        if loaded.busy_until_ms <= self._now_ms():
            copied()
        else:
            self._later(loaded.busy_until_ms - self._now_ms(), copied)

    def free(self, cache: int) -> None:
        """Forget a cache."""
        sha256 = self._places.pop(cache, None)
        loaded = self._slices.get(sha256) if sha256 is not None else None
        if loaded is not None:
            loaded.caches.pop(cache, None)

    def _run(self, loaded: _Loaded, job: stage.Compute) -> None:
        if self._sick():
            self._feed(stage.Computed(job.job, code=ErrorCode.NODE_ERROR, text="sick"))
            return
        done = self._model.step(job, loaded.caches.setdefault(job.cache, []))
        if job.cache not in self._places:
            # It was freed while this job waited for its turn, and the job has made it again.
            loaded.caches.pop(job.cache, None)
        self._feed(done)
