"""Fixtures of the end-to-end tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from real_mesh import RealMesh, real_mesh
from slow_model import write_slow_model


@pytest.fixture(params=["amqtt", "mosquitto", "nats"])
def mesh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RealMesh]:
    """Broker, coordinator and two nodes, with the model `slow`."""
    with real_mesh(tmp_path, request.param) as running:
        with running.client() as client:
            client.models.add(write_slow_model(tmp_path / "slow.onnx"), name="slow")
        yield running
