"""Settings, identity and measurement of a node."""

import json
import re
import time
from pathlib import Path

import pytest

from maille_broker import Endpoint
from maille_node import NodeSettings, SettingsError, measure
from maille_node.identity import claim, from_host
from maille_protocol.limits import ID_PATTERN

ENDPOINT = Endpoint("127.0.0.1", 1883)


def test_the_key_is_in_no_repr() -> None:
    settings = NodeSettings(endpoint=ENDPOINT, key="s3cret")
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mesh": "My Mesh"}, "mesh 'My Mesh'"),
        ({"node": "a/b"}, "node id 'a/b'"),
        ({"name": "x" * 65}, "1 to 64"),
        ({"slots": 0}, "slots is 0"),
        ({"slots": 5000}, "1 to 1024"),
        ({"workers": -1}, "workers is -1"),
        ({"cache_limit_bytes": 5}, "cache_limit_bytes is 5"),
        ({"drain_timeout_s": -1.0}, "drain_timeout_s"),
        ({"connect_timeout_s": 0.0}, "connect_timeout_s"),
        ({"http_url": "ftp://x"}, "http://host:7700"),
        ({"http_url": "http://user:pw@host"}, "http://host:7700"),
        ({"http_url": "http://host:99999"}, "http://host:7700"),
        ({"key": "line\nbreak"}, "printable"),
    ],
)
def test_settings_that_cannot_work_are_named(fields: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(words)):
        NodeSettings(endpoint=ENDPOINT, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("Desk-PC.local", "desk-pc"),
        ("été_2", "t-2"),
        ("", "node"),
        ("---", "node"),
        ("x" * 80, "x" * 24),
    ],
)
def test_any_host_name_becomes_an_id(host: str, expected: str) -> None:
    assert from_host(host) == expected
    assert re.fullmatch(ID_PATTERN, from_host(host))


def test_an_identity_is_stable_and_a_second_node_gets_its_own(tmp_path: Path) -> None:
    first = claim(tmp_path, host="desk")
    second = claim(tmp_path, host="desk")
    assert first.node != second.node
    assert re.fullmatch(r"desk-[0-9a-f]{4}", first.node)
    first.close()
    again = claim(tmp_path, host="renamed")
    assert again.node == first.node
    again.close()
    second.close()


def test_a_damaged_identity_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "node-0.id").write_bytes(b"\xff\xfe Not An Id")
    identity = claim(tmp_path, host="desk")
    assert identity.node.startswith("desk-")
    identity.close()
    again = claim(tmp_path, host="desk")
    assert again.node == identity.node
    again.close()


def test_a_state_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=re.escape(str(tmp_path))):
        claim(tmp_path / "file", host="desk")


# --- measurement ------------------------------------------------------------------------------


def test_a_measurement_gives_numbers_and_is_kept_for_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measure.measure(tmp_path / "not" / "yet", tmp_path)
    assert first.cores >= 1
    assert first.memory_bytes > 1 << 20
    assert first.multiply_accumulates_per_s > 1e7
    assert first.memory_bytes_per_s > 1e7
    assert first.disk_free_bytes > 0

    def forbidden() -> int:
        raise AssertionError("measured again")

    monkeypatch.setattr(measure, "_multiply_accumulates_per_s", forbidden)
    again = measure.measure(tmp_path, tmp_path)
    assert again.multiply_accumulates_per_s == first.multiply_accumulates_per_s
    with pytest.raises(AssertionError, match="measured again"):
        measure.measure(tmp_path, tmp_path, remeasure=True)
    file = tmp_path / "measured.json"
    kept = json.loads(file.read_text())
    for change in (
        {"at_unix_s": time.time() - 2 * measure.KEPT_S},
        {"at_unix_s": time.time() + 1000},
        {"fingerprint": ["another machine"]},
        {"memory_bytes_per_s": "fast"},
    ):
        file.write_text(json.dumps({**kept, **change}))
        with pytest.raises(AssertionError, match="measured again"):
            measure.measure(tmp_path, tmp_path)
    file.write_text("{broken")
    with pytest.raises(AssertionError, match="measured again"):
        measure.measure(tmp_path, tmp_path)


def test_the_control_groups_limits_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_CGROUP_ROOT", tmp_path)
    before = measure.usable_memory_bytes()
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text("123456789\n")
    assert measure.usable_cores() == 1
    assert measure.usable_memory_bytes() == 123456789
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert measure.usable_memory_bytes() == before
