"""Acknowledgements of submissions, held back a moment: most short tasks end first.

An outcome tells the client that its task was accepted, so the acknowledgement of a batch whose
tasks have all ended meanwhile is never sent. That spares one publish of five in a short task's
trip, and under load one message acknowledges many batches.
"""

import asyncio
from collections.abc import Callable, Container
from itertools import islice

from maille_protocol.limits import MAX_ITEMS_PER_MESSAGE

HOLD_S = 0.005
"""Longer than a short task takes, and too short for a person or a client to mind."""


class Acceptances:
    """Acknowledgements that are due soon.

    Args:
        open_tasks: ids of the tasks that have not ended.
        send: sends the numbers of accepted batches to a client.
    """

    def __init__(
        self, open_tasks: Container[bytes], send: Callable[[str, tuple[int, ...]], None]
    ) -> None:
        self._open_tasks = open_tasks
        self._send = send
        self._due: dict[str, list[tuple[int, tuple[bytes, ...]]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, client: str, batch: int, task_ids: tuple[bytes, ...]) -> None:
        """Acknowledge a batch soon, if any of its tasks is still open then."""
        self._due.setdefault(client, []).append((batch, task_ids))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(HOLD_S, self._flush)

    def close(self) -> None:
        """Forget what is due."""
        if self._timer is not None:
            self._timer.cancel()
        self._due.clear()

    def _flush(self) -> None:
        self._timer = None
        due, self._due = self._due, {}
        for client, batches in due.items():
            numbers = iter(
                [
                    batch
                    for batch, task_ids in batches
                    if any(task_id in self._open_tasks for task_id in task_ids)
                ]
            )
            while group := tuple(islice(numbers, MAX_ITEMS_PER_MESSAGE)):
                self._send(client, group)
