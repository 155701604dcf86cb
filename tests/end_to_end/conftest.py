"""Fixtures of the end-to-end tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from odd_models import write_sum_model
from real_mesh import RealMesh, real_mesh
from slow_model import write_slow_model


@pytest.fixture(params=["amqtt", "mosquitto", "nats"])
def mesh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RealMesh]:
    """Broker, coordinator and two nodes, with the model `slow`."""
    with real_mesh(tmp_path, request.param) as running:
        with running.client() as client:
            client.models.add(write_slow_model(tmp_path / "slow.onnx"), name="slow")
        yield running


@pytest.fixture(scope="session")
def shared_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealMesh]:
    """One mesh on mosquitto for all tests that leave it as they found it: nodes n1 and n2 ready,
    models `slow` and `sum`, no open task."""
    directory = tmp_path_factory.mktemp("shared-mesh")
    with real_mesh(directory, "mosquitto") as running:
        with running.client() as client:
            client.models.add(write_slow_model(directory / "slow.onnx"), name="slow")
            client.models.add(write_sum_model(directory / "sum.onnx"), name="sum")
        yield running
