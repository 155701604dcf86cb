"""Finding the mesh, and the key that opens it."""

import asyncio
import os
from pathlib import Path

import pytest
from standin import StandIn

import maille
from maille import keys
from maille.locate import broker_endpoint, choose_found, choose_local, locate
from maille.views import MeshDescription
from maille_broker import MeshRecord, RuntimeRecord, write_runtime_file

KEY = "correct-horse-battery"


def record(mesh: str) -> RuntimeRecord:
    return RuntimeRecord(mesh, "http://127.0.0.1:1", "mqtt://127.0.0.1:2", os.getpid())


def description(broker_url: str) -> MeshDescription:
    return MeshDescription("home", "main", 1, "0", broker_url, None, True, 1)


def test_the_one_mesh_of_this_machine_is_taken() -> None:
    assert choose_local([], None) is None
    assert choose_local([record("a")], None) == record("a")
    assert choose_local([record("a"), record("b")], "b") == record("b")
    assert choose_local([record("a")], "b") is None


def test_several_meshes_are_a_question_not_a_guess() -> None:
    with pytest.raises(maille.MeshNotFound, match=r"a, b.*--mesh"):
        choose_local([record("a"), record("b")], None)
    found = [
        MeshRecord("a", "http://1.2.3.4:1", "0", ()),
        MeshRecord("b", "http://1.2.3.5:1", "0", ()),
    ]
    with pytest.raises(maille.MeshNotFound, match=r"a at http://1.2.3.4:1, b at"):
        choose_found(found, None)
    assert choose_found(found, "b").http_url == "http://1.2.3.5:1"
    with pytest.raises(maille.MeshNotFound, match="maille up"):
        choose_found([], None)


def test_a_broker_known_as_loopback_is_where_the_coordinator_is() -> None:
    endpoint = broker_endpoint(
        description("mqtt://127.0.0.1:1883"), "http://10.0.0.7:7700", None, "client"
    )
    assert (endpoint.host, endpoint.port, endpoint.username) == ("10.0.0.7", 1883, None)
    same = broker_endpoint(description("mqtt://10.0.0.9:1883"), "http://10.0.0.7:7700", KEY, "node")
    assert (same.host, same.username) == ("10.0.0.9", "node")
    assert same.password == keys.password(KEY, "home", "node")
    assert KEY not in repr(same)


@pytest.mark.broker
def test_a_mesh_of_this_machine_is_found_without_an_address(
    mesh_under_test: StandIn, tmp_path: Path
) -> None:
    write_runtime_file(
        tmp_path / "runtime",
        RuntimeRecord("home", mesh_under_test.http_url, mesh_under_test.broker_url, os.getpid()),
    )
    with maille.Mesh() as mesh:
        assert mesh.run("double", [[1, 2]])["y"].tolist() == [[2.0, 4.0]]


@pytest.mark.broker
def test_another_name_than_the_coordinators_is_refused(mesh_under_test: StandIn) -> None:
    with pytest.raises(maille.MeshNotFound, match="serves mesh 'home', not 'garden'"):
        asyncio.run(
            locate(mesh_under_test.http_url, key=None, mesh="garden", timeout_s=5, role="client")
        )


def test_each_role_has_its_own_password_and_none_tells_the_key() -> None:
    passwords = keys.credentials(KEY, "home")
    assert set(passwords) == {"coordinator", "node", "client"}
    assert len(set(passwords.values())) == 3
    assert passwords != keys.credentials(KEY, "garden")
    assert all(len(text) == 32 and KEY not in text for text in passwords.values())


def test_keys_are_made_and_checked(tmp_path: Path) -> None:
    key = keys.new_key()
    assert key != keys.new_key()
    assert keys.check_key(f" {key}\n") == key
    for bad in ("short", "x" * 15, "with blanks in between", "schlüssel-schlüssel"):
        with pytest.raises(maille.SettingsError, match="at least 16"):
            keys.check_key(bad)
    path = tmp_path / "key"
    with pytest.raises(maille.SettingsError, match="cannot be read"):
        keys.read_key_file(path)
    path.write_text("\n")
    with pytest.raises(maille.SettingsError, match="is empty"):
        keys.read_key_file(path)
    path.write_text(f"{key}\n")
    assert keys.read_key_file(path) == key
