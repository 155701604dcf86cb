"""Tasks whole: large inputs and outputs go over HTTP, everything else over the session.

Lives in the session's event loop; whoever waits gets outcomes whose content is always at hand.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import TypeAlias

from maille.client_events import TaskSettings
from maille.errors import Attempt, MailleError, MeshUnavailable, TaskDead, error_of
from maille.http_api import HttpApi
from maille.json_fields import Json
from maille.session import Session
from maille.values import is_inline
from maille_protocol import Outcome, OutcomeStatus, Reference, Submission

TRANSFERS = 4
"""Large inputs or outputs on their way at once."""

OnDone: TypeAlias = Callable[[bytes, "Outcome | MailleError", float], None]
"""Called in the loop with the task's id, its outcome (done, content inline) or why there is none,
and `time.monotonic()` at its arrival."""


class Dispatcher:
    """Submits contents and hands out what became of them."""

    def __init__(self, session: Session, http: HttpApi) -> None:
        self.session = session
        self.http = http
        self._transfers = asyncio.Semaphore(TRANSFERS)
        self._background: set[asyncio.Task[None]] = set()
        self._dropped: set[bytes] = set()
        """Tasks withdrawn while their inputs were still on their way up."""
        self._uploading: dict[bytes, OnDone] = {}

    def submit(
        self,
        settings: TaskSettings,
        tasks: Sequence[tuple[bytes, bytes]],
        on_done: OnDone,
        on_accepted: Callable[[], None] | None = None,
    ) -> None:
        """Have tasks, given as (id, encoded tensors), run."""
        inline: list[Submission] = []
        for task_id, content in tasks:
            if is_inline(content):
                inline.append(Submission(task_id, content))
            else:
                self._uploading[task_id] = on_done
                self._start(self._submit_large(settings, task_id, content, on_done, on_accepted))
        if inline:
            self.session.submit(settings, inline, self._ends(on_done), on_accepted)

    def watch(self, task_ids: Sequence[bytes], on_done: OnDone) -> None:
        """Wait for tasks submitted before, here or elsewhere."""
        self.session.watch(task_ids, self._ends(on_done))

    def withdraw(self, task_ids: Sequence[bytes]) -> None:
        """Cancel tasks; whoever waits is told."""
        self._dropped.update(task_id for task_id in task_ids if task_id in self._uploading)
        self.session.withdraw([task_id for task_id in task_ids if task_id not in self._dropped])

    def abandon(self, task_ids: Sequence[bytes]) -> None:
        """Cancel tasks that nobody waits for any longer."""
        self.withdraw(task_ids)
        self.session.release(task_ids)

    async def close(self) -> None:
        """End transfers under way."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    # --- inside ----------------------------------------------------------------------------

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name="maille transfer")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _ends(self, on_done: OnDone) -> Callable[[bytes, Outcome | None, float], None]:
        def on_end(task_id: bytes, outcome: Outcome | None, now_s: float) -> None:
            if outcome is None:
                on_done(
                    task_id,
                    MeshUnavailable(
                        f"No word of task {task_id.hex()}: {self.session.silence}. "
                        "It may still run; ask for its result later."
                    ),
                    now_s,
                )
            elif outcome.status == OutcomeStatus.DONE:
                if isinstance(outcome.content, bytes):
                    on_done(task_id, outcome, now_s)
                else:
                    self._start(self._fetch(outcome, outcome.content, on_done))
            elif outcome.status == OutcomeStatus.DEAD:
                self._start(self._explain(outcome, on_done))
            else:
                on_done(task_id, error_of(outcome, reason_of(outcome)), now_s)

        return on_end

    async def _submit_large(
        self,
        settings: TaskSettings,
        task_id: bytes,
        content: bytes,
        on_done: OnDone,
        on_accepted: Callable[[], None] | None,
    ) -> None:
        try:
            async with self._transfers:
                sha256 = await self.http.put_bytes(content)
        except MailleError as error:
            on_done(task_id, error, time.monotonic())
            return
        except asyncio.CancelledError:
            on_done(task_id, _closed(task_id), time.monotonic())
            raise
        finally:
            self._uploading.pop(task_id, None)
        submission = Submission(task_id, Reference(sha256, len(content)))
        self.session.submit(settings, [submission], self._ends(on_done), on_accepted)
        if task_id in self._dropped:
            self._dropped.discard(task_id)
            self.session.withdraw([task_id])

    async def _fetch(self, outcome: Outcome, reference: Reference, on_done: OnDone) -> None:
        answer: Outcome | MailleError
        try:
            async with self._transfers:
                content = await self.http.get_bytes(reference.sha256, reference.size_bytes)
            answer = replace(outcome, content=content)
        except MailleError as error:
            answer = error
        except asyncio.CancelledError:
            on_done(outcome.task_id, _closed(outcome.task_id), time.monotonic())
            raise
        on_done(outcome.task_id, answer, time.monotonic())

    async def _explain(self, outcome: Outcome, on_done: OnDone) -> None:
        """Fetch the history of a dead task; without it the error still tells the last reason."""
        history: tuple[Attempt, ...] = ()
        try:
            history = history_of(await self.http.task(outcome.task_id.hex()))
        except MailleError:
            history = ()
        except asyncio.CancelledError:
            on_done(outcome.task_id, _closed(outcome.task_id), time.monotonic())
            raise
        error = error_of(outcome, reason_of(outcome), history)
        if isinstance(error, TaskDead) and history:
            told = "; ".join(f"{item.node}: {item.reason or item.code}" for item in history[-3:])
            error = TaskDead.of(outcome, f"{error} Last attempts: {told}.", history)
        on_done(outcome.task_id, error, time.monotonic())


def _closed(task_id: bytes) -> MeshUnavailable:
    return MeshUnavailable(f"The mesh was closed while task {task_id.hex()} was under way.")


def reason_of(outcome: Outcome) -> str:
    """The text in an outcome that is not done."""
    content = outcome.content
    return content.decode(errors="replace") if isinstance(content, bytes) else ""


def history_of(view: Json) -> tuple[Attempt, ...]:
    """The attempts in the HTTP API's view of a task."""
    history = view.get("history")
    if not isinstance(history, list):
        return ()
    return tuple(
        Attempt(
            int(item.get("attempt", 0)),
            str(item.get("node", "")),
            str(item.get("code", "")),
            str(item.get("reason", "")),
        )
        for item in history
        if isinstance(item, dict)
    )
