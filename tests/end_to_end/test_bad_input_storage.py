"""Files that a disk has damaged, and disks that are full: noticed, told, and mended."""

import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command import maille, refused
from odd_models import write_sum_model
from real_mesh import RealMesh, eventually, real_mesh

import maille as maille_api

pytestmark = [pytest.mark.end_to_end, pytest.mark.broker, pytest.mark.timeout(60)]

VALUES = np.array([1, 2, 3], np.float32)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealMesh]:
    """A mesh of one node, n1, whose files these tests damage."""
    with real_mesh(tmp_path_factory.mktemp("storage"), "mosquitto", ["n1"]) as running:
        yield running


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def stored(mesh: RealMesh, sha256: str) -> Path:
    """The coordinator's file of an artefact."""
    return next(path for path in mesh.directory.rglob(sha256) if "artefacts" in path.parts)


def test_a_file_damaged_on_the_coordinators_disk(mesh: RealMesh, tmp_path: Path) -> None:
    path = write_sum_model(tmp_path / "damaged.onnx", weights=70_001)
    with mesh.client() as client:
        model = client.models.add(path)
        flip_a_bit(stored(mesh, model.sha256))
        with pytest.raises(maille_api.TaskDead) as found:
            client.run("damaged", VALUES)
        assert "damaged" in str(found.value)
        assert "add the model" in str(found.value)
        assert {attempt.code for attempt in found.value.history} == {"artefact_corrupt"}
    assert "was damaged on the disk" in mesh.log("coordinator")
    assert mesh.state("n1") == "ready"
    assert not list((mesh.directory / "n1" / "cache").glob(f"{model.sha256}*"))
    # What the message says helps: the same file, added again, is the same version, and runs.
    done = maille(mesh, "models", "add", str(path), "--url", mesh.http_url, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == model.version
    with mesh.client() as client:
        assert client.run("damaged", VALUES)["total"] == [6.0]
    assert "transient" not in stored(mesh, model.sha256).parts


def test_a_file_missing_on_the_coordinators_disk(mesh: RealMesh, tmp_path: Path) -> None:
    path = write_sum_model(tmp_path / "missing.onnx", weights=70_002)
    with mesh.client() as client:
        model = client.models.add(path)
        stored(mesh, model.sha256).unlink()
        with pytest.raises(maille_api.TaskDead, match="add the model"):
            client.run("missing", VALUES)
        client.models.add(path)
        assert client.run("missing", VALUES)["total"] == [6.0]


def test_a_cached_file_damaged_while_the_node_is_down(mesh: RealMesh, tmp_path: Path) -> None:
    path = write_sum_model(tmp_path / "cached.onnx", weights=70_003)
    with mesh.client() as client:
        model = client.models.add(path)
        assert client.run("cached", VALUES)["total"] == [6.0]
        mesh.signal("n1", signal.SIGTERM)
        cached = mesh.directory / "n1" / "cache" / model.sha256
        flip_a_bit(cached)
        mesh.start_node("n1")
        assert client.run("cached", VALUES)["total"] == [6.0]
    assert cached.read_bytes() == path.read_bytes()


@pytest.fixture(params=["limit", "tmpfs"])
def full_node(
    request: pytest.FixtureRequest, mesh: RealMesh, tmp_path: Path
) -> Iterator[tuple[str, Path]]:
    """A second node whose cache cannot take the model: its id and its cache."""
    node = f"full-{request.param}"
    cache = mesh.directory / node / "cache"
    cache.mkdir(parents=True)
    if request.param == "tmpfs":
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(cache)], capture_output=True
        )
        if mounted.returncode != 0:
            pytest.skip("only root may mount a small disk; the limit on file sizes is tried")
    try:
        mesh.start_node(node)
        mesh.wait_for_state(node, "ready")
        if request.param == "limit":
            # As a full disk, but for this process alone: a write ends early, then fails.
            limits = (256 * 1024, 256 * 1024)
            resource.prlimit(mesh.processes[node].pid, resource.RLIMIT_FSIZE, limits)
        yield node, cache
        mesh.signal(node, signal.SIGTERM)
    finally:
        if os.path.ismount(cache):
            subprocess.run(["umount", str(cache)], check=True)
        shutil.rmtree(cache)


def test_a_full_disk_in_the_cache(
    mesh: RealMesh, full_node: tuple[str, Path], tmp_path: Path
) -> None:
    node, cache = full_node
    path = write_sum_model(tmp_path / f"{node}.onnx", weights=200_000)
    with mesh.client() as client:
        client.models.add(path)
        assert maille(mesh, "node", "drain", "n1", "--url", mesh.http_url).returncode == 0
        mesh.wait_for_state("n1", "draining")
        task = client.submit(node, VALUES)

        def history() -> list[dict[str, object]]:
            found = mesh.get(f"/api/tasks/{task.id}")["history"]
            assert isinstance(found, list)
            return found

        eventually(lambda: bool(history()), "the full node gives the task back")
        assert maille(mesh, "node", "resume", "n1", "--url", mesh.http_url).returncode == 0
        assert task.result(20)["total"] == [6.0]
        first = history()[0]
    assert first["node"] == node
    assert first["code"] == "no_space"
    assert str(cache) in str(first["reason"])
    assert "free some" in str(first["reason"])
    assert "another cache directory" in str(first["reason"])
    told = maille(mesh, "tasks", "show", task.id, "--url", mesh.http_url)
    assert str(cache) in told.stdout.replace("\n", "")
    assert mesh.state(node) == "ready"
    assert not list(cache.iterdir())


def test_a_state_directory_that_cannot_be_used(mesh: RealMesh, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where a directory should be")
    place = str(tmp_path / "file" / "state")
    common = ("--url", mesh.http_url)
    said = refused(mesh, "node", *common, "--state-directory", place, code=2)
    assert place in said
    assert "give another one" in said
    said = refused(mesh, "node", *common, "--id", "n9", "--cache-directory", place, code=2)
    assert place in said
    assert "give another one" in said
    said = refused(
        mesh,
        *("coordinator", "--broker", mesh.broker_url, "--http-port", "0", "--no-advertise"),
        *("--state-directory", place),
        code=2,
    )
    assert place in said
    assert "another" in said
