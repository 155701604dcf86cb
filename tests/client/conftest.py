"""What several tests of the client use."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from standin import StandIn, stand_in


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the person who runs the tests, and no mesh of theirs, takes part."""
    for name in ("MAILLE_URL", "MAILLE_KEY", "MAILLE_MESH", "MAILLE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MAILLE_RUNTIME_DIRECTORY", str(tmp_path / "runtime"))


@pytest.fixture(scope="module")
def shared_stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    with stand_in(tmp_path_factory.mktemp("mesh")) as mesh:
        yield mesh


@pytest.fixture
def mesh_under_test(shared_stand_in: StandIn) -> StandIn:
    """The shared mesh without faults, and with its counts at zero."""
    shared_stand_in.faults = type(shared_stand_in.faults)()
    shared_stand_in.counts.clear()
    shared_stand_in.runs.clear()
    return shared_stand_in


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
