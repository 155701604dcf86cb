"""Real AVR machine code under simavr, behind the real gateway, a real broker and coordinator."""

import contextlib
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from real_mesh import RealMesh, eventually, real_mesh
from sklearn.datasets import load_digits

from maille_node.firmware import avr
from maille_node.firmware.targets import MEGA, UNO, AvrTarget
from maille_protocol.tiny import Model, decode_model, dequantise_outputs, quantise_inputs, run
from maille_simulator.boards.avr_serial import AvrSerial

EXAMPLES = Path(__file__).parents[2] / "nodes" / "arduino" / "examples"
SKETCH = EXAMPLES / "DigitsOnUno"
TASKS = 20

pytestmark = [
    pytest.mark.skipif(shutil.which("avr-gcc") is None, reason="no avr-gcc (package gcc-avr)"),
    pytest.mark.timeout(180),
]


def document() -> bytes:
    """The model in the sketch's header."""
    text = (SKETCH / "model.h").read_text("utf-8")
    body = text.split("_document[] PROGMEM = {", 1)[1].split("}", 1)[0]
    return bytes(int(number) for number in body.replace("\n", "").split(",") if number.strip())


@contextlib.contextmanager
def board(sketch: str, target: AvrTarget, folder: Path) -> Iterator[AvrSerial]:
    """A board with one of the examples, as it would be flashed."""
    built = avr.build(EXAMPLES / sketch / f"{sketch}.ino", target, folder / target.name)
    with AvrSerial(target, built.elf) as made:
        yield made


def start_gateway(mesh: RealMesh, uno: AvrSerial) -> None:
    arguments = ("gateway", "--url", mesh.http_url, "--port", uno.path, "--id", "gw", "--json")
    mesh.launch("gateway", *arguments)


def the_node(mesh: RealMesh) -> tuple[str, str]:
    """Id and state of the one node behind the gateway."""
    nodes = mesh.get("/api/nodes")["nodes"]
    assert isinstance(nodes, list)
    found = [node for node in nodes if node["info"] and node["info"]["gateway"] == "gw"]
    return (str(found[0]["node"]), str(found[0]["state"])) if found else ("", "")


def wait_for_state(mesh: RealMesh, state: str, timeout_s: float = 20) -> str:
    """Wait for that; gives the node's id."""
    eventually(lambda: the_node(mesh)[1] == state, f"the board is {state}", timeout_s)
    return the_node(mesh)[0]


def expected(model: Model, inputs: dict[str, np.ndarray]) -> dict[str, list[object]]:
    """What NumPy makes of it, in real numbers."""
    outputs = run(model, list(quantise_inputs(model, inputs).values()))
    named = {
        description.name: array.reshape(description.tiny_shape)
        for description, array in zip(model.description.outputs, outputs, strict=True)
    }
    return {key: array.ravel().tolist() for key, array in dequantise_outputs(model, named).items()}


def classify(mesh: RealMesh, model: Model, first: int, uno: AvrSerial | None = None) -> None:
    """Tasks through the whole mesh; with a board, it is reset amid them."""
    described = model.description.inputs[0]
    cases = [
        {described.name: image.reshape(described.shape).astype(np.float32)}
        for image in load_digits().data[first : first + TASKS]
    ]
    with mesh.client() as client:
        futures = [client.submit("digits-uno", case) for case in cases]
        if uno is not None:
            uno.reset()
        for case, future in zip(cases, futures, strict=True):
            found = {key: np.ravel(value).tolist() for key, value in future.result(60).items()}
            assert found == expected(model, case)


@pytest.mark.parametrize("target", [UNO, MEGA], ids=lambda target: target.name)
def test_a_board_classifies_digits_through_resets_and_restarts(
    tmp_path: Path, target: AvrTarget
) -> None:
    data = document()
    model = decode_model(data)
    container = tmp_path / "digits-uno.tiny"
    container.write_bytes(data)
    with (
        board("DigitsOnUno", target, tmp_path) as uno,
        real_mesh(tmp_path, "mosquitto", nodes=()) as mesh,
    ):
        with mesh.client() as client:
            client.models.add(container, name="digits-uno")
        start_gateway(mesh, uno)
        wait_for_state(mesh, "ready")
        classify(mesh, model, 0)
        classify(mesh, model, 100, uno)
        mesh.signal("gateway", signal.SIGKILL)
        wait_for_state(mesh, "lost", 5)
        start_gateway(mesh, uno)
        classify(mesh, model, 200)
        mesh.signal("broker", signal.SIGKILL)
        mesh.start_broker()
        classify(mesh, model, 300)
