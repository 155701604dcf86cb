"""A board on a cable becomes a node: the real command, the real library, real MicroPython."""

import ast
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import maille, refused
from real_mesh import RealMesh, eventually

from maille.flashing.settings import KNOWN_SETTINGS
from maille_simulator.boards.micropython_serial import MicroPythonOnSerial

LIBRARY = Path(__file__).resolve().parents[2] / "nodes" / "micropython"

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(120)]


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[RealMesh]:
    running = RealMesh(tmp_path, "amqtt")
    running.start_broker()
    running.start_coordinator()
    yield running
    running.stop()


def test_settings_that_a_board_knows_are_those_that_can_be_changed() -> None:
    tree = ast.parse((LIBRARY / "maille" / "config.py").read_text())
    [defaults] = [
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "DEFAULTS"
    ]
    assert isinstance(defaults, ast.Dict)
    assert {ast.literal_eval(key) for key in defaults.keys if key is not None} == KNOWN_SETTINGS


def test_a_board_is_flashed_joins_and_is_changed(mesh: RealMesh, tmp_path: Path) -> None:
    folder = tmp_path / "board"
    folder.mkdir()
    with MicroPythonOnSerial(folder) as board:
        done = maille(
            mesh,
            *("flash", "esp32", "--port", board.port, "--broker", mesh.broker_url),
            *("--id", "window", "--json"),
            timeout_s=90,
        )
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert document["node"] == "window"
        assert document["joined_after_s"] > 0
        [node] = json.loads(maille(mesh, "nodes", "--json").stdout)
        assert (node["name"], node["state"], node["kind"]) == ("window", "ready", "micropython")
        assert node["multiply_accumulates_per_s"] > 0

        shown = maille(mesh, "board", "config", "--port", board.port, "name=attic", "--json")
        assert json.loads(shown.stdout)["name"] == "attic"
        eventually(lambda: _title(mesh) == "attic", "the new name in the mesh", 30)

        again = maille(mesh, "board", "update", "--port", board.port, "--json")
        assert json.loads(again.stdout)["files_written"] == 0
        eventually(lambda: _state(mesh) == "ready", "back after the update", 30)


def test_a_pico_takes_two_commands(mesh: RealMesh, tmp_path: Path) -> None:
    folder = tmp_path / "pico"
    folder.mkdir()
    with MicroPythonOnSerial(folder) as board:
        done = maille(mesh, "flash", "pico", "--port", board.port, "--json", timeout_s=90)
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert document["node"] is None
        assert document["joined_after_s"] > 0
        assert json.loads((folder / "maille.json").read_text())["serial"] == "usb"
        gateway = ("gateway", "--url", mesh.http_url, "--port", board.port, "--id", "gw", "--json")
        mesh.launch("gateway", *gateway)
        eventually(lambda: [_state(mesh)] == ["ready"] if _nodes(mesh) else False, "it joins", 30)
        assert str(_node(mesh)["name"]).startswith("pico-")
        # The board is at work; once the gateway has left, its settings can be changed as any.
        mesh.signal("gateway", signal.SIGTERM)
        shown = maille(mesh, "board", "config", "--port", board.port, "name=attic", "--json")
        assert json.loads(shown.stdout)["name"] == "attic", shown.stderr
        mesh.launch("gateway", *gateway)
        eventually(
            lambda: any(str(node["name"]).startswith("attic-") for node in _nodes(mesh)),
            "the new name in the mesh",
            30,
        )


def test_a_mesh_on_loopback_is_no_place_for_a_board(mesh: RealMesh, tmp_path: Path) -> None:
    with MicroPythonOnSerial(tmp_path, answers=False) as board:
        text = refused(mesh, "flash", "esp32", "--port", board.port, code=2)
    assert "maille up --lan" in text


def test_a_silent_board_names_where_micropython_is(mesh: RealMesh, tmp_path: Path) -> None:
    folder = tmp_path / "dead"
    folder.mkdir()
    with MicroPythonOnSerial(folder, answers=False) as board:
        text = refused(
            mesh,
            *("flash", "rp2040", "--port", board.port, "--broker", mesh.broker_url),
            code=1,
        )
    assert "RPI_PICO_W" in text


def _nodes(mesh: RealMesh) -> list[dict[str, object]]:
    """The boards; a gateway is a node too."""
    found: list[dict[str, object]] = json.loads(maille(mesh, "nodes", "--json").stdout)
    return [node for node in found if node["kind"] != "gateway"]


def _node(mesh: RealMesh) -> dict[str, object]:
    return _nodes(mesh)[0]


def _title(mesh: RealMesh) -> object:
    return _node(mesh)["title"]


def _state(mesh: RealMesh) -> object:
    return _node(mesh)["state"]
