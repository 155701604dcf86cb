"""One task seen from the program: its settings, its handle, its answer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from maille.dispatcher import Dispatcher
from maille.errors import (
    MailleError,
    MeshUnavailable,
    ResultTimeout,
    SettingsError,
    TaskCancelled,
    TaskDead,
    TaskExpired,
)
from maille.tiny_values import dequantised
from maille.views import Answer
from maille_protocol import Outcome, WireError
from maille_protocol.limits import TASK_ID_BYTES
from maille_protocol.tensors import Array, decode_tensors
from maille_protocol.tiny import Model as TinyModel

if TYPE_CHECKING:
    from maille.mesh import Mesh


def parse_task_id(text: str) -> bytes:
    """A task's id from its text.

    Raises:
        SettingsError: it is none.
    """
    try:
        identity = bytes.fromhex(text)
    except ValueError:
        identity = b""
    if len(identity) != TASK_ID_BYTES:
        raise SettingsError(
            f"{text!r} is no task id: it has {2 * TASK_ID_BYTES} hexadecimal digits "
            "(`maille tasks list` prints them)."
        )
    return identity


def answer_of(
    outcome: Outcome | MailleError,
    *,
    latency_s: float = 0.0,
    index: int = 0,
    tiny: TinyModel | None = None,
) -> Answer:
    """The answer in a done task's outcome; an error is raised. `tiny`: its model, if it is one."""
    if isinstance(outcome, MailleError):
        raise outcome
    content = outcome.content if isinstance(outcome.content, bytes) else b""
    try:
        outputs = decode_tensors(content)
    except WireError as error:
        raise MeshUnavailable(
            f"The outputs of task {outcome.task_id.hex()} are not readable ({error}). "
            f"Node {outcome.node} may run another version of Maille: update the older one."
        ) from error
    if tiny is not None:
        outputs = dequantised(outputs, tiny)
    return Answer(
        outputs,
        outcome.node,
        outcome.attempts,
        outcome.run_us / 1e6,
        outcome.total_us / 1e6,
        latency_s,
        outcome.task_id.hex(),
        index,
    )


class _Ending:
    """What is known of a task; written in the loop, read from anywhere."""

    def __init__(self, task_id: bytes) -> None:
        self.task_id = task_id
        self.confirmed = False
        self.outcome: Outcome | MailleError | None = None

    @property
    def state(self) -> str:
        match self.outcome:
            case None:
                return "accepted" if self.confirmed else "sent"
            case Outcome():
                return "done"
            case TaskCancelled():
                return "cancelled"
            case TaskExpired():
                return "expired"
            case TaskDead():
                return "dead"
            case MeshUnavailable():
                return "unheard"
            case _:
                return "failed"


class AsyncTask:
    """A task handed over by `AsyncMesh.submit`."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        task_id: bytes,
        find_tiny: Callable[[], Awaitable[TinyModel | None]],
    ) -> None:
        self._dispatcher = dispatcher
        self._find_tiny = find_tiny
        self._ending = _Ending(task_id)
        self._changed = asyncio.Event()

    @property
    def id(self) -> str:
        """Names the task, for `result` here or elsewhere."""
        return self._ending.task_id.hex()

    @property
    def state(self) -> str:
        """What this program knows of the task.

        One of: sent, accepted, done, failed, cancelled, expired, dead, or unheard (the mesh was
        silent for too long; `result` asks again).
        """
        return self._ending.state

    async def result(self, timeout_s: float | None = None) -> dict[str, Array]:
        """The task's outputs.

        Raises:
            ResultTimeout: it has not ended within `timeout_s`; None waits for it.
            TaskError: it ended without outputs.
        """
        return (await self.answer(timeout_s)).outputs

    async def answer(self, timeout_s: float | None = None) -> Answer:
        """As `result`, with the node, the times and the attempts it took."""
        ending = self._ending
        if isinstance(ending.outcome, MeshUnavailable):
            self.watch()
        try:
            async with asyncio.timeout(timeout_s):
                while ending.outcome is None:
                    await self._changed.wait()
                    self._changed.clear()
        except TimeoutError:
            raise _not_yet(self.id, timeout_s) from None
        self._changed.set()
        outcome = ending.outcome
        tiny = await self._find_tiny() if isinstance(outcome, Outcome) else None
        return answer_of(outcome, tiny=tiny)

    async def cancel(self) -> None:
        """Ask for the task to be cancelled; `result` tells whether it was done before."""
        self._dispatcher.withdraw([self._ending.task_id])

    # --- for the mesh ------------------------------------------------------------------------

    def watch(self) -> None:
        """Ask the mesh for the task's end."""
        self._ending.outcome = None
        self._ending.confirmed = True
        self._dispatcher.watch([self._ending.task_id], self.settle)

    def settle(self, _task_id: bytes, outcome: Outcome | MailleError, _now_s: float) -> None:
        """The task ended."""
        self._ending.outcome = outcome
        self._changed.set()

    def confirm(self) -> None:
        """The task is on the coordinator's disk."""
        self._ending.confirmed = True
        self._changed.set()

    async def accepted(self) -> None:
        """Wait until the coordinator has the task on disk; errors as in `AsyncMesh.run`."""
        ending = self._ending
        while not ending.confirmed and ending.outcome is None:
            await self._changed.wait()
            self._changed.clear()
        if isinstance(ending.outcome, MailleError) and not ending.confirmed:
            raise ending.outcome


def _not_yet(task_id: str, timeout_s: float | None) -> ResultTimeout:
    return ResultTimeout(
        f"Task {task_id} has not ended within {timeout_s:g} s. It goes on: wait again, or cancel it."
    )


class Task:
    """A task handed over by `Mesh.submit`; may be used from any thread."""

    def __init__(self, mesh: "Mesh", inner: AsyncTask) -> None:
        self._mesh = mesh
        self._inner = inner

    @property
    def id(self) -> str:
        """Names the task, for `result` here or elsewhere."""
        return self._inner.id

    @property
    def state(self) -> str:
        """As `AsyncTask.state`."""
        return self._inner.state

    def result(self, timeout_s: float | None = None) -> dict[str, Array]:
        """As `AsyncTask.result`."""
        return self._mesh.wait_for(self._inner.result(timeout_s))

    def answer(self, timeout_s: float | None = None) -> Answer:
        """As `AsyncTask.answer`."""
        return self._mesh.wait_for(self._inner.answer(timeout_s))

    def cancel(self) -> None:
        """As `AsyncTask.cancel`."""
        self._mesh.wait_for(self._inner.cancel())
