"""The public API against a real broker and a coordinator that misbehaves on purpose."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from standin import StandIn, stand_in

import maille
from maille import Answer, AsyncMesh, Mesh
from maille_protocol import ErrorCode, OutcomeStatus

pytestmark = pytest.mark.broker

X = np.array([[1.0, 2.0]], dtype=np.float32)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def mesh(mesh_under_test: StandIn) -> Iterator[Mesh]:
    with Mesh(mesh_under_test.http_url) as mesh:
        yield mesh


def test_run_gives_the_outputs_by_name(mesh: Mesh) -> None:
    outputs = mesh.run("double", {"x": X})
    assert outputs["y"].tolist() == [[2.0, 4.0]]
    assert outputs["y"].dtype == np.float32


def test_one_value_will_do_where_the_model_has_one_input(mesh: Mesh) -> None:
    assert mesh.run("double", [[1, 2]])["y"].tolist() == [[2.0, 4.0]]


def test_run_detailed_tells_node_and_times(mesh: Mesh) -> None:
    answer = mesh.run_detailed("add", {"a": [1.0], "b": [2.0]})
    assert answer.outputs["sum"].tolist() == [3.0]
    assert (answer.node, answer.attempts, answer.run_s, answer.total_s) == ("pc-1", 1, 0.001, 0.002)
    assert 0 < answer.latency_s < 5


def test_a_broker_address_is_enough(mesh_under_test: StandIn) -> None:
    with Mesh(mesh_under_test.broker_url) as mesh:
        assert mesh.run("double", X)["y"].tolist() == [[2.0, 4.0]]


def test_the_address_may_come_from_the_environment(
    mesh_under_test: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILLE_URL", mesh_under_test.http_url)
    with Mesh() as mesh:
        assert mesh.description.mesh == "home"


def test_bad_inputs_are_refused_before_anything_is_sent(
    mesh: Mesh, mesh_under_test: StandIn
) -> None:
    with pytest.raises(maille.InputError, match="float64") as caught:
        mesh.run("double", X.astype(np.float64))
    assert caught.value.code == ErrorCode.INPUT_TYPE
    with pytest.raises(maille.InputError, match="shape"):
        mesh.run("double", np.zeros((1, 3), np.float32))
    with pytest.raises(maille.InputError, match="'z'"):
        mesh.run("double", {"z": X})
    with pytest.raises(maille.InputError, match="by name"):
        mesh.run("add", X)
    assert mesh_under_test.counts["submits"] == 0


def test_an_unknown_model_names_near_ones(mesh: Mesh) -> None:
    with pytest.raises(maille.UnknownModel, match="did you mean double"):
        mesh.run("doubel", X)
    with pytest.raises(maille.UnknownModel, match="no version 9, only 1"):
        mesh.run("double", X, version=9)


def test_signatures_are_asked_for_once(mesh: Mesh, mesh_under_test: StandIn) -> None:
    for _ in range(3):
        mesh.run("double", X)
    assert mesh_under_test.counts["GET models"] == 1


def test_a_model_replaced_by_another_signature_is_noticed(
    mesh: Mesh, mesh_under_test: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh.run("double", X)
    newer = {
        **mesh_under_test.models[0],
        "version": 2,
        "inputs": [{"name": "x", "dtype": "float64", "shape": ["batch", 2]}],
    }
    monkeypatch.setattr(mesh_under_test, "models", [*mesh_under_test.models, newer])
    assert mesh.run("double", X.astype(np.float64))["y"].tolist() == [[2.0, 4.0]]
    with pytest.raises(maille.InputError, match="float32, the model takes float64"):
        mesh.run("double", X)


def test_large_inputs_and_outputs_travel_over_http(mesh: Mesh, mesh_under_test: StandIn) -> None:
    large = np.arange(100_000, dtype=np.float32).reshape(-1, 2)
    outputs = mesh.run("double", large)
    assert np.array_equal(outputs["y"], large * 2)
    assert mesh_under_test.counts["PUT artefacts"] == 1
    mesh.run("double", large)
    assert mesh_under_test.counts["PUT artefacts"] == 1


def test_inputs_over_the_mesh_s_limit_are_refused_before_anything_is_sent(
    mesh: Mesh, mesh_under_test: StandIn
) -> None:
    huge = np.zeros((13_000_000, 2), np.float32)
    with pytest.raises(maille.InputError, match="104,000,000 bytes, this mesh takes 67,108,864"):
        mesh.run("double", huge)
    assert mesh_under_test.counts["PUT artefacts"] == 0


def test_map_keeps_the_order_and_calls_back_with_every_answer(mesh: Mesh) -> None:
    answers: list[Answer] = []
    inputs = ([[float(i), 0.0]] for i in range(500))
    results = [out["y"][0, 0] for out in mesh.map("double", inputs, on_answer=answers.append)]
    assert results == [2.0 * i for i in range(500)]
    assert [answer.index for answer in answers] == list(range(500))


def test_map_cuts_arrays_into_rows_that_keep_their_axis(mesh: Mesh) -> None:
    whole = np.arange(20, dtype=np.float32).reshape(10, 2)
    pieces = [out["y"] for out in mesh.map("double", whole, rows=4)]
    assert [len(piece) for piece in pieces] == [4, 4, 2]
    assert np.array_equal(np.concatenate(pieces), whole * 2)
    assert len(list(mesh.map("double", {"x": whole}))) == 10


def test_map_without_order_gives_everything(mesh: Mesh) -> None:
    whole = np.arange(200, dtype=np.float32).reshape(100, 2)
    found = sorted(float(o["y"][0, 0]) for o in mesh.map("double", whole, ordered=False))
    assert found == [4.0 * i for i in range(100)]


def test_map_takes_inputs_as_there_is_room(mesh: Mesh) -> None:
    taken = 0

    def endless() -> Iterator[list[list[int]]]:
        nonlocal taken
        while True:
            taken += 1
            yield [[taken, 0]]

    results = mesh.map("double", endless())
    first = [next(results)["y"][0, 0] for _ in range(50)]
    assert first == [2.0 * i for i in range(1, 51)]
    assert taken < 1000
    results.close()


def test_the_first_bad_input_ends_a_map_and_cancels_the_rest(
    mesh: Mesh, mesh_under_test: StandIn
) -> None:
    mesh_under_test.faults.hold = True
    with pytest.raises(maille.InputError):
        list(mesh.map("double", [X, X, X[0]]))
    wait_until(lambda: not mesh_under_test.open)


def test_map_detailed_goes_on_after_failures(mesh: Mesh, mesh_under_test: StandIn) -> None:
    mesh_under_test.faults.fail = (OutcomeStatus.FAILED, ErrorCode.MODEL_ERROR, "division by zero")
    found = list(mesh.map_detailed("double", [X, X]))
    assert [type(item) for item in found] == [maille.ModelError, maille.ModelError]
    assert "division by zero" in str(found[0])


def test_a_full_queue_slows_a_map_down_and_loses_nothing(
    mesh: Mesh, mesh_under_test: StandIn
) -> None:
    mesh_under_test.faults.refuse_full = 15
    whole = np.arange(80, dtype=np.float32).reshape(40, 2)
    pieces = [out["y"] for out in mesh.map("double", whole)]
    assert np.array_equal(np.concatenate(pieces), whole * 2)


@pytest.mark.parametrize("fault", ["drop_submits", "drop_accepted", "drop_outcomes"])
def test_lost_messages_cost_time_and_nothing_else(
    mesh: Mesh, mesh_under_test: StandIn, fault: str
) -> None:
    setattr(mesh_under_test.faults, fault, 2)
    whole = np.arange(60, dtype=np.float32).reshape(30, 2)
    pieces = [out["y"] for out in mesh.map("double", whole)]
    assert np.array_equal(np.concatenate(pieces), whole * 2)
    assert set(mesh_under_test.runs.values()) == {1}


def test_a_coordinator_that_forgot_everything_gets_open_tasks_again(
    mesh: Mesh, mesh_under_test: StandIn
) -> None:
    mesh_under_test.faults.hold = True
    task = mesh.submit("double", X)
    mesh_under_test.faults.hold = False
    mesh_under_test.restart(forget=True)
    assert task.result(10)["y"].tolist() == [[2.0, 4.0]]


def test_a_submitted_task_is_on_disk_and_can_be_fetched_from_elsewhere(
    mesh: Mesh, mesh_under_test: StandIn
) -> None:
    mesh_under_test.faults.hold = True
    task = mesh.submit("double", X)
    assert task.state == "accepted"
    with pytest.raises(maille.ResultTimeout, match=r"has not ended within 0.05 s"):
        task.result(0.05)
    with pytest.raises(TimeoutError):
        task.result(0.01)
    mesh_under_test.faults.hold = False
    done = mesh.submit("double", X)
    with Mesh(mesh_under_test.http_url) as other:
        assert other.result(done.id)["y"].tolist() == [[2.0, 4.0]]
        with pytest.raises(maille.UnknownTask):
            other.result("ab" * 16)
        with pytest.raises(maille.SettingsError, match="32 hexadecimal"):
            other.result("nonsense")
    task.cancel()
    with pytest.raises(maille.TaskCancelled):
        task.result(10)
    assert task.state == "cancelled"


def test_a_dead_task_tells_its_history(mesh: Mesh, mesh_under_test: StandIn) -> None:
    mesh_under_test.faults.fail = (OutcomeStatus.DEAD, ErrorCode.TOO_MANY_ATTEMPTS, "5 attempts")
    with pytest.raises(maille.TaskDead, match="pc-2: it left") as caught:
        mesh.run("double", X)
    assert [attempt.node for attempt in caught.value.history] == ["pc-1", "pc-2"]
    assert caught.value.node == "pc-1"


def test_an_expired_task_says_so(mesh: Mesh, mesh_under_test: StandIn) -> None:
    mesh_under_test.faults.fail = (OutcomeStatus.EXPIRED, ErrorCode.DEADLINE, "no result after 1 s")
    with pytest.raises(maille.TaskExpired, match="deadline_s"):
        mesh.run("double", X, deadline_s=1)


def test_a_silent_mesh_is_given_up_after_the_time_given(mesh_under_test: StandIn) -> None:
    with Mesh(mesh_under_test.http_url, timeout_s=0.5) as mesh:
        mesh.run("double", X)
        mesh_under_test.faults.silent = True
        started = time.monotonic()
        with pytest.raises(maille.MeshUnavailable, match="does not answer"):
            mesh.run("double", X)
        assert 0.4 < time.monotonic() - started < 5


def test_many_threads_share_one_mesh(mesh: Mesh) -> None:
    results: dict[int, float] = {}

    def work(number: int) -> None:
        for turn in range(10):
            value = float(number * 10 + turn)
            results[number * 10 + turn] = float(mesh.run("double", [[value, 0.0]])["y"][0, 0])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: 2.0 * i for i in range(80)}


def test_the_asynchronous_mesh_does_the_same(mesh_under_test: StandIn) -> None:
    async def main() -> None:
        async with AsyncMesh(mesh_under_test.http_url) as mesh:
            outs = await asyncio.gather(*[mesh.run("double", [[float(i), 0.0]]) for i in range(50)])
            assert [float(out["y"][0, 0]) for out in outs] == [2.0 * i for i in range(50)]
            # What starts in one turn of the loop shares messages.
            assert mesh_under_test.counts["submits"] < 10

            async def source() -> AsyncIterator[list[list[float]]]:
                for i in range(30):
                    await asyncio.sleep(0)
                    yield [[float(i), 0.0]]

            mapped = [float(out["y"][0, 0]) async for out in mesh.map("double", source())]
            assert mapped == [2.0 * i for i in range(30)]
            task = await mesh.submit("double", X)
            assert (await task.result(5))["y"].tolist() == [[2.0, 4.0]]
            mesh_under_test.faults.hold = True
            waiting = asyncio.create_task(mesh.run("double", X))
            await asyncio.to_thread(wait_until, lambda: bool(mesh_under_test.open))
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await asyncio.to_thread(wait_until, lambda: not mesh_under_test.open)

    asyncio.run(main())


def test_closing_ends_whoever_waits(mesh_under_test: StandIn) -> None:
    mesh_under_test.faults.hold = True
    mesh = Mesh(mesh_under_test.http_url)
    mesh.open()
    failed: list[BaseException] = []

    def wait() -> None:
        try:
            mesh.run("double", X)
        except maille.MailleError as error:
            failed.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: bool(mesh_under_test.open))
    mesh.close()
    thread.join(5)
    assert [type(error) for error in failed] == [maille.MeshUnavailable]
    with pytest.raises(maille.MeshNotFound, match="not open"):
        mesh.run("double", X)


def test_a_key_is_asked_for_and_never_shown(tmp_path: Path) -> None:
    key = "correct-horse-battery"
    with stand_in(tmp_path, key) as standing:
        with pytest.raises(maille.Unauthorized, match="MAILLE_KEY"):
            Mesh(standing.http_url).open()
        with pytest.raises(maille.Unauthorized, match="refuses this key"):
            Mesh(standing.http_url, key="wrong-horse-battery").open()
        with Mesh(standing.http_url, key=key) as mesh:
            assert mesh.run("double", X)["y"].tolist() == [[2.0, 4.0]]
            assert key not in repr(mesh.asynchronous.dispatcher.session.link.endpoint)


def test_nobody_there_is_said_with_the_next_step(unused_port: int) -> None:
    with pytest.raises(maille.MeshUnavailable, match="maille up"):
        Mesh(f"http://127.0.0.1:{unused_port}", timeout_s=2).open()
    with pytest.raises(maille.MeshUnavailable, match=str(unused_port)):
        Mesh(f"mqtt://127.0.0.1:{unused_port}", timeout_s=0.5).open()
    with pytest.raises(maille.MeshNotFound, match="http://host:7700"):
        Mesh("somewhere").open()


def test_a_broker_without_a_coordinator_is_told_apart(mesh_under_test: StandIn) -> None:
    with pytest.raises(maille.MeshUnavailable, match="no coordinator of mesh 'elsewhere'"):
        Mesh(mesh_under_test.broker_url, mesh="elsewhere", timeout_s=0.5).open()
