"""A process killed while it commits loses nothing that it had acknowledged."""

import subprocess
import sys
from pathlib import Path

import pytest
from journal_records import task_end, task_record

from maille_coordinator.store import Store, checkpoint

_CHILD = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from journal_records import task_end, task_record
from maille_coordinator.store import Store, checkpoint
# Checkpoints all the time, so that some are cut short by the kill as well.
checkpoint._LOOK_EVERY_S = 0.005
checkpoint._RECORDS_PER_CHECKPOINT = 1
checkpoint._RESTART_ABOVE_PAGES = 50
store = Store(Path(sys.argv[1]))
store.open()
print("epoch", store.next_epoch(), flush=True)
while True:
    kept, ended = [task_record() for _ in range(7)], [task_record() for _ in range(5)]
    store.commit(kept + ended)
    store.commit([task_end(record.task_id) for record in ended])
    lines = [f"open {record.task_id.hex()}" for record in kept]
    lines += [f"ended {record.task_id.hex()}" for record in ended]
    os.write(1, ("\\n".join(lines) + "\\n").encode())
"""


@pytest.mark.end_to_end
def test_acknowledged_tasks_survive_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    here = str(Path(__file__).parent)
    opened: set[bytes] = set()
    ended: set[bytes] = set()
    for life in range(1, 4):
        with subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(path), here], stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(3000 * life)]
            child.kill()
            lines += child.stdout.read().splitlines(keepends=True)
        assert lines[0] == f"epoch {life}\n".encode()
        for line in lines[1:]:
            if line.endswith(b"\n"):
                kind, task_id = line.split()
                (opened if kind == b"open" else ended).add(bytes.fromhex(task_id.decode()))
        with Store(path) as store:
            found = {record.task_id for record, _ in store.open_tasks()}
            assert opened <= found
            # What was committed but not yet printed may be there too, at most one round.
            assert len(found) - len(opened) <= 12 * life
            assert not ended & found
            assert all(store.end(task_id) is not None for task_id in ended)
            assert store._connected().execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    with Store(path) as store:
        assert store.next_epoch() == 4


def test_log_is_begun_anew_while_commits_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(checkpoint, "_RECORDS_PER_CHECKPOINT", 500)
    monkeypatch.setattr(checkpoint, "_RESTART_ABOVE_PAGES", 200)
    path = tmp_path / "journal"
    open_ids: set[bytes] = set()
    with Store(path) as store:
        store.commit([task_record()])
        first = times_begun(path)
        # Ends when it has happened three times; the test's time limit is the bound.
        while times_begun(path) < first + 3:
            records = [task_record(content=b"x" * 1000) for _ in range(20)]
            store.commit(records)
            store.commit([task_end(record.task_id) for record in records[1:]])
            open_ids.add(records[0].task_id)
        assert open_ids < {record.task_id for record, _ in store.open_tasks()}
    with Store(path) as store:
        assert open_ids < {record.task_id for record, _ in store.open_tasks()}


def times_begun(path: Path) -> int:
    """The checkpoint sequence number in the log's header (SQLite file format, section 4.1)."""
    with path.with_name(path.name + "-wal").open("rb") as log:
        return int.from_bytes(log.read(32)[12:16], "big")
