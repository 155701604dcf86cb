"""AVR machine code, tuned and plain, gives NumPy's bytes: random layers and whole models."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from avr_support import FIRMWARE, needs_avr
from random_layers import depthwise_case, random_cases
from real_models import REAL_MODELS, converted
from test_arduino_model import run as run_on_host

from maille_node.firmware import avr
from maille_node.firmware.targets import MEGA, UNO, AvrTarget
from maille_protocol.tensors import Array
from maille_protocol.tiny import LayerKind, Model, Window, encode_model, run
from maille_simulator.boards.avr import AvrBoard

pytestmark = needs_avr
FLASH, RAM, EEPROM = range(3)
FLASH_ADDRESS = 0x5800
ARENA_BYTES = 1240
RUN, SELF_TEST = 1, 2
SEED = 2026


class Machine:
    """A simulated chip that runs models for us."""

    def __init__(self, target: AvrTarget, folder: Path, *defines: str) -> None:
        self.built = avr.build(
            FIRMWARE / "model_cases.cpp", target, folder, defines=defines, with_core=False
        )
        assert self.built.flash_bytes < FLASH_ADDRESS
        symbols = avr.symbols(self.built)
        self.mailbox = symbols["mailbox"][0] & 0xFFFF
        self.arena = symbols["arena"][0] & 0xFFFF
        self.board = AvrBoard(target, self.built.elf)
        self.board.run_for_us(1e6, at_mark=True)

    def command(self, command: int, document: bytes, memory: int = FLASH) -> tuple[int, int]:
        """Fault and cycles."""
        address = 0
        if memory == FLASH:
            address = FLASH_ADDRESS
            self.board.write_flash(address, document)
        else:
            self.board.write_eeprom(0, document)
        size = len(document).to_bytes(2, "little")
        place = address.to_bytes(2, "little")
        self.board.write_memory(self.mailbox, bytes([command, memory]) + place + size)
        start = self.board.cycle
        self.board.marks.clear()
        self.board.run_for_us(120e6, at_mark=True)
        assert self.board.marks, "the firmware did not come back"
        return self.board.marks[-1].value, self.board.cycle - start

    def run(self, model: Model, document: bytes, inputs: list[Array], memory: int = FLASH) -> bytes:
        """The bytes of all outputs."""
        for tensor, values in zip(model.inputs, inputs, strict=True):
            self.board.write_memory(self.arena + tensor.offset, octets(values))
        fault, _ = self.command(RUN, document, memory)
        assert fault == 0
        return b"".join(
            self.board.memory(self.arena + tensor.offset, tensor.size_bytes)
            for tensor in model.outputs
        )


def octets(values: Array) -> bytes:
    return values.astype(values.dtype.newbyteorder("<")).tobytes()


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Machine]]:
    made = {
        "tuned": Machine(UNO, tmp_path_factory.mktemp("tuned")),
        "plain": Machine(UNO, tmp_path_factory.mktemp("plain"), "MAILLE_PLAIN_KERNELS"),
    }
    yield made
    for machine in made.values():
        machine.board.close()


def _compare(machines: dict[str, Machine], count: int, seed: int) -> dict[LayerKind, int]:
    seen: dict[LayerKind, int] = {}
    for index, (model, inputs) in enumerate(random_cases(seed=seed, count=count)):
        document = encode_model(model)
        arrays = list(inputs)
        wanted = b"".join(octets(output) for output in run(model, arrays))
        assert run_on_host(document, b"".join(map(octets, arrays))) == wanted, f"host, case {index}"
        for name, machine in machines.items():
            given = machine.run(model, document, arrays)
            assert given == wanted, f"{name}, case {index}: {model.layers[0]}"
        if len(document) <= UNO.eeprom_bytes and index % 7 == 0:
            given = machines["tuned"].run(model, document, arrays, EEPROM)
            assert given == wanted, f"EEPROM, case {index}"
        kind = model.layers[0].KIND
        seen[kind] = seen.get(kind, 0) + 1
    return seen


# Tiles of the AVR kernel: more columns, more rows than one holds, strides, windows beyond the edges,
# several outputs of a channel, too many weights for it.
TILED = (
    Window(5, 40, 2, 5, 40, 2, 3, 3, 1, 1, 1, 1),
    Window(20, 6, 3, 20, 6, 3, 3, 3, 1, 1, 1, 1),
    Window(11, 21, 1, 6, 11, 3, 3, 3, 2, 2, 2, 2),
    Window(9, 30, 1, 9, 30, 2, 5, 5, 1, 1, 2, 2),
    Window(1, 250, 2, 1, 250, 2, 1, 9, 1, 1, 0, 4),
    Window(4, 60, 2, 2, 3, 2, 3, 3, 3, 29, 0, 1),
    Window(10, 10, 2, 3, 3, 4, 8, 8, 4, 4, 7, 7),
    Window(9, 9, 1, 1, 1, 1, 9, 9, 1, 1, 0, 0),
)


@pytest.mark.timeout(60)
def test_depthwise_convolutions_of_many_tiles(machines: dict[str, Machine]) -> None:
    for window in TILED:
        for seed in range(6):
            model, inputs = depthwise_case(seed, window)
            document = encode_model(model)
            wanted = b"".join(octets(output) for output in run(model, inputs))
            for memory in (FLASH, EEPROM) if len(document) <= UNO.eeprom_bytes else (FLASH,):
                given = machines["tuned"].run(model, document, inputs, memory)
                assert given == wanted, f"{window}, seed {seed}, memory {memory}"


@pytest.mark.timeout(300)
def test_random_layers(machines: dict[str, Machine]) -> None:
    seen = _compare(machines, 500, SEED)
    assert set(seen) == set(LayerKind)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_random_layers(machines: dict[str, Machine]) -> None:
    seen = _compare(machines, 10_000, SEED + 1)
    assert sum(seen.values()) == 10_000
    assert set(seen) == set(LayerKind)


@pytest.fixture(scope="module")
def mega(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(MEGA, tmp_path_factory.mktemp("mega"))
    yield machine
    machine.board.close()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", REAL_MODELS)
def test_real_models(machines: dict[str, Machine], mega: Machine, name: str) -> None:
    conversion = converted(name)
    document, model = conversion.data, conversion.model
    fitting = {"mega": mega}
    room = UNO.flash_bytes + 512 - FLASH_ADDRESS
    if len(document) <= room and model.arena_bytes <= ARENA_BYTES:
        fitting |= machines
    rng = np.random.default_rng(5)
    inputs = [
        rng.integers(0, 200, tensor.count).astype(tensor.element_type.dtype)
        for tensor in model.inputs
    ]
    wanted = b"".join(octets(output) for output in run(model, inputs))
    assert run_on_host(document, b"".join(map(octets, inputs))) == wanted
    for machine_name, machine in fitting.items():
        fault, cycles = machine.command(SELF_TEST, document)
        assert fault == 0, machine_name
        assert machine.run(model, document, inputs) == wanted, machine_name
        each = cycles / model.self_test_count / 16_000
        print(f"{name} on {machine_name}: {each:.2f} ms for each self-test")  # noqa: T201
