"""The journal: what goes in comes out, conflicts and faults change nothing."""

import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from journal_records import REFERENCE, task_end, task_record

from maille_coordinator.records import NodeWish, StartedMark
from maille_coordinator.store import (
    JournalConflict,
    Store,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreVersion,
)
from maille_protocol import OutcomeStatus


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store(path) as opened:
        yield opened


def reopened(store: Store, path: Path) -> Store:
    store.close()
    again = Store(path)
    again.open()
    return again


def test_open_tasks_come_back_whole_and_in_order(store: Store, path: Path) -> None:
    plain = task_record()
    referring = task_record(content=REFERENCE)
    marked = task_record()
    store.commit([plain, referring])
    store.commit([marked, StartedMark(marked.task_id, "node-1")])
    again = reopened(store, path)
    assert again.open_tasks() == [
        (plain, None),
        (referring, None),
        (marked, StartedMark(marked.task_id, "node-1")),
    ]
    again.close()


def test_ended_task_keeps_its_end_and_is_no_longer_open(store: Store, path: Path) -> None:
    record = task_record()
    end = task_end(record.task_id, content=REFERENCE)
    store.commit([record])
    assert store.is_open(record.task_id)
    store.commit([end])
    assert not store.is_open(record.task_id)
    again = reopened(store, path)
    assert again.open_tasks() == []
    assert again.end(record.task_id) == end
    view = again.task(record.task_id)
    assert view is not None
    assert (view.state, view.client, view.content, view.history) == (
        "done",
        record.client,
        REFERENCE,
        end.history,
    )
    again.close()


def test_open_task_is_shown_as_queued(store: Store) -> None:
    record = task_record()
    store.commit([record, StartedMark(record.task_id, "node-1")])
    view = store.task(record.task_id)
    assert view is not None
    assert (view.state, view.node, view.content) == ("queued", "node-1", None)
    assert store.end(record.task_id) is None


def test_unknown_task_is_none(store: Store) -> None:
    assert store.task(bytes(16)) is None
    assert store.end(bytes(16)) is None


def test_task_may_be_accepted_marked_and_ended_in_one_commit(store: Store) -> None:
    record = task_record()
    store.commit(
        [task_end(record.task_id), StartedMark(record.task_id, "node-1"), record],
    )
    assert store.open_tasks() == []
    assert store.end(record.task_id) == task_end(record.task_id)


def test_mark_is_gone_with_its_task(store: Store, path: Path) -> None:
    record = task_record()
    store.commit([record, StartedMark(record.task_id, "node-1")])
    store.commit([task_end(record.task_id)])
    successor = task_record()
    again = reopened(store, path)
    again.commit([successor])
    assert again.open_tasks() == [(successor, None)]
    again.close()


@pytest.mark.parametrize("second", ["in one commit", "later", "after a restart"])
def test_second_end_is_refused_and_the_commit_undone(store: Store, path: Path, second: str) -> None:
    record, bystander = task_record(), task_record()
    first = task_end(record.task_id)
    other = task_end(record.task_id, content=b"other outputs")
    store.commit([record])
    if second == "in one commit":
        with pytest.raises(JournalConflict):
            store.commit([bystander, first, other])
        assert store.end(record.task_id) is None
        assert store.is_open(record.task_id)
    else:
        store.commit([first])
        if second == "after a restart":
            store.close()
            store = Store(path)
            store.open()
        with pytest.raises(JournalConflict, match="not open"):
            store.commit([bystander, other])
        assert store.end(record.task_id) == first
    assert not store.is_open(bystander.task_id)
    assert store.task(bystander.task_id) is None
    store.close()


def test_tables_refuse_a_second_end_even_if_the_memory_is_wrong(store: Store) -> None:
    record, bystander = task_record(), task_record()
    store.commit([record])
    seq = store._open[record.task_id]
    store.commit([task_end(record.task_id)])
    store._open[record.task_id] = seq
    with pytest.raises(JournalConflict, match="nothing was written"):
        store.commit([bystander, task_end(record.task_id, content=b"second")])
    # The row itself cannot be written twice either.
    (connection,) = [store._connected()]
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(
            "INSERT INTO ended SELECT seq + 1, id, status, code, client, model, version, priority,"
            " accepted_at, ended_at, node, attempts, run_us, total_us, history, content_size,"
            " content FROM ended"
        )
    assert store.end(record.task_id) == task_end(record.task_id)
    assert store.task(bystander.task_id) is None


@pytest.mark.parametrize("when", ["open", "ended", "in one commit"])
def test_task_is_accepted_once(store: Store, when: str) -> None:
    record, bystander = task_record(), task_record()
    if when == "in one commit":
        with pytest.raises(JournalConflict):
            store.commit([record, record])
        assert store.open_tasks() == []
        return
    store.commit([record])
    if when == "ended":
        store.commit([task_end(record.task_id)])
    with pytest.raises(JournalConflict):
        store.commit([bystander, record])
    assert not store.is_open(bystander.task_id)


def test_mark_and_end_of_an_unknown_task_are_refused(store: Store) -> None:
    with pytest.raises(JournalConflict):
        store.commit([StartedMark(bytes(16), "node-1")])
    with pytest.raises(JournalConflict):
        store.commit([task_end(bytes(16))])


def test_store_goes_on_after_a_conflict(store: Store) -> None:
    with pytest.raises(JournalConflict):
        store.commit([task_record(), task_end(bytes(16))])
    record = task_record()
    store.commit([record])
    assert [task for task, _ in store.open_tasks()] == [record]


def test_epochs_grow_across_restarts(store: Store, path: Path) -> None:
    assert store.next_epoch() == 1
    assert store.next_epoch() == 2
    again = reopened(store, path)
    assert again.next_epoch() == 3
    assert again.next_epoch(minimum=1000) == 1000
    assert again.next_epoch(minimum=1000) == 1001
    again.close()


def test_lists_of_ended_tasks_newest_first(store: Store) -> None:
    records = [
        task_record(client=f"client-{number % 2}", model=f"model-{number % 3}")
        for number in range(6)
    ]
    store.commit(records)
    for number, record in enumerate(records):
        status = OutcomeStatus.DEAD if number == 4 else OutcomeStatus.DONE
        store.commit([task_end(record.task_id, status=status)])
    ids = [record.task_id for record in records]
    assert [view.task_id for view in store.tasks()] == ids[::-1]
    assert [view.task_id for view in store.tasks(limit=2)] == ids[:3:-1]
    assert [view.task_id for view in store.tasks(state="dead")] == [ids[4]]
    assert [view.task_id for view in store.tasks(client="client-1")] == [ids[5], ids[3], ids[1]]
    assert [view.task_id for view in store.tasks(model="model-0", state="done")] == [ids[3], ids[0]]
    assert store.tasks(state="running") == []


def test_ids_of_ended_tasks_oldest_first(store: Store) -> None:
    records = [task_record() for _ in range(5)]
    store.commit(records)
    for record in records[::-1]:
        store.commit([task_end(record.task_id)])
    ids = [record.task_id for record in records]
    assert store.ended_ids(10) == ids[::-1]
    assert store.ended_ids(2) == [ids[1], ids[0]]


def test_prune_by_age_and_number(store: Store, path: Path) -> None:
    records = [task_record() for _ in range(100)]
    store.commit(records)
    store.commit(
        [
            task_end(record.task_id, ended_at=1000 + number)
            for number, record in enumerate(records[:90])
        ]
    )
    assert pruned(store, 1010, 1000) == 10
    assert pruned(store, 0, 30) == 50
    assert store.counts().ended_tasks == 30
    assert len(store.open_tasks()) == 10
    assert store.end(records[59].task_id) is None
    assert store.end(records[60].task_id) is not None
    again = reopened(store, path)
    assert again.counts().ended_tasks == 30
    # A pruned id is new again; an id that is still known is not.
    again.commit([records[0]])
    again.close()


def pruned(store: Store, older_than: int, keep: int) -> int:
    total = 0
    while step := store.prune(older_than, keep):
        total += step
    return total


def test_file_is_for_its_owner_only(store: Store, path: Path) -> None:
    store.commit([task_record()])
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_counts(store: Store) -> None:
    records = [task_record() for _ in range(3)]
    store.commit(records)
    store.commit([task_end(records[0].task_id)])
    counts = store.counts()
    assert (counts.open_tasks, counts.ended_tasks) == (2, 1)
    assert counts.log_bytes > 0


def test_second_coordinator_is_refused(store: Store, path: Path) -> None:
    with pytest.raises(StoreLocked, match=r"in use by process .* another state directory"):
        Store(path).open()
    store.close()
    with Store(path) as other:
        assert other.open_tasks() == []


def test_newer_file_is_refused(store: Store, path: Path) -> None:
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreVersion, match="newer version"):
        Store(path).open()


def test_other_programs_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE photos (name TEXT)")
    connection.close()
    with pytest.raises(StoreCorrupt, match="another program's"):
        Store(path).open()


def test_file_that_is_no_database(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database " * 1000)
    with pytest.raises(StoreCorrupt, match="move it"):
        Store(path).open()
    # The lock is free again: the way out that the message names works.
    path.unlink()
    with Store(path):
        pass


def test_damaged_file(store: Store, path: Path) -> None:
    store.commit([task_record(content=b"x" * 3000) for _ in range(200)])
    store.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    with pytest.raises(StoreCorrupt, match="damaged"):
        Store(path).open()


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="state directory"):
        Store(tmp_path / "file" / "state" / "journal").open()


def test_full_disk_changes_nothing_and_is_survived(store: Store) -> None:
    first = task_record()
    store.commit([first])
    connection = store._connected()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (limit,) = connection.execute("PRAGMA max_page_count").fetchone()
    # SQLite then answers as it does when the file system has no room.
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    large = [task_record(content=b"x" * 4000) for _ in range(50)]
    with pytest.raises(StoreFull, match="free some space"):
        store.commit(large)
    assert [task for task, _ in store.open_tasks()] == [first]
    connection.execute(f"PRAGMA max_page_count = {limit}")
    store.commit(large)
    assert len(store.open_tasks()) == 51


def test_use_before_open_and_twice(path: Path) -> None:
    store = Store(path)
    with pytest.raises(StoreError, match="not open"):
        store.commit([])
    with store, pytest.raises(StoreError, match="already open"):
        store.open()
    store.close()


def test_ten_thousand_open_tasks_among_many_ended_ones_are_read_at_once(
    store: Store, path: Path
) -> None:
    for _ in range(10):
        records = [task_record(content=b"x" * 300) for _ in range(1000)]
        store.commit(records)
        store.commit([task_end(record.task_id) for record in records])
        store.commit([task_record(content=b"x" * 300) for _ in range(1000)])
    again = reopened(store, path)
    before = time.perf_counter()
    assert len(again.open_tasks()) == 10_000
    # Measured 0.05 s; the bound only catches a read that grows with the ended tasks.
    assert time.perf_counter() - before < 3
    again.close()


def test_full_synchronisation_is_in_force(path: Path) -> None:
    with Store(path, sync="full") as store:
        assert store.next_epoch() == 1
        assert store._connected().execute("PRAGMA synchronous").fetchone() == (2,)
    with Store(path) as store:
        assert store.next_epoch() == 2
        assert store._connected().execute("PRAGMA synchronous").fetchone() == (1,)


def test_wishes_for_nodes_outlive_the_process(store: Store, path: Path) -> None:
    drained, back = NodeWish("a", drained=True), NodeWish("b", drained=False)
    store.commit([drained, back, NodeWish("c", drained=True)])
    store.commit([NodeWish("c", drained=None), NodeWish("a", drained=False), drained])
    assert store.node_wishes() == [drained, back]
    store.close()
    with Store(path) as again:
        assert again.node_wishes() == [drained, back]


def test_a_journal_of_the_version_before_gets_the_table_of_wishes(store: Store, path: Path) -> None:
    store.commit([task_record()])
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP TABLE node_wish; PRAGMA user_version = 4")
    with Store(path) as again:
        again.commit([NodeWish("a", drained=True)])
        assert len(again.open_tasks()) == 1
        assert again.node_wishes() == [NodeWish("a", drained=True)]
