"""Those in this process who wait for tasks to end: the HTTP API's callers."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from maille_coordinator.records import TaskEnd
from maille_protocol import Outcome, OutcomeStatus

_KEPT_REJECTIONS = 10_000


class Waiters:
    """Hands ends of tasks to those who wait, and keeps rejections until they are asked for.

    A rejected task never becomes one, so the journal does not know it.
    """

    def __init__(self) -> None:
        self._waiting: dict[bytes, asyncio.Future[TaskEnd]] = {}
        self._expected: set[bytes] = set()
        self._rejected: OrderedDict[bytes, TaskEnd] = OrderedDict()

    def expect(self, task_id: bytes) -> None:
        """A task with this id is being submitted: keep its rejection, if it is one."""
        self._expected.add(task_id)

    def ended(self, end: TaskEnd) -> None:
        """A task has ended."""
        future = self._waiting.pop(end.task_id, None)
        if future is not None and not future.done():
            future.set_result(end)

    def told(self, outcomes: Iterable[Outcome]) -> None:
        """What the core tells the local client: only rejections are news."""
        for outcome in outcomes:
            expected = outcome.task_id in self._expected
            self._expected.discard(outcome.task_id)
            if not expected or outcome.status is not OutcomeStatus.REJECTED:
                continue
            self._rejected[outcome.task_id] = TaskEnd(
                outcome.task_id, outcome.status, outcome.code, outcome.content, "", 0, 0, 0, 0
            )
            while len(self._rejected) > _KEPT_REJECTIONS:
                self._rejected.popitem(last=False)

    def taken(self, task_id: bytes) -> TaskEnd | None:
        """The rejection of a task, once."""
        return self._rejected.pop(task_id, None)

    async def wait(self, task_ids: Sequence[bytes], timeout_s: float) -> dict[bytes, TaskEnd]:
        """The ends of these open tasks that come within the time."""
        loop = asyncio.get_running_loop()
        futures: dict[bytes, asyncio.Future[TaskEnd]] = {}
        for task_id in task_ids:
            future = self._waiting.get(task_id)
            if future is None:
                future = self._waiting[task_id] = loop.create_future()
            futures[task_id] = future
        if futures:
            await asyncio.wait(futures.values(), timeout=timeout_s)
        return {task_id: future.result() for task_id, future in futures.items() if future.done()}
