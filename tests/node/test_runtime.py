"""Real ONNX models through the real runtime."""

import asyncio
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import node_models
import numpy as np
import onnxruntime
import pytest
from node_models import build, identity, value
from onnx import TensorProto, helper, numpy_helper

from maille_node import events
from maille_node.errors import TaskProblem
from maille_node.events import BatchItem, RunEnd
from maille_node.runtime import LoadedModel, Runtime, onnx
from maille_protocol import ErrorCode, ModelFormat, ModelReference, Reference
from maille_protocol.tensors import Array, decode_tensors, encode_tensors


def no_references(reference: Reference) -> bytes:
    raise AssertionError(reference)


def load(data: bytes, tmp_path: Path) -> LoadedModel:
    path = tmp_path / hashlib.sha256(data).hexdigest()
    path.write_bytes(data)
    return LoadedModel.load(path, threads=1, size_bytes=1, read_reference=no_references)


def run(model: LoadedModel, *tasks: Mapping[str, Array] | bytes) -> tuple[RunEnd, ...]:
    items = tuple(
        BatchItem(
            number.to_bytes(16, "big"), task if isinstance(task, bytes) else encode_tensors(task)
        )
        for number, task in enumerate(tasks)
    )
    ends = model.run(items, onnx.run_options())
    assert [end.task_id for end in ends] == [item.task_id for item in items]
    return ends


def outputs(end: RunEnd) -> dict[str, Array]:
    assert end.code is ErrorCode.NONE, end.content
    return decode_tensors(end.content)


def text(end: RunEnd) -> str:
    assert end.code is not ErrorCode.NONE
    return end.content.decode()


# --- types ------------------------------------------------------------------------------------

TYPES: list[tuple[int, type[np.generic]]] = [
    (TensorProto.FLOAT, np.float32),
    (TensorProto.DOUBLE, np.float64),
    (TensorProto.FLOAT16, np.float16),
    (TensorProto.INT8, np.int8),
    (TensorProto.INT16, np.int16),
    (TensorProto.INT32, np.int32),
    (TensorProto.INT64, np.int64),
    (TensorProto.UINT8, np.uint8),
    (TensorProto.UINT16, np.uint16),
    (TensorProto.UINT32, np.uint32),
    (TensorProto.UINT64, np.uint64),
    (TensorProto.BOOL, np.bool_),
]


@pytest.mark.parametrize(("code", "dtype"), TYPES)
def test_every_numeric_type_goes_in_and_out_unchanged(
    code: int, dtype: type[np.generic], tmp_path: Path
) -> None:
    model = load(identity(code, ["n", 3]), tmp_path)
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    for end in run(model, {"x": array}, {"x": array[:1]}):
        result = outputs(end)["y"]
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, array[: result.shape[0]])


def test_text_goes_in_and_out(tmp_path: Path) -> None:
    model = load(identity(TensorProto.STRING, ["n"]), tmp_path)
    array = np.array(["voilà", "", "maille"], dtype=np.object_)
    assert outputs(run(model, {"x": array})[0])["y"].tolist() == ["voilà", "", "maille"]
    empty = np.array([], dtype=np.object_)
    assert outputs(run(model, {"x": empty})[0])["y"].shape == (0,)


def test_a_scalar_and_a_model_of_any_rank(tmp_path: Path) -> None:
    scalar = load(identity(TensorProto.FLOAT, []), tmp_path)
    assert outputs(run(scalar, {"x": np.array(3, dtype=np.float32)})[0])["y"] == 3
    any_rank = load(identity(TensorProto.FLOAT, None), tmp_path)
    array = np.ones((2, 1, 3), dtype=np.float32)
    assert outputs(run(any_rank, {"x": array})[0])["y"].shape == (2, 1, 3)


@pytest.mark.parametrize(
    ("tensors", "code", "words"),
    [
        ({"z": np.ones((1, 64), np.float32)}, ErrorCode.INPUT_NAME, "X: float32[batch, 64]"),
        ({}, ErrorCode.INPUT_NAME, "input 'X' is missing"),
        ({"X": np.ones((1, 64))}, ErrorCode.INPUT_TYPE, "takes float32"),
        ({"X": np.ones((1, 63), np.float32)}, ErrorCode.INPUT_SHAPE, "[batch, 64]"),
        ({"X": np.ones(64, np.float32)}, ErrorCode.INPUT_SHAPE, "[batch, 64]"),
        (b"\xff not cbor", ErrorCode.INPUT_MALFORMED, "not encoded tensors"),
    ],
)
def test_inputs_that_do_not_fit_fail_alone_in_their_batch(
    tensors: Mapping[str, Array] | bytes, code: ErrorCode, words: str, tmp_path: Path
) -> None:
    model = load(node_models.digits_mlp(), tmp_path)
    good = {"X": np.ones((1, 64), np.float32)}
    first, bad, last = run(model, good, tensors, good)
    assert bad.code is code
    assert words in text(bad)
    assert outputs(first)["label"].shape == outputs(last)["label"].shape == (1,)


# --- joining ----------------------------------------------------------------------------------


class CountingSession:
    """Passes runs on and counts them."""

    def __init__(self, session: onnx.Session) -> None:
        self.session = session
        self.runs = 0

    def run(
        self,
        output_names: Sequence[str] | None,
        inputs: Mapping[str, Array],
        options: onnx.RunOptions | None = None,
        /,
    ) -> list[Array]:
        self.runs += 1
        return self.session.run(output_names, inputs, options)


def counted(model: LoadedModel) -> CountingSession:
    session = CountingSession(model._session)
    model._session = session
    return session


def test_joined_tasks_get_their_own_rows(tmp_path: Path) -> None:
    data = node_models.digits_mlp()
    model = load(data, tmp_path)
    assert model.joinable
    random = np.random.default_rng(5)
    tasks = [{"X": random.normal(size=(rows, 64)).astype(np.float32)} for rows in (1, 4, 1, 2, 1)]
    alone = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for _ in range(3):
        for task, end in zip(tasks, run(model, *tasks), strict=True):
            label, probabilities = alone.run(None, task)
            got = outputs(end)
            np.testing.assert_array_equal(got["label"], label)
            np.testing.assert_allclose(got["probabilities"].astype(float), probabilities, rtol=1e-5)
    session = counted(model)
    run(model, *tasks)
    assert session.runs == 1


def test_a_fixed_batch_is_run_one_by_one(tmp_path: Path) -> None:
    model = load(identity(TensorProto.FLOAT, [1, 4]), tmp_path)
    assert not model.joinable
    session = counted(model)
    for number, end in enumerate(
        run(model, *[{"x": np.full((1, 4), n, np.float32)} for n in range(3)])
    ):
        assert outputs(end)["y"][0, 0] == number
    assert session.runs == 3


def test_a_model_that_mixes_rows_is_found_out_and_never_joined(tmp_path: Path) -> None:
    mean = build(
        [
            helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["x", "m"], ["y"]),
        ],
        [value("x", TensorProto.FLOAT, ["n", 2])],
        [value("y", TensorProto.FLOAT, ["n", 2])],
    )
    model = load(mean, tmp_path)
    assert model.joinable
    tasks = [{"x": np.array([[n, n + 1], [n + 5, n]], np.float32)} for n in range(3)]
    for _ in range(2):
        for task, end in zip(tasks, run(model, *tasks), strict=True):
            np.testing.assert_allclose(
                outputs(end)["y"].astype(float), task["x"] - task["x"].mean(0)
            )
    assert not model.joinable


def test_outputs_with_other_rows_are_found_out(tmp_path: Path) -> None:
    # Says that its output has a row a task, and gives a row an element.
    liar = build(
        [helper.make_node("NonZero", ["x"], ["t"]), helper.make_node("Transpose", ["t"], ["y"])],
        [value("x", TensorProto.FLOAT, ["n", 3])],
        [value("y", TensorProto.INT64, ["n", 2])],
    )
    model = load(liar, tmp_path)
    assert model.joinable
    tasks = [{"x": np.array([[1, 0, 1]], np.float32)}, {"x": np.array([[0, 0, 1]], np.float32)}]
    first, second = run(model, *tasks)
    assert outputs(first)["y"].tolist() == [[0, 0], [0, 2]]
    assert outputs(second)["y"].tolist() == [[0, 2]]
    assert not model.joinable


def test_several_inputs_by_name_in_any_order(tmp_path: Path) -> None:
    model = load(
        build(
            [helper.make_node("Sub", ["a", "b"], ["y"])],
            [value("a", TensorProto.FLOAT, ["n", 2]), value("b", TensorProto.FLOAT, ["n", 2])],
            [value("y", TensorProto.FLOAT, ["n", 2])],
        ),
        tmp_path,
    )
    five, three = np.full((1, 2), 5, np.float32), np.full((1, 2), 3, np.float32)
    for end in run(model, {"b": three, "a": five}, {"a": five, "b": three}):
        assert outputs(end)["y"].tolist() == [[2, 2]]
    mismatch = run(model, {"a": five, "b": np.ones((2, 2), np.float32)}, {"a": five, "b": three})
    assert mismatch[0].code is ErrorCode.INPUT_SHAPE
    assert outputs(mismatch[1])["y"].tolist() == [[2, 2]]


def test_a_failing_run_fails_only_the_task_to_blame(tmp_path: Path) -> None:
    gather = build(
        [helper.make_node("Gather", ["table", "x"], ["y"], axis=0)],
        [value("x", TensorProto.INT64, ["n"])],
        [value("y", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(np.arange(4, dtype=np.float32) * 10, "table")],
    )
    model = load(gather, tmp_path)
    good, bad, also_good = run(model, *[{"x": np.array([index], np.int64)} for index in (3, 99, 1)])
    assert outputs(good)["y"].tolist() == [30]
    assert outputs(also_good)["y"].tolist() == [10]
    assert bad.code is ErrorCode.MODEL_ERROR
    assert "99" in text(bad) or "out of" in text(bad)
    assert "[ONNXRuntimeError]" not in text(bad)


def test_costs_are_learnt_by_batch_size(tmp_path: Path) -> None:
    model = load(node_models.digits_mlp(), tmp_path)
    assert model.expected(1) is None
    task = {"X": np.ones((1, 64), np.float32)}
    run(model, task)
    one = model.expected(1)
    more = model.expected(5)
    assert one is not None
    assert more is not None
    assert 0 < one.session_us <= one.total_us
    assert more.total_us == 4 * one.total_us


# --- models that cannot be run ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PK\x03\x04 this is a zip file", "no ONNX file"),
        (b"", "no ONNX file"),
        (
            build(
                [helper.make_node("Frobnicate", ["x"], ["y"])],
                [value("x", TensorProto.FLOAT, [1])],
                [value("y", TensorProto.FLOAT, [1])],
            ),
            "standard operators",
        ),
        (
            build(
                [helper.make_node("Frobnicate", ["x"], ["y"], domain="com.acme")],
                [value("x", TensorProto.FLOAT, [1])],
                [value("y", TensorProto.FLOAT, [1])],
                extra_domains=["com.acme"],
            ),
            "standard operators",
        ),
        (node_models.digits_mlp()[:-200], "no ONNX file"),
    ],
)
def test_a_file_that_does_not_load_is_an_invalid_model(
    data: bytes, words: str, tmp_path: Path
) -> None:
    with pytest.raises(TaskProblem, match=words) as caught:
        load(data, tmp_path)
    assert caught.value.code is ErrorCode.MODEL_INVALID


def test_a_model_that_gives_a_sequence_is_told_how_to_be_exported(tmp_path: Path) -> None:
    data = build(
        [helper.make_node("SplitToSequence", ["x"], ["y"], axis=0)],
        [value("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
    )
    with pytest.raises(TaskProblem, match="zipmap") as caught:
        load(data, tmp_path)
    assert caught.value.code is ErrorCode.MODEL_ERROR
    assert "seq(tensor(float))" in caught.value.text


def test_a_type_the_wire_lacks_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(TaskProblem, match="bfloat16") as caught:
        load(identity(TensorProto.BFLOAT16, ["n"]), tmp_path)
    assert caught.value.code is ErrorCode.MODEL_ERROR


def test_weights_outside_the_file_are_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"\0" * 16)
    (tmp_path / "cache").mkdir()
    weight = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, entry in (("location", "../secret"), ("length", "16")):
        field = weight.external_data.add()
        field.key, field.value = key, entry
    data = build(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [value("x", TensorProto.FLOAT, [4])],
        [value("y", TensorProto.FLOAT, [4])],
        [weight],
    )
    with pytest.raises(TaskProblem) as caught:
        load(data, tmp_path / "cache")
    assert caught.value.code is ErrorCode.MODEL_INVALID


# --- the pool ---------------------------------------------------------------------------------


class Pool:
    """A runtime with models on disk."""

    def __init__(self, tmp_path: Path, *, memory_limit_bytes: int = 1 << 30) -> None:
        self.tmp_path = tmp_path
        self.forgotten: list[bytes] = []
        self.batches = 0
        self.runtime = Runtime(
            workers=2,
            threads=1,
            memory_limit_bytes=memory_limit_bytes,
            read_reference=no_references,
            on_forgotten=self.forgotten.append,
        )

    async def load(self, data: bytes) -> bytes:
        sha256 = hashlib.sha256(data).digest()
        path = self.tmp_path / sha256.hex()
        path.write_bytes(data)
        await self.runtime.load(ModelReference("m", 1, sha256, len(data), ModelFormat.ONNX), path)
        return sha256

    def start(
        self, sha256: bytes, *tensors: Mapping[str, Array]
    ) -> tuple[int, "asyncio.Future[events.BatchEnded]"]:
        ended: asyncio.Future[events.BatchEnded] = asyncio.get_running_loop().create_future()
        self.batches += 1
        items = tuple(
            BatchItem(number.to_bytes(16, "big"), encode_tensors(task))
            for number, task in enumerate(tensors)
        )
        self.runtime.start(events.RunBatch(self.batches, sha256, items), ended.set_result)
        return self.batches, ended


def in_pool(tmp_path: Path, work: Callable[[Pool], object], **options: int) -> None:
    async def main() -> None:
        pool = Pool(tmp_path, **options)
        try:
            await work(pool)  # type: ignore[misc]
        finally:
            pool.runtime.close()

    asyncio.run(main())


def test_a_tiny_model_moves_into_the_loops_thread_after_it_was_measured(tmp_path: Path) -> None:
    async def work(pool: Pool) -> None:
        sha256 = await pool.load(node_models.digits_mlp())
        task = {"X": np.ones((1, 64), np.float32)}
        _, ended = pool.start(sha256, task)
        assert not ended.done()
        await ended
        for _ in range(50):
            # A busy machine may make some of the runs look slow.
            _, ended = pool.start(sha256, task)
            if ended.done():
                break
            await ended
        assert ended.done()
        assert pool.runtime.counters.inline >= 1

    in_pool(tmp_path, work)


def test_a_slow_model_stays_in_its_threads_and_two_run_at_once(tmp_path: Path) -> None:
    async def work(pool: Pool) -> None:
        sha256 = await pool.load(node_models.busy())
        task = {"products": np.array([300])}
        await pool.start(sha256, task)[1]
        _, first = pool.start(sha256, task)
        _, second = pool.start(sha256, task)
        assert not first.done()
        assert not second.done()
        names = {thread.name for thread in threading.enumerate()}
        assert sum(name.startswith("maille-run") for name in names) == 2
        await asyncio.gather(first, second)
        assert pool.runtime.counters.inline == 0

    in_pool(tmp_path, work)


def test_an_aborted_batch_ends_soon(tmp_path: Path) -> None:
    async def work(pool: Pool) -> None:
        sha256 = await pool.load(node_models.busy())
        number, ended = pool.start(sha256, {"products": np.array([10**7])})
        pool.runtime.abort(number)
        end = (await ended).ends[0]
        assert end.code is ErrorCode.MODEL_ERROR
        assert "erminate" in end.content.decode()

    in_pool(tmp_path, work)


def test_the_memory_limit_forgets_the_model_unused_for_longest(tmp_path: Path) -> None:
    async def work(pool: Pool) -> None:
        first = await pool.load(node_models.digits_mlp(1))
        second = await pool.load(node_models.digits_mlp(2))
        for sha256 in (first, second):
            pool.runtime.unpin(sha256)
        assert pool.runtime.pin(first) is not None
        pool.runtime.unpin(first)
        third = await pool.load(node_models.digits_mlp(3))
        assert pool.forgotten == [second]
        assert pool.runtime.pin(second) is None
        pool.runtime.pin(first)
        with pytest.raises(TaskProblem, match="beside the models that run") as caught:
            await pool.load(node_models.digits_mlp(4))
        assert caught.value.code is ErrorCode.OUT_OF_MEMORY
        pool.runtime.unpin(third)
        await pool.load(node_models.digits_mlp(4))
        assert pool.forgotten == [second, third]

    in_pool(tmp_path, work, memory_limit_bytes=5 * 1024 * 1024 // 2)


def test_a_model_over_the_limit_is_refused_with_the_numbers(tmp_path: Path) -> None:
    async def work(pool: Pool) -> None:
        with pytest.raises(TaskProblem, match="1048576") as caught:
            await pool.load(node_models.digits_mlp())
        assert caught.value.code is ErrorCode.OUT_OF_MEMORY

    in_pool(tmp_path, work, memory_limit_bytes=1024 * 1024)


def test_an_invalid_model_is_known_the_second_time(tmp_path: Path) -> None:
    async def work(pool: Pool) -> None:
        with pytest.raises(TaskProblem):
            await pool.load(b"nothing")
        known = pool.runtime.known_problem(hashlib.sha256(b"nothing").digest())
        assert known is not None
        assert known.code is ErrorCode.MODEL_INVALID

    in_pool(tmp_path, work)
