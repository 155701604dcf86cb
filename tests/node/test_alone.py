"""A node's settings reach the program that replaces the one which found them."""

import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from maille_broker import Endpoint
from maille_broker.running import free_port
from maille_node import EXIT_UNREACHABLE, NodeSettings
from maille_node.alone import HandedOver, hand_over, take_over

KEY = "a-key-that-nobody-may-read"


def handed(tmp_path: Path, port: int = 1883) -> HandedOver:
    settings = NodeSettings(
        endpoint=Endpoint("127.0.0.1", port, username="node", password="another-secret"),
        node="n1",
        cache_directory=tmp_path / "cache",
        state_directory=tmp_path / "state",
        key=KEY,
        connect_timeout_s=0.3,
    )
    return HandedOver(settings, logging.WARNING, "%(levelname)s:%(message)s", "%H")


@pytest.mark.skipif(os.name != "posix", reason="elsewhere the node runs in the same process")
def test_settings_go_through_a_pipe_and_no_secret_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda _, arguments, __: started.append(arguments))
    given = handed(tmp_path)
    hand_over(given)
    (arguments,) = started
    assert KEY not in " ".join(arguments)
    assert "another-secret" not in " ".join(arguments)
    reading = int(arguments[-1])
    assert os.get_inheritable(reading)
    root = logging.getLogger()
    before = root.level
    try:
        assert take_over(reading) == given
    finally:
        root.setLevel(before)
        logging.getLogger("maille_node.run").setLevel(logging.NOTSET)


def test_something_else_in_the_pipe_is_refused() -> None:
    reading, writing = os.pipe()
    os.write(writing, pickle.dumps({"settings": 1}))
    os.close(writing)
    with pytest.raises(ValueError, match="no settings"):
        take_over(reading)


@pytest.mark.skipif(os.name != "posix", reason="elsewhere the node runs in the same process")
def test_the_node_replaces_the_program_and_logs_as_it_did(tmp_path: Path) -> None:
    file = tmp_path / "handed"
    file.write_bytes(pickle.dumps(handed(tmp_path, free_port("127.0.0.1"))))
    program = (
        "import pickle, sys; from maille_node.alone import hand_over; "
        f"hand_over(pickle.loads(open({str(file)!r}, 'rb').read())); print('not replaced')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == EXIT_UNREACHABLE
    assert "not replaced" not in done.stdout
    assert "ERROR:" in done.stderr


def test_the_module_by_itself_says_what_to_type() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "maille_node"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "maille node" in done.stderr
