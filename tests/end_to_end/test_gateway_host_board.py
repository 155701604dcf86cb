"""The Arduino firmware compiled for this machine behind the real gateway, with sanitizers."""

from pathlib import Path

import numpy as np
import pytest
from real_mesh import eventually, real_mesh

from maille_simulator.boards.host_board import HostBoard
from maille_simulator.boards.sample_models import dense_model, switch_model

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(120)]


def test_built_in_delivered_and_sensed(tmp_path: Path) -> None:
    built_in, delivered = switch_model(), dense_model(64, 10)
    (tmp_path / "switch.tiny").write_bytes(built_in)
    (tmp_path / "dense.tiny").write_bytes(delivered)
    board = HostBoard("pc-board", tmp_path, [built_in], checked=True)
    with real_mesh(tmp_path, "mosquitto", nodes=()) as mesh:
        arguments = (
            "gateway",
            "--url",
            mesh.http_url,
            "--port",
            board.path,
            "--id",
            "gw",
            "--json",
        )
        mesh.launch("gateway", *arguments)

        def names() -> list[str]:
            nodes = mesh.get("/api/nodes")["nodes"]
            assert isinstance(nodes, list)
            ready = [str(node["node"]) for node in nodes if node["state"] == "ready"]
            return [name for name in ready if name.startswith("pc-board")]

        eventually(lambda: len(names()) == 1, "the board is ready", 20)
        (name,) = names()
        with mesh.client() as client:
            client.models.add(tmp_path / "switch.tiny")
            client.models.add(tmp_path / "dense.tiny", name="dense")
            found = client.run("switch", np.array([[0.9]], np.float32), target=name)
            assert [str(label) for label in np.ravel(found["class"])] == ["high"]
            client.boards.deploy("dense", name, timeout_s=40)
            images = np.random.default_rng(3).random((30, 64), np.float32)
            futures = [client.submit("dense", image[np.newaxis], target=name) for image in images]
            assert len({str(np.ravel(future.result(30)["class"])) for future in futures}) > 1
            sense = client.senses.start("switch", name, "ramp", every_s=0.1)

            def labels() -> set[str]:
                seen = client.senses.readings(sense.id)
                return {
                    str(np.asarray(one.outputs["class"]).ravel()[0]) for one in seen if one.outputs
                }

            eventually(lambda: labels() == {"low", "high"}, "both ends of the ramp", 20)
            client.senses.stop(sense.id)
    assert board.close() == 0, "a sanitizer has something to say"
    assert delivered in (tmp_path / "pc-board.store").read_bytes()
