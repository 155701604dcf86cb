"""`Mesh`: the mesh for programs without an event loop of their own; safe to use from any thread.

One background thread runs the loop that keeps the connection. Checking, encoding and decoding
happen in the caller's thread, and a single `run` costs one hop to that loop and one back.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import AsyncIterable, Coroutine, Generator
from concurrent.futures import Future
from types import TracebackType
from typing import Self, TypeVar, Unpack

from maille.async_mesh import AsyncMesh
from maille.boards import Boards, Senses
from maille.client_events import TaskSettings
from maille.errors import InputError, MailleError, MeshNotFound
from maille.flow import Flow
from maille.language import Language
from maille.mapping import AnyInputs, Arrival, OnAnswer, map_pieces, new_task_id, settle
from maille.models import Models
from maille.options import MapOptions, TaskOptions, settings_of
from maille.progress import MapProgress
from maille.tasks import Task, answer_of
from maille.values import Inputs, count
from maille.views import Answer, MeshDescription, Model, Node
from maille_broker import loop_factory
from maille_protocol import Outcome
from maille_protocol.tensors import Array

Value = TypeVar("Value")


class Mesh(Language):
    """A mesh, for `with`.

        with maille.Mesh() as mesh:
            outputs = mesh.run("digits", {"X": image})
            for outputs in mesh.map("digits", images, progress=True):
                ...

    Arguments as of `AsyncMesh`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        mesh: str | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self._inner = AsyncMesh(url, key=key, mesh=mesh, timeout_s=timeout_s)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.models = Models(self)
        self.boards = Boards(self)
        self.senses = Senses(self)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def open(self) -> None:
        """Find the mesh and connect; errors as of `AsyncMesh.open`."""
        if self._loop is not None:
            return
        loop = loop_factory()()
        thread = threading.Thread(target=_serve, args=(loop,), name="maille mesh", daemon=True)
        thread.start()
        self._loop, self._thread = loop, thread
        try:
            self.wait_for(self._inner.open())
        except BaseException:
            self._stop()
            raise

    def close(self) -> None:
        """Leave the mesh. Tasks under way go on; their results can be asked for later."""
        if self._loop is None:
            return
        try:
            self.wait_for(self._inner.close())
        finally:
            self._stop()

    # --- running ---------------------------------------------------------------------------

    def run(
        self,
        model: str,
        inputs: Inputs,
        **options: Unpack[TaskOptions],
    ) -> dict[str, Array]:
        """Run a model once and return its outputs by name; as `AsyncMesh.run`."""
        settings = settings_of(model, **options)
        return self._run(settings, inputs).outputs

    def run_detailed(
        self,
        model: str,
        inputs: Inputs,
        **options: Unpack[TaskOptions],
    ) -> Answer:
        """As `run`, with the node, the times and the attempts it took."""
        settings = settings_of(model, **options)
        return self._run(settings, inputs)

    def map(
        self,
        model: str,
        inputs: AnyInputs,
        *,
        on_answer: OnAnswer | None = None,
        **options: Unpack[MapOptions],
    ) -> Generator[dict[str, Array]]:
        """Run a model over many inputs; arguments and errors as of `AsyncMesh.map`.

        Inputs are taken in the caller's thread, while outputs are asked for.
        """
        answers = self.map_detailed(model, inputs, **options)
        with contextlib.closing(answers):
            for item in answers:
                if isinstance(item, MailleError):
                    raise item
                if on_answer is not None:
                    on_answer(item)
                yield item.outputs

    def map_detailed(
        self,
        model: str,
        inputs: AnyInputs,
        *,
        rows: int | None = None,
        ordered: bool = True,
        progress: bool = False,
        **options: Unpack[TaskOptions],
    ) -> Generator[Answer | MailleError]:
        """As `map`; yields an Answer, or the error, of every task and goes on after errors."""
        settings = settings_of(model, **options)
        known = self._signature(settings)
        source = map_pieces(inputs, rows, known)
        if isinstance(source, AsyncIterable):
            raise MailleError("An asynchronous iterable needs AsyncMesh.map.")
        loop = self._running_loop()
        dispatcher = self._inner.dispatcher
        flow: Flow[Answer | MailleError] = Flow(self._inner.signatures.limiter(known), ordered)
        arrived: queue.SimpleQueue[Arrival] = queue.SimpleQueue()

        def on_done(task_id: bytes, outcome: Outcome | MailleError, now_s: float) -> None:
            arrived.put((task_id, outcome, now_s))

        more = True
        try:
            with MapProgress.of(progress, count(inputs, rows or 1)) as shown:
                while True:
                    batch = flow.again(iter(new_task_id, b""), time.monotonic())
                    while more and flow.room() > 0:
                        try:
                            piece = next(source)
                        except StopIteration:
                            more = False
                            break
                        content = self._inner.signatures.encoded(known, piece)
                        task_id = new_task_id()
                        flow.sent(task_id, content, time.monotonic())
                        batch.append((task_id, content))
                    if batch:
                        loop.call_soon_threadsafe(dispatcher.submit, settings, batch, on_done)
                    if not more and not flow.in_flight:
                        break
                    news = _drain(arrived, flow.again_in_s(time.monotonic()))
                    shown.advance(settle(flow, news, self._inner.signatures.tiny(known)))
                    yield from flow.ready()
                yield from flow.ready()
        finally:
            left = flow.open_ids()
            if left and self._loop is not None:
                loop.call_soon_threadsafe(dispatcher.abandon, left)

    def submit(
        self,
        model: str,
        inputs: Inputs,
        **options: Unpack[TaskOptions],
    ) -> Task:
        """Hand a task over; returns when it is on the coordinator's disk. As `AsyncMesh.submit`."""
        inner = self.wait_for(self._inner.submit(model, inputs, **options))
        return Task(self, inner)

    def result(self, task_id: str, timeout_s: float | None = None) -> dict[str, Array]:
        """The outputs of a task submitted before, here or elsewhere; as `AsyncMesh.result`."""
        return self.wait_for(self._inner.result(task_id, timeout_s))

    def task(self, task_id: str) -> Task:
        """A task submitted before, here or by another program, by its id."""

        async def find() -> Task:
            return Task(self, self._inner.task(task_id))

        return self.wait_for(find())

    def nodes(self) -> list[Node]:
        """Every device in the mesh."""
        return self.wait_for(self._inner.nodes())

    @property
    def description(self) -> MeshDescription:
        """Where the parts of the mesh are, as of its opening."""
        return self._inner.description

    @property
    def asynchronous(self) -> AsyncMesh:
        """The mesh inside, for `wait_for`."""
        return self._inner

    def wait_for(self, work: Coroutine[object, object, Value]) -> Value:
        """Run a coroutine in this mesh's loop and wait for it."""
        if self._loop is None:
            work.close()
            raise MeshNotFound("This mesh is not open: use it in a `with` block.")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    # --- inside ----------------------------------------------------------------------------

    def _run(self, settings: TaskSettings, inputs: Inputs) -> Answer:
        content = self._content(settings, inputs)
        loop = self._running_loop()
        dispatcher = self._inner.dispatcher
        task_id = new_task_id()
        future: Future[tuple[Outcome | MailleError, float]] = Future()

        def on_done(_id: bytes, outcome: Outcome | MailleError, now_s: float) -> None:
            future.set_result((outcome, now_s))

        sent_s = time.monotonic()
        loop.call_soon_threadsafe(dispatcher.submit, settings, ((task_id, content),), on_done)
        try:
            outcome, arrived_s = future.result()
        except BaseException:
            loop.call_soon_threadsafe(dispatcher.abandon, [task_id])
            raise
        tiny = self._inner.signatures.tiny(
            self._inner.signatures.cached(settings.model, settings.version)
        )
        return answer_of(outcome, latency_s=arrived_s - sent_s, tiny=tiny)

    def _content(self, settings: TaskSettings, inputs: Inputs) -> bytes:
        known = self._inner.signatures.cached(settings.model, settings.version)
        if known is not None:
            # In this thread, so that the loop stays free.
            with contextlib.suppress(InputError):
                return self._inner.signatures.encoded(known, inputs)
        return self.wait_for(
            self._inner.signatures.content(settings.model, settings.version, inputs)
        )

    def _signature(self, settings: TaskSettings) -> Model:
        return self._inner.signatures.cached(settings.model, settings.version) or self.wait_for(
            self._inner.signatures.signature(settings.model, settings.version)
        )

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise MeshNotFound("This mesh is not open: use it in a `with` block.")
        return self._loop

    def _stop(self) -> None:
        loop, self._loop = self._loop, None
        thread, self._thread = self._thread, None
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)
        if thread is not None:
            thread.join()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _drain(
    arrived: "queue.SimpleQueue[Arrival]",
    timeout_s: float | None,
) -> list[Arrival]:
    """Everything that has arrived, after waiting for the first."""
    taken: list[Arrival] = []
    try:
        taken.append(arrived.get(timeout=timeout_s))
        while True:
            taken.append(arrived.get_nowait())
    except queue.Empty:
        return taken
