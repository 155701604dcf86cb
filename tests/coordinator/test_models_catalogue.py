"""The catalogue: versions, persistence, suggestions, faults."""

import hashlib
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from maille_coordinator.models import (
    Catalogue,
    CatalogueError,
    Inspection,
    InvalidModelName,
    UnknownModel,
)
from maille_coordinator.records import ModelRecord
from maille_protocol import ModelFormat
from maille_protocol.signature import TensorSpec

INSPECTION = Inspection(
    inputs=(TensorSpec("X", "float32", ("N", 64, None)),),
    outputs=(TensorSpec("label", "str", ()),),
    batchable=True,
)


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    opened = Catalogue(tmp_path / "state" / "catalogue.sqlite3")
    yield opened
    opened.close()


def add(catalogue: Catalogue, name: str, content: str) -> ModelRecord:
    digest = hashlib.sha256(content.encode()).digest()
    return catalogue.add(name, digest, 1234, ModelFormat.ONNX, INSPECTION, f"about {content}")


def test_versions_count_up_and_the_newest_is_the_default(catalogue: Catalogue) -> None:
    first, second = add(catalogue, "digits", "one"), add(catalogue, "digits", "two")
    assert (first.version, second.version) == (1, 2)
    assert catalogue.get("digits") == second
    assert catalogue.get("digits", 1) == first
    assert catalogue.get("digits", 3) is None
    assert catalogue.get("other") is None
    assert catalogue.list() == [first, second]


def test_same_bytes_under_the_same_name_are_the_same_version(catalogue: Catalogue) -> None:
    first = add(catalogue, "digits", "one")
    assert add(catalogue, "digits", "one") == first
    assert add(catalogue, "numbers", "one").version == 1
    assert len(catalogue.list()) == 2


def test_everything_is_there_after_a_restart(catalogue: Catalogue, tmp_path: Path) -> None:
    records = [add(catalogue, "digits", "one"), add(catalogue, "faces", "two")]
    catalogue.close()
    again = Catalogue(tmp_path / "state" / "catalogue.sqlite3")
    assert again.list() == records
    assert records[0].inputs == INSPECTION.inputs
    assert records[0].outputs == INSPECTION.outputs
    again.close()


def test_removed_versions_are_never_given_again(catalogue: Catalogue, tmp_path: Path) -> None:
    add(catalogue, "digits", "one")
    newest = add(catalogue, "digits", "two")
    assert catalogue.remove("digits", 2) == (newest,)
    assert catalogue.uses(hashlib.sha256(b"one").digest())
    assert not catalogue.uses(newest.sha256)
    assert add(catalogue, "digits", "three").version == 3
    assert [record.version for record in catalogue.remove("digits")] == [1, 3]
    catalogue.close()
    again = Catalogue(tmp_path / "state" / "catalogue.sqlite3")
    assert again.list() == []
    assert add(again, "digits", "four").version == 4
    again.close()


def test_unknown_names_come_with_suggestions(catalogue: Catalogue) -> None:
    with pytest.raises(UnknownModel, match="there is none yet"):
        catalogue.require("digits")
    add(catalogue, "digits", "one")
    add(catalogue, "faces", "two")
    with pytest.raises(UnknownModel, match="did you mean 'digits'"):
        catalogue.require("digist")
    with pytest.raises(UnknownModel, match="there are: digits, faces"):
        catalogue.remove("zzz")
    with pytest.raises(UnknownModel, match="no version 7; it has: 1"):
        catalogue.require("digits", 7)
    assert catalogue.require("digits").version == 1


@pytest.mark.parametrize(
    ("name", "offer"),
    [
        ("My Digits!", "'my-digits'"),
        ("", "1 to 64"),
        ("a" * 65, "'aaa"),
        ("-x", "'x'"),
        ("é", "a-z"),
    ],
)
def test_names_that_cannot_be(catalogue: Catalogue, name: str, offer: str) -> None:
    with pytest.raises(InvalidModelName, match=offer):
        add(catalogue, name, "one")
    assert catalogue.list() == []


def test_newer_file(catalogue: Catalogue, tmp_path: Path) -> None:
    catalogue.close()
    path = tmp_path / "state" / "catalogue.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(CatalogueError, match="newer version"):
        Catalogue(path)


def test_file_that_is_no_catalogue(tmp_path: Path) -> None:
    path = tmp_path / "catalogue"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(CatalogueError, match="move it away"):
        Catalogue(path)


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CatalogueError, match="state directory"):
        Catalogue(tmp_path / "file" / "catalogue")


def test_full_disk_changes_nothing(catalogue: Catalogue) -> None:
    first = add(catalogue, "digits", "one")
    (pages,) = catalogue._connection.execute("PRAGMA page_count").fetchone()
    catalogue._connection.execute(f"PRAGMA max_page_count = {pages}")
    large = Inspection((TensorSpec("X" * 20_000, "float32", (1,)),), INSPECTION.outputs, False)
    with pytest.raises(CatalogueError, match="is full"):
        catalogue.add("digits", bytes(32), 1, ModelFormat.ONNX, large)
    assert catalogue.list() == [first]
    assert add(catalogue, "digits", "two").version == 2


def test_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "catalogue"
    Catalogue(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
