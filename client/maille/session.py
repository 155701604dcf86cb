"""One client on the broker: carries out what `client_core` decides. Lives in one event loop."""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from maille.client_core import ClientCore
from maille.client_events import (
    Action,
    BatchesAccepted,
    Confirm,
    CoordinatorSeen,
    Deliver,
    Event,
    GiveUp,
    LinkDown,
    LinkUp,
    OutcomesArrived,
    Send,
    TaskSettings,
    TasksReleased,
    TasksSubmitted,
    TasksWatched,
    TasksWithdrawn,
    TimePassed,
    WakeAt,
)
from maille.errors import MeshNotFound, MeshUnavailable, Unauthorized
from maille_broker import (
    BrokerConfigError,
    BrokerRefused,
    BrokerUnavailable,
    Endpoint,
    Link,
    Message,
)
from maille_protocol import (
    Accepted,
    Ask,
    CoordinatorState,
    Outcome,
    Outcomes,
    Submission,
    Submit,
    WireError,
    pack,
    topics,
    unpack,
)

logger = logging.getLogger(__name__)

LOGGED_WIRE_ERRORS = 20
"""Malformed messages that are logged; the rest is only counted."""

OnEnd: TypeAlias = Callable[[bytes, Outcome | None, float], None]
"""Called in the loop with task id, outcome (None: the mesh is silent) and `time.monotonic()`."""


class Session:
    """A connection that submits tasks and hands out their outcomes.

    Every method is called in the loop that ran `open`.
    """

    def __init__(self, endpoint: Endpoint, mesh: str, *, patience_s: float) -> None:
        self.client = f"c-{secrets.token_hex(6)}"
        self.mesh = mesh
        self.http_url: str | None = None
        self.coordinator_online: bool | None = None
        self.wire_errors = 0
        randomness = random.Random()
        self.core = ClientCore(jitter=randomness.random, patience_ms=patience_s * 1000)
        self._boot = secrets.randbits(63)
        self._seq = 0
        self._epoch = 0
        self._submit_topic = topics.CLIENT_SUBMIT.on(mesh, self.client)
        self._ask_topic = topics.CLIENT_ASK.on(mesh, self.client)
        self._withdraw_topic = topics.CLIENT_WITHDRAW.on(mesh, self.client)
        self._loop = asyncio.get_running_loop()
        self._link = Link(
            endpoint,
            # Brokers with access rules tie the topics to this id.
            self.client,
            subscriptions=topics.client_subscriptions(mesh, self.client),
            on_messages=self._take_messages,
            on_up=lambda: self._handle(LinkUp()),
            on_down=self._went_down,
            randomness=randomness,
        )
        self._running: asyncio.Task[None] | None = None
        self._seen = asyncio.Event()
        self._waiting: dict[bytes, OnEnd] = {}
        self._confirming: dict[bytes, Callable[[], None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._corked = False
        self._gathered: dict[TaskSettings, list[Submission]] = {}

    @property
    def link(self) -> Link:
        """The connection, for its counters."""
        return self._link

    @property
    def silence(self) -> str:
        """Why the mesh may be silent, as a sentence for an error message."""
        where = self._link.endpoint.url
        if not self._link.is_up:
            return f"the broker at {where} cannot be reached ({self._link.last_error})"
        if self.coordinator_online is False:
            return f"the coordinator of mesh {self.mesh!r} is not running"
        return f"the coordinator of mesh {self.mesh!r} does not answer over {where}"

    async def open(self, timeout_s: float) -> None:
        """Connect and hear of the coordinator.

        Raises:
            MeshUnavailable: no broker, or no coordinator of this mesh behind it.
            Unauthorized: the broker refused the login.
        """
        running = asyncio.create_task(
            self._link.run(first_connect_timeout_s=timeout_s), name="maille link"
        )
        self._running = running
        seen = asyncio.create_task(self._seen.wait(), name="maille coordinator seen")
        try:
            await asyncio.wait(
                {running, seen}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            seen.cancel()
        if running.done():
            self._running = None
            raise _explained(running, self._link.endpoint)
        if not self._seen.is_set():
            up = self._link.is_up
            await self.close()
            if up:
                raise MeshUnavailable(
                    f"The broker at {self._link.endpoint.url} has no coordinator of mesh "
                    f"{self.mesh!r}. Start one with `maille coordinator`, or name the right mesh."
                )
            raise MeshUnavailable(
                f"The broker at {self._link.endpoint.url} cannot be reached "
                f"({self._link.last_error}). Check that it runs and that the address is right."
            )

    async def close(self) -> None:
        """Leave; whoever still waits is told that the mesh is silent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running is not None:
            await self._link.close()
            await asyncio.wait({self._running})
            self._running = None
        for task_id, on_end in list(self._waiting.items()):
            on_end(task_id, None, time.monotonic())
        self._waiting.clear()
        self._confirming.clear()

    def submit(
        self,
        settings: TaskSettings,
        tasks: Sequence[Submission],
        on_end: OnEnd,
        on_accepted: Callable[[], None] | None = None,
    ) -> None:
        """Have tasks run. `on_accepted` is called for each when it is on the coordinator's disk."""
        for task in tasks:
            self._waiting[task.task_id] = on_end
        if on_accepted is not None:
            for task in tasks:
                self._confirming[task.task_id] = on_accepted
            self._handle(TasksSubmitted(settings, tuple(tasks), confirm=True))
        elif self._corked:
            self._gathered.setdefault(settings, []).extend(tasks)
        else:
            # The first leaves at once; what follows in the same turn of the loop leaves together.
            self._corked = True
            self._loop.call_soon(self._uncork)
            self._handle(TasksSubmitted(settings, tuple(tasks)))

    def watch(self, task_ids: Sequence[bytes], on_end: OnEnd) -> None:
        """Wait for tasks that were submitted before, here or elsewhere."""
        for task_id in task_ids:
            self._waiting[task_id] = on_end
        self._handle(TasksWatched(tuple(task_ids)))

    def withdraw(self, task_ids: Iterable[bytes]) -> None:
        """Cancel tasks; their outcome still comes."""
        self._uncork()
        self._handle(TasksWithdrawn(tuple(task_ids)))

    def release(self, task_ids: Iterable[bytes]) -> None:
        """No longer wait for tasks; they go on."""
        ids = tuple(task_ids)
        for task_id in ids:
            self._waiting.pop(task_id, None)
            self._confirming.pop(task_id, None)
        self._handle(TasksReleased(ids))

    # --- inside ----------------------------------------------------------------------------

    def _uncork(self) -> None:
        self._corked = False
        gathered, self._gathered = self._gathered, {}
        for settings, tasks in gathered.items():
            self._handle(TasksSubmitted(settings, tuple(tasks)))

    def _went_down(self, reason: str) -> None:
        logger.info("the broker is gone: %s", reason)
        self._handle(LinkDown())

    def _take_messages(self, messages: list[Message]) -> None:
        for message in messages:
            try:
                self._take_message(message)
            except WireError as error:
                self.wire_errors += 1
                if self.wire_errors <= LOGGED_WIRE_ERRORS:
                    logger.warning("ignored a message on %s: %s", message.topic, error)

    def _take_message(self, message: Message) -> None:
        address = topics.parse(message.topic)
        if address.topic is topics.COORDINATOR and not message.payload:
            return
        envelope = unpack(message.payload, frozenset({address.topic.message}))
        match envelope.message:
            case Outcomes(outcomes=outcomes):
                self._handle(OutcomesArrived(envelope.epoch, outcomes))
            case Accepted(batches=batches):
                self._handle(BatchesAccepted(envelope.epoch, batches))
            case CoordinatorState(online=online, http_url=http_url):
                self._handle(CoordinatorSeen(envelope.epoch, online))
                if envelope.epoch < self._epoch:
                    # The will of a coordinator that another one has replaced.
                    return
                self._epoch = envelope.epoch
                self.coordinator_online = online
                if online:
                    self.http_url = http_url
                    self._seen.set()
            case other:
                raise WireError(f"{type(other).__name__} is not for clients")

    def _handle(self, event: Event) -> None:
        now_s = time.monotonic()
        for action in self.core.handle(event, now_s * 1000):
            self._do(action, now_s)

    def _do(self, action: Action, now_s: float) -> None:
        match action:
            case Send(message=message):
                match message:
                    case Submit():
                        topic = self._submit_topic
                    case Ask():
                        topic = self._ask_topic
                    case _:
                        topic = self._withdraw_topic
                self._seq += 1
                self._link.publish(topic, pack(message, boot=self._boot, seq=self._seq, epoch=0))
            case Deliver(outcomes=outcomes):
                for outcome in outcomes:
                    self._confirming.pop(outcome.task_id, None)
                    on_end = self._waiting.pop(outcome.task_id, None)
                    if on_end is not None:
                        on_end(outcome.task_id, outcome, now_s)
            case Confirm(task_ids=task_ids):
                for task_id in task_ids:
                    on_accepted = self._confirming.pop(task_id, None)
                    if on_accepted is not None:
                        on_accepted()
            case GiveUp(task_ids=task_ids):
                for task_id in task_ids:
                    self._confirming.pop(task_id, None)
                    on_end = self._waiting.pop(task_id, None)
                    if on_end is not None:
                        on_end(task_id, None, now_s)
            case WakeAt(at_ms=at_ms):
                if self._timer is not None:
                    self._timer.cancel()
                delay_s = max(0.0, at_ms / 1000 - now_s)
                self._timer = self._loop.call_later(delay_s, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._handle(TimePassed())


def _explained(running: asyncio.Task[None], endpoint: Endpoint) -> Exception:
    error = running.exception()
    match error:
        case BrokerRefused():
            return Unauthorized(
                f"{error} If the mesh has a key, give it in MAILLE_KEY or with key=...."
            )
        case BrokerUnavailable():
            return MeshUnavailable(str(error))
        case BrokerConfigError():
            return MeshNotFound(str(error))
        case Exception():
            return error
        case _:
            return MeshUnavailable(f"The connection to {endpoint.url} ended.")
