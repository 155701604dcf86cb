"""Random histories: whatever comes in whichever order, the node's promises hold."""

from collections import defaultdict

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from node_core_driver import Driver, messages_of, model, results_of, task

from maille_node import events
from maille_node.events import Action
from maille_node.tasks import CANCELLED_KEPT_MS
from maille_protocol import Control, ErrorCode, NodeState, Reference, ResultStatus
from maille_protocol.limits import HEARTBEAT_INTERVAL_MS, MAX_INLINE_CONTENT_BYTES

SLOTS = 3
WORKERS = 2
NAMES = ("a", "b")
TASKS = st.integers(0, 7)
ADMISSION_REFUSALS = {
    ErrorCode.BUSY,
    ErrorCode.DRAINING,
    ErrorCode.STALE_EPOCH,
    ErrorCode.UNSUPPORTED_FORMAT,
}


class History(RuleBasedStateMachine):
    """Keeps its own small account of what was asked and compares it with what the core does."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver(slots=SLOTS, workers=WORKERS, max_batch=2)
        self.up = False
        self.wanted: dict[bytes, tuple[int, int]] = {}
        """Accepted and neither answered nor cancelled: newest (epoch, attempt)."""
        self.model_of: dict[bytes, str] = {}
        self.cancelled: dict[bytes, tuple[int, int]] = {}
        self.ever_cancelled: set[bytes] = set()
        self.answered: set[tuple[bytes, int, int]] = set()
        self.executed: dict[bytes, int] = defaultdict(int)
        self.running: dict[int, events.RunBatch] = {}
        self.preparing: set[str] = set()
        self.pinned: set[str] = set()
        self.fetching: dict[bytes, Reference] = {}
        self.inputs: dict[bytes, int] = defaultdict(int)
        self.uploading: dict[bytes, int] = {}
        self.newest = (0, 0)
        self.seq = 0
        self.stopped = False

    # --- the account ---

    def carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            assert not self.stopped, action
            match action:
                case events.RunBatch(batch=batch, sha256=sha256, items=items):
                    assert batch not in self.running
                    names = {self.model_of[item.task_id] for item in items}
                    assert {model(name).sha256 for name in names} == {sha256}
                    assert names <= self.pinned
                    assert 1 <= len(items) <= 2
                    self.running[batch] = action
                    busy = [item.task_id for run in self.running.values() for item in run.items]
                    # A task may only run again while its cancelled run still winds down.
                    for item in items:
                        assert item.task_id in self.wanted
                        if item.task_id not in self.ever_cancelled:
                            assert busy.count(item.task_id) == 1
                        self.executed[item.task_id] += 1
                        assert not self.fetching.get(item.task_id)
                case events.Prepare(model=reference):
                    assert reference.name not in self.pinned | self.preparing
                    self.preparing.add(reference.name)
                case events.Release(sha256=sha256):
                    for name in NAMES:
                        if model(name).sha256 == sha256:
                            self.pinned.discard(name)
                            self.preparing.discard(name)
                case events.FetchInput(task_id=task_id, reference=content):
                    self.fetching[task_id] = content
                    self.inputs[task_id] += 1
                case events.ReleaseInput(task_id=task_id):
                    self.fetching.pop(task_id, None)
                    self.inputs[task_id] -= 1
                    assert self.inputs[task_id] == 0
                case events.Upload(task_id=task_id, data=data):
                    self.uploading[task_id] = len(data)
                case events.Publish(payload=payload):
                    assert self.up
                    assert len(payload) <= 48 * 1024
                case events.Stop():
                    self.stopped = True
        for result in results_of(actions):
            self.account(result.task_id, result.epoch, result.attempt, result.status, result.code)
        if self.up:
            for held in self.lost_while_down():
                del self.wanted[held]

    def account(
        self, task_id: bytes, epoch: int, attempt: int, status: ResultStatus, code: ErrorCode
    ) -> None:
        newest = self.wanted.get(task_id)
        if newest == (epoch, attempt) and not (
            status is ResultStatus.REFUSED and code in ADMISSION_REFUSALS and not self.stopped
        ):
            del self.wanted[task_id]
            self.uploading.pop(task_id, None)
            self.answered.add((task_id, epoch, attempt))
            return
        # A refusal on arrival, a repetition of an earlier answer, or an answer from memory.
        if status is ResultStatus.DONE:
            assert self.executed[task_id] >= 1
            assert (epoch, attempt) > self.cancelled.get(task_id, (-1, -1))

    def lost_while_down(self) -> list[bytes]:
        held = self.driver.core._tasks.held
        return [
            task_id
            for task_id in self.wanted
            if task_id not in held and task_id not in self.driver.core._tasks._outbox._results
        ]

    def give(self, event: events.Event) -> None:
        self.carry_out(self.driver.give(event))

    # --- what may happen ---

    @rule(
        number=TASKS,
        attempt=st.integers(1, 4),
        epoch=st.integers(1, 3),
        name=st.sampled_from(NAMES),
        large=st.booleans(),
        remaining_ms=st.sampled_from((0, 700, 60_000)),
    )
    def offer(
        self, number: int, attempt: int, epoch: int, name: str, large: bool, remaining_ms: int
    ) -> None:
        name = self.model_of.setdefault(task(number), name)
        held_before = set(self.driver.core._tasks.held)
        content = Reference(bytes([number] * 32), 100_000) if large else b"in"
        actions = self.driver.offer(
            number,
            attempt=attempt,
            epoch=epoch,
            name=name,
            content=content,
            remaining_ms=remaining_ms,
        )
        task_id = task(number)
        if task_id in self.driver.core._tasks.held:
            held = self.driver.core._tasks.held[task_id]
            if task_id not in held_before:
                assert (held.epoch, held.attempt) == (epoch, attempt)
                assert (epoch, attempt) > self.cancelled.get(task_id, (-1, -1))
            self.wanted[task_id] = (held.epoch, held.attempt)
        self.carry_out(actions)

    @rule(number=TASKS, attempt=st.integers(1, 4), epoch=st.integers(1, 3))
    def cancel(self, number: int, attempt: int, epoch: int) -> None:
        stale = epoch < self.driver.core.epoch
        task_id = task(number)
        known = self.wanted.get(task_id)
        actions = self.driver.cancel(number, attempt, epoch=epoch)
        if not stale and not self.stopped and (known is None or known <= (epoch, attempt)):
            self.wanted.pop(task_id, None)
            self.uploading.pop(task_id, None)
            self.ever_cancelled.add(task_id)
            self.cancelled[task_id] = max(self.cancelled.get(task_id, (0, 0)), (epoch, attempt))
            assert task_id not in self.driver.core._tasks.held
            assert task_id not in [result.task_id for result in results_of(actions)]
        self.carry_out(actions)

    @precondition(lambda self: self.preparing)
    @rule(works=st.booleans(), joinable=st.booleans(), data=st.data())
    def model_arrives(self, works: bool, joinable: bool, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.preparing)))
        self.preparing.discard(name)
        if works:
            self.pinned.add(name)
            self.give(events.ModelReady(model(name).sha256, joinable))
        else:
            self.give(events.ModelFailed(model(name).sha256, ErrorCode.NO_SPACE, "full"))

    @precondition(lambda self: self.fetching)
    @rule(works=st.booleans(), data=st.data())
    def input_arrives(self, works: bool, data: st.DataObject) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.fetching)))
        del self.fetching[task_id]
        if works:
            self.give(events.InputReady(task_id))
        else:
            self.give(events.InputFailed(task_id, ErrorCode.CONTENT_UNAVAILABLE, "gone"))

    @precondition(lambda self: self.running)
    @rule(
        code=st.sampled_from((ErrorCode.NONE, ErrorCode.NONE, ErrorCode.MODEL_ERROR)),
        large=st.booleans(),
        run_us=st.sampled_from((10, 3_000, 900_000)),
        data=st.data(),
    )
    def batch_ends(self, code: ErrorCode, large: bool, run_us: int, data: st.DataObject) -> None:
        batch = self.running.pop(data.draw(st.sampled_from(sorted(self.running))))
        content = b"x" * (MAX_INLINE_CONTENT_BYTES + 1) if large else b"out"
        self.carry_out(
            self.driver.finish(
                batch, codes=[code] * len(batch.items), content=content, run_us=run_us
            )
        )

    @precondition(lambda self: self.uploading)
    @rule(works=st.booleans(), data=st.data())
    def upload_ends(self, works: bool, data: st.DataObject) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.uploading)))
        size = self.uploading.pop(task_id)
        if works:
            self.give(events.Uploaded(task_id, Reference(b"u" * 32, size)))
        else:
            self.give(events.UploadFailed(task_id, ErrorCode.CONTENT_UNAVAILABLE, "gone"))

    @rule(step_ms=st.sampled_from((1, 400, HEARTBEAT_INTERVAL_MS, 70_000)))
    def time_passes(self, step_ms: int) -> None:
        self.driver.now_ms += step_ms
        if step_ms > CANCELLED_KEPT_MS:
            self.cancelled.clear()
        self.give(events.Tick())

    @rule()
    def link_changes(self) -> None:
        self.up = not self.up
        self.give(events.LinkUp() if self.up else events.LinkDown("broken"))

    @rule(online=st.booleans(), epoch=st.integers(1, 3))
    def coordinator_speaks(self, online: bool, epoch: int) -> None:
        self.carry_out(self.driver.announce(online=online, epoch=epoch))

    @rule(command=st.sampled_from((Control.REBIRTH, Control.DRAIN, Control.RESUME)))
    def order(self, command: Control) -> None:
        self.carry_out(self.driver.order(command))

    # --- what always holds ---

    @invariant()
    def never_more_held_than_promised(self) -> None:
        assert self.driver.core.held_count <= SLOTS + 1
        assert len(self.running) <= WORKERS

    @invariant()
    def everything_accepted_is_held_or_waits_to_be_sent(self) -> None:
        core = self.driver.core
        for task_id, newest in self.wanted.items():
            held = core._tasks.held.get(task_id)
            waiting = core._tasks._outbox._results.get(task_id)
            assert held is not None or waiting is not None
            if held is not None:
                assert (held.epoch, held.attempt) == newest
        assert set(core._tasks.held) <= set(self.wanted)

    @invariant()
    def pins_and_buffers_belong_to_held_tasks(self) -> None:
        core = self.driver.core
        used = {held.model.name for held in core._tasks.held.values()}
        assert self.pinned | self.preparing == used
        assert sum(self.inputs.values()) == sum(
            isinstance(held.content, Reference) for held in core._tasks.held.values()
        )
        assert core._tasks._uploading_bytes == sum(self.uploading.values())

    def teardown(self) -> None:
        """Drained with all help, every accepted task ends and nothing stays pinned."""
        driver = self.driver
        if not self.up:
            self.link_changes()
        self.give(events.DrainRequested(10**9))
        for _ in range(200):
            if self.stopped:
                break
            for name in sorted(self.preparing):
                self.preparing.discard(name)
                self.pinned.add(name)
                self.give(events.ModelReady(model(name).sha256, joinable=True))
            for task_id in sorted(self.fetching):
                del self.fetching[task_id]
                self.give(events.InputReady(task_id))
            for number in sorted(self.running):
                self.carry_out(driver.finish(self.running.pop(number)))
            for task_id in sorted(self.uploading):
                size = self.uploading.pop(task_id)
                self.give(events.Uploaded(task_id, Reference(b"u" * 32, size)))
        assert self.stopped
        assert driver.core.held_count == 0
        assert driver.core.state is NodeState.DISCONNECTED
        assert not self.wanted
        assert not self.pinned
        assert not self.preparing
        assert not any(self.inputs.values())
        assert messages_of(driver.up()) == []


History.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    phases=(Phase.reuse, Phase.generate, Phase.shrink),
)
TestHistories = History.TestCase
