"""Real models on the real interpreter, to the byte; and what a board's heap does over time."""

import asyncio
import struct
from pathlib import Path

import pytest
from board_mesh import Board, Peer, outputs, peer
from board_models import classifier, random_input
from interpreter import run_on_board
from real_models import REAL_MODELS, converted

from maille_broker import start_broker
from maille_protocol import ModelCommand, ModelOrder, ModelState, ResultStatus, topics
from maille_protocol.tiny import encode_model, quantise_inputs, run

HEAP_GROWTH_BYTES = 1024
MODEL = classifier(1)
CONTAINER = encode_model(MODEL)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", REAL_MODELS)
def test_real_models_give_the_bytes_of_numpy_in_viper_and_in_bytecode(
    name: str, tmp_path: Path
) -> None:
    conversion = converted(name)
    model = conversion.model
    real = REAL_MODELS[name]()
    file = tmp_path / "cases"
    count = 0
    with file.open("wb") as stream:
        for sample in real.unseen[:150]:
            integers = quantise_inputs(model, {real.input_name: sample})
            inputs = [integers[tensor.name] for tensor in model.description.inputs]
            made = run(model, inputs)
            for octets in (
                conversion.data,
                b"".join(array.tobytes() for array in inputs),
                b"".join(array.tobytes() for array in made),
            ):
                stream.write(struct.pack("<I", len(octets)) + octets)
            count += 1
    assert run_on_board("layers.py", file) == [f"cases {count}"]


async def _free_memory(coordinator: Peer, nonce: int) -> int:
    """What the board has free, by its own word."""
    told = len(coordinator.envelopes)
    state = coordinator.board_state()
    coordinator.send(topics.NODE_MODEL, ModelOrder(ModelCommand.REPORT, None, nonce))
    await coordinator.until(lambda: len(coordinator.envelopes) > told)
    await coordinator.until(lambda: coordinator.board_state() is not state)
    return coordinator.board_state().free_memory_bytes


async def _heap_over(folder: Path, tasks: int) -> tuple[int, int]:
    """Free memory after 100 tasks and after `tasks`."""
    async with await start_broker("mosquitto", port=0, data_directory=folder / "broker") as broker:
        board = Board(folder / "board", broker.endpoint.port)
        try:
            async with peer(broker.endpoint) as coordinator:
                board.start()
                await coordinator.ready()
                report = await coordinator.deployed(CONTAINER)
                assert report.state is ModelState.READY
                free: list[int] = []
                (wanted,) = run(MODEL, [random_input(MODEL, 1)])
                for number in range(tasks):
                    task = coordinator.offer(CONTAINER, random_input(MODEL, 1))
                    result = await coordinator.answer(task)
                    assert result.status is ResultStatus.DONE
                    assert outputs(result)["y"] == wanted.tolist()
                    coordinator.results.clear()
                    if number in {99, tasks - 1}:
                        free.append(await _free_memory(coordinator, number))
                return free[0], free[1]
        finally:
            board.kill()


@pytest.mark.timeout(120)
def test_the_heap_stays_as_it_is(tmp_path: Path) -> None:
    early, late = asyncio.run(_heap_over(tmp_path, 1500))
    assert early - late <= HEAP_GROWTH_BYTES


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_heap_stays_as_it_is_over_ten_thousand_tasks(tmp_path: Path) -> None:
    early, late = asyncio.run(_heap_over(tmp_path, 10_000))
    assert early - late <= HEAP_GROWTH_BYTES
