"""Uno and Mega as machine code behind the real gateway: a model delivered to EEPROM, run, sensed, kept."""

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from real_mesh import RealMesh, eventually, real_mesh

from maille_node.firmware import avr
from maille_node.firmware.targets import TARGETS
from maille_simulator.boards.avr_serial import AvrSerial, remember_identity
from maille_simulator.boards.sample_models import switch_model

SKETCH = avr.library_directory() / "examples" / "KeepModels" / "KeepModels.ino"
pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("avr-gcc") is None, reason="no avr-gcc (package gcc-avr)"),
]


def start_gateway(mesh: RealMesh, *boards: AvrSerial) -> None:
    ports = [option for board in boards for option in ("--port", board.path)]
    mesh.launch("gateway", "gateway", "--url", mesh.http_url, *ports, "--id", "gw", "--json")


def boards_of(mesh: RealMesh, state: str) -> list[str]:
    nodes = mesh.get("/api/nodes")["nodes"]
    assert isinstance(nodes, list)
    names = [str(node["node"]) for node in nodes if node["state"] == state]
    return sorted(name for name in names if name != "gw")


def test_models_are_delivered_run_sensed_and_kept(tmp_path: Path) -> None:
    data = switch_model()
    (tmp_path / "switch.tiny").write_bytes(data)
    boards = []
    with real_mesh(tmp_path, "mosquitto", nodes=()) as mesh:
        try:
            for number, name in enumerate(("uno", "mega"), 1):
                target = TARGETS[name]
                built = avr.build(SKETCH, target, tmp_path / name)
                (tmp_path / f"{name}.eeprom").write_bytes(remember_identity(target, number))
                boards.append(AvrSerial(target, built.elf, eeprom=tmp_path / f"{name}.eeprom"))
            start_gateway(mesh, *boards)
            eventually(lambda: len(boards_of(mesh, "ready")) == 2, "both boards are ready", 60)
            names = boards_of(mesh, "ready")
            assert len(set(names)) == 2
            with mesh.client() as client:
                client.models.add(tmp_path / "switch.tiny")
                for name in names:
                    client.boards.deploy("switch", name, timeout_s=90)

                def answer(value: float, name: str) -> list[str]:
                    found = client.run("switch", np.array([[value]], np.float32), target=name)
                    return [str(label) for label in np.ravel(found["class"])]

                for name in names:
                    assert (answer(0.1, name), answer(0.9, name)) == (["low"], ["high"])

                # Reset amid tasks: the model is still there, each task has one result.
                futures = [
                    client.submit("switch", np.array([[step % 2]], np.float32))
                    for step in range(20)
                ]
                for board in boards:
                    board.reset()
                labels = [str(np.ravel(future.result(90)["class"])[0]) for future in futures]
                assert labels == ["low", "high"] * 10

                sense = client.senses.start("switch", names[0], "A0", every_s=0.3)
                eventually(lambda: bool(client.senses.readings(sense.id)), "a reading", 60)
                reading = client.senses.readings(sense.id)[0]
                assert reading.outputs is not None
                assert [str(label) for label in np.ravel(np.asarray(reading.outputs["class"]))] == [
                    "low"
                ]
                assert client.senses.stop(sense.id).id == sense.id

                mesh.signal("gateway", signal.SIGKILL)
                start_gateway(mesh, *boards)
                eventually(lambda: boards_of(mesh, "ready") == names, "both are back", 60)
                mesh.signal("broker", signal.SIGKILL)
                mesh.start_broker()
                for name in names:
                    assert answer(0.9, name) == ["high"]
        finally:
            for board in boards:
                board.close()
    for name in ("uno", "mega"):
        assert data in (tmp_path / f"{name}.eeprom").read_bytes()
