"""How soon a node's end is noticed, and that a live one is never taken for dead."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from real_mesh import RealMesh, eventually, real_mesh
from slow_model import write_slow_model

pytestmark = [pytest.mark.end_to_end, pytest.mark.broker, pytest.mark.timeout(60)]

CLOSED_SOCKET_S = 0.5
SILENT_DEATH_S = 3.0
SOAK_S = 600.0


def seconds_until_lost(mesh: RealMesh, node: str) -> float:
    begin_s = time.monotonic()
    eventually(lambda: mesh.state(node) == "lost", f"{node} is lost", 10)
    return time.monotonic() - begin_s


@pytest.mark.parametrize("kind", ["amqtt", "mosquitto", "nats"])
def test_ends_are_noticed_in_time(tmp_path: Path, kind: str) -> None:
    with real_mesh(tmp_path, kind) as mesh:
        mesh.signal("n1", signal.SIGKILL)
        assert seconds_until_lost(mesh, "n1") <= CLOSED_SOCKET_S
        mesh.signal("n2", signal.SIGSTOP)
        assert seconds_until_lost(mesh, "n2") <= SILENT_DEATH_S
        mesh.signal("n2", signal.SIGCONT)
        mesh.wait_for_state("n2", "ready")


def test_a_node_that_leaves_in_order_is_not_lost(tmp_path: Path) -> None:
    with real_mesh(tmp_path, "mosquitto", nodes=["n1"]) as mesh:
        mesh.signal("n1", signal.SIGTERM)
        mesh.wait_for_state("n1", "disconnected")
        assert mesh.metric("nodes_lost_total") == 0


def test_a_node_is_found_by_mdns_alone(tmp_path: Path) -> None:
    """Another folder for running programs stands in for another machine."""
    with real_mesh(tmp_path, "mosquitto", nodes=[]) as mesh:
        mesh.signal("coordinator", signal.SIGTERM)
        mesh.start_coordinator("--advertise")
        mesh.extra_environment["MAILLE_RUNTIME_DIRECTORY"] = str(tmp_path / "elsewhere")
        mesh.launch("far", "node", "--id", "far", wait_for_line=False)
        mesh.wait_for_state("far", "ready")


def test_a_restart_with_ten_thousand_open_tasks_serves_again_in_time(tmp_path: Path) -> None:
    with real_mesh(tmp_path, "mosquitto", nodes=[]) as mesh:
        with mesh.client() as client:
            client.models.add(write_slow_model(tmp_path / "slow.onnx"), name="slow")
            threads = [
                threading.Thread(
                    target=lambda: [
                        client.submit("slow", np.zeros(1, np.float32)) for _ in range(1000)
                    ]
                )
                for _ in range(10)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert mesh.metric("tasks_open") == 10_000
        mesh.signal("coordinator", signal.SIGKILL)
        begin_s = time.monotonic()
        mesh.start_coordinator()
        assert mesh.metric("tasks_open") == 10_000
        took_s = time.monotonic() - begin_s
        assert took_s <= 3.0


@pytest.mark.slow
@pytest.mark.timeout(SOAK_S + 120)
def test_no_live_node_is_listed_lost_under_full_load(tmp_path: Path) -> None:
    with real_mesh(tmp_path, "mosquitto") as mesh, mesh.client() as client:
        client.models.add(write_slow_model(tmp_path / "slow.onnx"), name="slow")
        until_s = time.monotonic() + SOAK_S

        def questions() -> Iterator[np.ndarray[tuple[int], np.dtype[np.float32]]]:
            number = 0
            while time.monotonic() < until_s:
                number += 1
                yield np.array([number % 1000], np.float32)

        done = sum(1 for _ in client.map("slow", questions()))
        assert done > 1000
        assert mesh.metric("nodes_lost_total") == 0
        assert mesh.metric("tasks_done_total") == done
