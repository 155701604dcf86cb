"""One model in memory: checks inputs, runs tasks alone or joined, learns what it costs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maille_node.errors import TaskProblem
from maille_node.events import BatchItem, RunEnd
from maille_node.runtime import onnx, tiny
from maille_protocol import ErrorCode, Reference, UsageError, WireError
from maille_protocol.contents import Content
from maille_protocol.signature import TensorSpec, batch_axis, check_inputs
from maille_protocol.tensors import Array, decode_tensors, encode_tensors

PROOFS_WANTED = 2
"""Joined runs that must equal the runs alone before a model's joined runs are trusted."""

MAX_OUTPUT_BYTES = 256 * 1024 * 1024
_RELATIVE_TOLERANCE = 1e-3
_MAX_TEXT_BYTES = 1_000

Tensors = dict[str, Array]


@dataclass(frozen=True, slots=True)
class Cost:
    """Time of one batch: all of it, and the part in which other Python threads can run."""

    total_us: float
    session_us: float


@dataclass(frozen=True, slots=True)
class _Ready:
    """A task whose inputs fit the model."""

    index: int
    tensors: Tensors
    rows: int
    """Size of the first dimension that all inputs share; -1 if they share none."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Outputs, or the problem that took their place."""

    outputs: list[Array] | None
    problem: TaskProblem | None
    run_us: int


class LoadedModel:
    """A session with its signature. `run` may be called from several threads at once."""

    def __init__(
        self,
        session: onnx.Session,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        *,
        size_bytes: int,
        read_reference: Callable[[Reference], bytes],
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.size_bytes = size_bytes
        self.joinable = batch_axis(inputs, outputs)
        self._session = session
        self._names = [spec.name for spec in outputs]
        self._proofs = 0
        self._read_reference = read_reference
        self._costs: dict[int, Cost] = {}
        # By the bit length of the number of tasks.

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        threads: int,
        size_bytes: int,
        read_reference: Callable[[Reference], bytes],
    ) -> "LoadedModel":
        """Load a model from disk; TaskProblem as `onnx.open_session` and `tiny.open_session`."""
        session: onnx.Session
        if tiny.is_tiny_file(path):
            session, inputs, outputs = tiny.open_session(path)
        else:
            session, inputs, outputs = onnx.open_session(path, threads=threads)
        return cls(session, inputs, outputs, size_bytes=size_bytes, read_reference=read_reference)

    def expected(self, count: int) -> Cost | None:
        """What a batch of `count` tasks will take; None if nothing like it has run yet."""
        size = count.bit_length()
        known = self._costs.get(size)
        if known is not None:
            return known
        smaller = [other for other in self._costs if other < size]
        if not smaller:
            return None
        nearest = max(smaller)
        # A joined run never costs more than its tasks alone.
        factor = 2.0 ** (size - nearest)
        cost = self._costs[nearest]
        return Cost(cost.total_us * factor, cost.session_us * factor)

    def run(self, items: Sequence[BatchItem], options: onnx.RunOptions) -> tuple[RunEnd, ...]:
        """One end per item, in order. Never raises: whatever goes wrong ends the tasks it hit."""
        started_ns = time.perf_counter_ns()
        ends: list[RunEnd | None] = [None] * len(items)
        ready: list[_Ready] = []
        for index, item in enumerate(items):
            try:
                ready.append(self._check(index, item.content))
            except TaskProblem as problem:
                ends[index] = _failed(item, problem, 0)
        for group in self._groups(ready):
            for task, outcome in zip(group, self._run_group(group, options), strict=True):
                ends[task.index] = self._end(items[task.index], outcome)
        self._learn(len(items), _since_us(started_ns), sum([end.run_us for end in ends if end]))
        lost = TaskProblem(ErrorCode.NODE_ERROR, "the run gave no result")
        return tuple(
            [
                end if end is not None else _failed(item, lost, 0)
                for item, end in zip(items, ends, strict=True)
            ]
        )

    def _learn(self, count: int, total_us: float, session_us: float) -> None:
        size = count.bit_length()
        before = self._costs.get(size)
        if before is None:
            self._costs[size] = Cost(total_us, session_us)
        else:
            self._costs[size] = Cost(
                _follow(before.total_us, total_us), _follow(before.session_us, session_us)
            )

    # --- inputs --------------------------------------------------------------------------------

    def _check(self, index: int, content: Content) -> _Ready:
        try:
            data = content if isinstance(content, bytes) else self._read_reference(content)
            tensors = decode_tensors(data)
        except WireError as error:
            raise TaskProblem(
                ErrorCode.INPUT_MALFORMED, f"the inputs are not encoded tensors: {error}"
            ) from error
        except MemoryError as error:
            raise TaskProblem(ErrorCode.OUT_OF_MEMORY, "no memory for the inputs") from error
        specs = self.inputs
        for spec in specs:
            array = tensors.get(spec.name)
            if array is None:
                continue
            if spec.dtype == "str" and not array.size and array.dtype.kind == "b":
                # An array of no elements stands on the wire without a type.
                tensors[spec.name] = array.astype(np.object_)
            if not spec.shape:
                # onnxruntime says the same of a scalar and of "any rank"; it checks itself.
                specs = tuple(
                    [TensorSpec(s.name, s.dtype, array.shape) if s is spec else s for s in specs]
                )
        mismatch = check_inputs(specs, tensors)
        if mismatch is not None:
            raise TaskProblem(mismatch.code, mismatch.text)
        rows = -1
        if self.joinable:
            sizes = {array.shape[0] for array in tensors.values()}
            if len(sizes) == 1:
                rows = sizes.pop()
        return _Ready(index, tensors, rows)

    def _groups(self, ready: list[_Ready]) -> list[list[_Ready]]:
        if not self.joinable or len(ready) < 2:
            return [[task] for task in ready]
        joined = [task for task in ready if task.rows > 0]
        return [joined] * bool(joined) + [[task] for task in ready if task.rows <= 0]

    # --- runs ----------------------------------------------------------------------------------

    def _run_group(self, group: list[_Ready], options: onnx.RunOptions) -> list[_Outcome]:
        if len(group) == 1:
            return [self._run_alone(group[0], options)]
        joined = self._run_joined(group, options)
        if joined is None:
            return [self._run_alone(task, options) for task in group]
        if self._proofs >= PROOFS_WANTED:
            return joined
        alone = [self._run_alone(task, options) for task in group]
        if all(_same(one, other) for one, other in zip(joined, alone, strict=True)):
            self._proofs += 1
        else:
            self.joinable = False
        return alone

    def _run_joined(self, group: list[_Ready], options: onnx.RunOptions) -> list[_Outcome] | None:
        """The outcomes of one run of all tasks; None if they must be run one by one."""
        started_ns = time.perf_counter_ns()
        try:
            outputs = self._session.run(
                self._names,
                {
                    spec.name: np.concatenate([task.tensors[spec.name] for task in group])
                    for spec in self.inputs
                },
                options,
            )
        # Whatever it was, running alone shows which task is to blame.
        except Exception:  # noqa: BLE001
            return None
        run_us = (time.perf_counter_ns() - started_ns) // 1000
        total = sum([task.rows for task in group])
        if any(
            not isinstance(output, np.ndarray) or not output.ndim or output.shape[0] != total
            for output in outputs
        ):
            self.joinable = False
            return None
        share_us = max(1, run_us // len(group))
        outcomes = []
        start = 0
        for task in group:
            end = start + task.rows
            outcomes.append(_Outcome([output[start:end] for output in outputs], None, share_us))
            start = end
        return outcomes

    def _run_alone(self, task: _Ready, options: onnx.RunOptions) -> _Outcome:
        started_ns = time.perf_counter_ns()
        try:
            outputs = self._session.run(self._names, task.tensors, options)
        # onnxruntime's exceptions have no common base below Exception.
        except Exception as error:  # noqa: BLE001
            return _Outcome(None, onnx.run_problem(error), _since_us(started_ns))
        return _Outcome(outputs, None, _since_us(started_ns))

    def _end(self, item: BatchItem, outcome: _Outcome) -> RunEnd:
        if outcome.outputs is None:
            problem = outcome.problem or TaskProblem(ErrorCode.NODE_ERROR, "the run gave nothing")
            return _failed(item, problem, outcome.run_us)
        size_bytes = sum([getattr(output, "nbytes", 0) for output in outcome.outputs])
        if size_bytes > MAX_OUTPUT_BYTES:
            text = (
                f"the outputs take {size_bytes} bytes, {MAX_OUTPUT_BYTES} are allowed: "
                "send smaller inputs"
            )
            return _failed(item, TaskProblem(ErrorCode.OUTPUT_TOO_LARGE, text), outcome.run_us)
        try:
            content = encode_tensors(dict(zip(self._names, outcome.outputs, strict=True)))
        except (UsageError, AttributeError) as error:
            text = f"the model's outputs cannot be sent: {error}"
            return _failed(item, TaskProblem(ErrorCode.MODEL_ERROR, text), outcome.run_us)
        except MemoryError:
            text = "no memory for the outputs"
            return _failed(item, TaskProblem(ErrorCode.OUT_OF_MEMORY, text), outcome.run_us)
        return RunEnd(item.task_id, ErrorCode.NONE, content, outcome.run_us)


def _follow(before_us: float, now_us: float) -> float:
    """Up at once when it is far from a hiccup, else slowly: a wrong guess blocks the loop."""
    return now_us if now_us > 4 * before_us else 0.8 * before_us + 0.2 * now_us


def _since_us(started_ns: int) -> int:
    return max(1, (time.perf_counter_ns() - started_ns) // 1000)


def _failed(item: BatchItem, problem: TaskProblem, run_us: int) -> RunEnd:
    text = problem.text.encode()[:_MAX_TEXT_BYTES].decode(errors="ignore").encode()
    return RunEnd(item.task_id, problem.code, text, run_us)


def _same(one: _Outcome, other: _Outcome) -> bool:
    """Whether a joined run gave what the run alone gave, up to rounding."""
    if one.outputs is None or other.outputs is None:
        # The joined run worked, so a failure alone says nothing about joining.
        return False
    for left, right in zip(one.outputs, other.outputs, strict=True):
        if left.shape != right.shape or left.dtype != right.dtype:
            return False
        if left.dtype.kind == "f":
            wide = right.astype(np.float64)
            scale = float(np.max(np.abs(wide), initial=0.0, where=np.isfinite(wide)))
            tolerance = _RELATIVE_TOLERANCE * scale
            if not np.allclose(
                left.astype(np.float64), wide, rtol=0, atol=tolerance, equal_nan=True
            ):
                return False
        elif not np.array_equal(left, right):
            return False
    return True
