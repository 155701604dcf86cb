import asyncio
import json
import os
import secrets
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from maille_broker import (
    Advertisement,
    BrokerConfigError,
    Endpoint,
    RuntimeRecord,
    browse,
    read_runtime_files,
    write_runtime_file,
)

RECORD = RuntimeRecord(
    mesh="home",
    http_url="http://127.0.0.1:8080",
    broker_url="mqtt://127.0.0.1:1883",
    pid=os.getpid(),
    username="node",
    password="word-nobody-may-see",
)


def test_runtime_file_round_trip_is_private(tmp_path: Path) -> None:
    path = write_runtime_file(tmp_path / "run", RECORD)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    (record,) = read_runtime_files(tmp_path / "run")
    assert replace(record, started_s=None) == RECORD
    assert record.endpoint() == Endpoint(
        "127.0.0.1", 1883, username="node", password="word-nobody-may-see"
    )
    assert "word-nobody-may-see" not in repr(record)


def test_files_of_ended_processes_are_removed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True
    ) as process:
        path = write_runtime_file(tmp_path, replace(RECORD, pid=process.pid))
        assert [record.pid for record in read_runtime_files(tmp_path)] == [process.pid]
        process.communicate("\n")
    assert read_runtime_files(tmp_path) == []
    assert not path.exists()


def test_a_process_with_a_reused_pid_is_not_taken_for_the_coordinator(tmp_path: Path) -> None:
    path = write_runtime_file(tmp_path, RECORD)
    document = json.loads(path.read_text())
    document["started_s"] -= 1000
    path.write_text(json.dumps(document))
    assert read_runtime_files(tmp_path) == []
    assert not path.exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        "[" * 5000,
        '{"mesh": 1}',
        '{"mesh": "home", "http_url": "x", "broker_url": "y", "pid": "1"}',
        '{"mesh": "home", "http_url": "x", "broker_url": "y", "pid": true}',
        '{"mesh": "home", "http_url": "x", "broker_url": "y", "pid": 1, "password": 5}',
        '{"mesh": "home", "http_url": "x", "broker_url": "y", "pid": 1, "started_s": "now"}',
        "x" * 20_000,
    ],
)
def test_damaged_files_are_ignored(text: str, tmp_path: Path) -> None:
    path = tmp_path / "home-1.json"
    path.write_text(text)
    path.chmod(0o600)
    write_runtime_file(tmp_path, RECORD)
    assert [record.pid for record in read_runtime_files(tmp_path)] == [os.getpid()]


def test_files_that_others_can_write_and_links_are_ignored(tmp_path: Path) -> None:
    path = write_runtime_file(tmp_path, RECORD)
    (tmp_path / "link.json").symlink_to(path)
    assert len(read_runtime_files(tmp_path)) == 1
    path.chmod(0o622)
    assert read_runtime_files(tmp_path) == []


def test_wrong_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BrokerConfigError, match="no mesh name"):
        write_runtime_file(tmp_path, replace(RECORD, mesh="../x"))
    with pytest.raises(BrokerConfigError, match="No process"):
        write_runtime_file(tmp_path, replace(RECORD, pid=2**22 + 5))
    assert read_runtime_files(tmp_path / "nowhere") == []


def test_mesh_of_another_process_is_found_on_loopback() -> None:
    mesh = f"test-{secrets.token_hex(4)}"
    script = (
        "import asyncio, sys\n"
        "from maille_broker import Advertisement\n"
        "async def main():\n"
        "    async with Advertisement(sys.argv[1], 'http://127.0.0.1:8080', '1.2.3'):\n"
        "        print('up', flush=True)\n"
        "        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, mesh],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        (record,) = asyncio.run(browse(8, mesh))
        process.communicate("")
    assert (record.mesh, record.http_url, record.version) == (
        mesh,
        "http://127.0.0.1:8080",
        "1.2.3",
    )
    assert record.addresses == ("127.0.0.1",)


def test_readers_put_in_the_address_they_found_and_a_stopped_mesh_is_gone() -> None:
    mesh = f"test-{secrets.token_hex(4)}"

    async def scenario() -> None:
        async with Advertisement(mesh, "http://0.0.0.0:8080/x", "1.2.3"):
            (record,) = await browse(8, mesh)
        assert record.http_url == f"http://{record.addresses[0]}:8080/x"
        assert record.addresses[0] != "0.0.0.0"
        assert mesh not in [other.mesh for other in await browse(0.5)]

    asyncio.run(scenario())


def test_advertisements_hold_no_secrets() -> None:
    with pytest.raises(ValueError, match="no credentials"):
        Advertisement("home", "http://user:password@127.0.0.1", "1")
    with pytest.raises(ValueError, match="no HTTP address"):
        Advertisement("home", "mqtt://127.0.0.1", "1")
    with pytest.raises(BrokerConfigError, match="no mesh name"):
        Advertisement("Home Sweet Home", "http://127.0.0.1", "1")
