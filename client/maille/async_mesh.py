"""`AsyncMesh`: the mesh for programs that run an event loop."""

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Iterator,
)
from types import TracebackType
from typing import Self, TypeVar, Unpack

from maille.boards import AsyncBoards, AsyncSenses
from maille.dispatcher import Dispatcher
from maille.errors import MailleError, MeshNotFound
from maille.flow import Flow
from maille.http_api import HttpApi
from maille.language import AsyncLanguage
from maille.locate import locate
from maille.mapping import AnyInputs, Arrival, OnAnswer, map_pieces, new_task_id, settle
from maille.models import AsyncModels
from maille.options import MapOptions, TaskOptions, settings_of
from maille.progress import MapProgress
from maille.session import Session
from maille.signatures import Signatures
from maille.tasks import AsyncTask, answer_of, parse_task_id
from maille.values import Inputs, count
from maille.views import Answer, MeshDescription, Model, Node
from maille_protocol import Outcome
from maille_protocol.tensors import Array
from maille_protocol.tiny import Model as TinyModel

Value = TypeVar("Value")


class AsyncMesh(AsyncLanguage):
    """A mesh, for `async with`.

        async with AsyncMesh() as mesh:
            outputs = await mesh.run("digits", {"X": image})
            async for outputs in mesh.map("digits", images):
                ...

    Args:
        url: the coordinator's `http://` address or a broker's `mqtt://`; None looks at MAILLE_URL,
            then at meshes on this machine, then on the local network.
        key: the mesh's key; None takes MAILLE_KEY, or none.
        mesh: the mesh's name, where several are within reach.
        timeout_s: how long the mesh may be silent before a call fails with MeshUnavailable. It is
            no limit on how long a task may run: that is `deadline_s`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        mesh: str | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self._url = url
        self._key = key
        self._mesh = mesh
        self._timeout_s = timeout_s
        self._dispatcher: Dispatcher | None = None
        self._http: HttpApi | None = None
        self._description: MeshDescription | None = None
        self._signatures: Signatures | None = None
        self.models = AsyncModels(self)
        self.boards = AsyncBoards(self)
        self.senses = AsyncSenses(self)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Find the mesh and connect.

        Raises:
            MeshNotFound: there is none to be found.
            MeshUnavailable: it does not answer.
            Unauthorized: it wants another key.
        """
        if self._http is not None:
            return
        place = await locate(self._url, key=self._key, mesh=self._mesh, timeout_s=self._timeout_s)
        session = Session(place.endpoint, place.mesh, patience_s=self._timeout_s)
        await session.open(self._timeout_s)
        http_url = place.http_url or session.http_url or ""
        http = HttpApi(http_url, key=place.key, timeout_s=self._timeout_s)
        try:
            self._description = place.description or await http.mesh()
        except BaseException:
            await http.close()
            await session.close()
            raise
        self._http = http
        self._signatures = Signatures(http, self._description.max_input_bytes)
        self._dispatcher = Dispatcher(session, http)

    async def close(self) -> None:
        """Leave the mesh. Tasks under way go on; their results can be asked for later."""
        dispatcher, self._dispatcher = self._dispatcher, None
        http, self._http = self._http, None
        if dispatcher is not None:
            await dispatcher.close()
            await dispatcher.session.close()
        if http is not None:
            await http.close()

    # --- running ---------------------------------------------------------------------------

    async def run(
        self,
        model: str,
        inputs: Inputs,
        **options: Unpack[TaskOptions],
    ) -> dict[str, Array]:
        """Run a model once and return its outputs by name.

        Args:
            model: its name.
            inputs: arrays by name, or one array where the model has one input. Arrays must have
                the model's type; Python numbers and lists get it where that is exact.
            options: see `TaskOptions`.

        Raises:
            UnknownModel, InputError: before anything is sent.
            TaskError: the task ended without outputs.
            MeshUnavailable, MeshBusy: see `maille.errors`.
        """
        answer = await self.run_detailed(model, inputs, **options)
        return answer.outputs

    async def run_detailed(
        self,
        model: str,
        inputs: Inputs,
        **options: Unpack[TaskOptions],
    ) -> Answer:
        """As `run`, with the node, the times and the attempts it took."""
        settings = settings_of(model, **options)
        content = await self.signatures.content(settings.model, settings.version, inputs)
        task_id = new_task_id()
        dispatcher = self.dispatcher
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[Outcome | MailleError, float]] = loop.create_future()

        def on_done(_id: bytes, outcome: Outcome | MailleError, now_s: float) -> None:
            if not future.done():
                future.set_result((outcome, now_s))

        sent_s = time.monotonic()
        dispatcher.submit(settings, ((task_id, content),), on_done)
        try:
            outcome, arrived_s = await future
        except asyncio.CancelledError:
            dispatcher.abandon([task_id])
            raise
        tiny = self.signatures.tiny(self.signatures.cached(settings.model, settings.version))
        return answer_of(outcome, latency_s=arrived_s - sent_s, tiny=tiny)

    async def map(
        self,
        model: str,
        inputs: AnyInputs,
        *,
        on_answer: OnAnswer | None = None,
        **options: Unpack[MapOptions],
    ) -> AsyncGenerator[dict[str, Array]]:
        """Run a model over many inputs; yields the outputs as they come, in order if asked.

        `inputs` is an iterable of what `run` takes; or arrays (one, or by name), which are cut
        along their first axis into tasks of `rows` rows (1 unless said), each keeping that axis.
        With `ordered=False` whatever is ready first comes first. `progress` draws a bar.
        `on_answer` is called with every Answer before its outputs are yielded. All options stand in
        `MapOptions`.

        How many tasks are in flight adapts to the mesh. Inputs are taken as there is room, so a
        generator of any length is fine. The first failure ends the map and cancels what is under
        way.
        """
        answers = self.map_detailed(model, inputs, **options)
        try:
            async for item in answers:
                if isinstance(item, MailleError):
                    raise item
                if on_answer is not None:
                    on_answer(item)
                yield item.outputs
        finally:
            await answers.aclose()

    async def map_detailed(
        self,
        model: str,
        inputs: AnyInputs,
        *,
        rows: int | None = None,
        ordered: bool = True,
        progress: bool = False,
        **options: Unpack[TaskOptions],
    ) -> AsyncGenerator[Answer | MailleError]:
        """As `map`; yields an Answer, or the error, of every task and goes on after errors."""
        settings = settings_of(model, **options)
        known = await self.signatures.signature(settings.model, settings.version)
        pieces = map_pieces(inputs, rows, known)
        source = pieces if isinstance(pieces, AsyncIterable) else _as_async(pieces)
        dispatcher = self.dispatcher
        flow: Flow[Answer | MailleError] = Flow(self.signatures.limiter(known), ordered)
        arrived: list[Arrival] = []
        news = asyncio.Event()

        def on_done(task_id: bytes, outcome: Outcome | MailleError, now_s: float) -> None:
            arrived.append((task_id, outcome, now_s))
            news.set()

        shown = MapProgress.of(progress, count(inputs, rows or 1))
        iterator = aiter(source)
        more = True
        try:
            with shown:
                while True:
                    batch = flow.again(iter(new_task_id, b""), time.monotonic())
                    while more and flow.room() > 0:
                        try:
                            piece = await anext(iterator)
                        except StopAsyncIteration:
                            more = False
                            break
                        content = self.signatures.encoded(known, piece)
                        task_id = new_task_id()
                        flow.sent(task_id, content, time.monotonic())
                        batch.append((task_id, content))
                    if batch:
                        dispatcher.submit(settings, batch, on_done)
                    if not more and not flow.in_flight and not arrived:
                        break
                    if not arrived:
                        await _wait(news, flow.again_in_s(time.monotonic()))
                    news.clear()
                    taken, arrived = arrived, []
                    shown.advance(settle(flow, taken, self.signatures.tiny(known)))
                    for item in flow.ready():
                        yield item
                for item in flow.ready():
                    yield item
        finally:
            left = flow.open_ids()
            if left and self._dispatcher is not None:
                dispatcher.abandon(left)

    async def submit(
        self,
        model: str,
        inputs: Inputs,
        **options: Unpack[TaskOptions],
    ) -> AsyncTask:
        """Hand a task over; returns when it is on the coordinator's disk.

        From then on it survives this program: `result(task.id)` fetches its outputs, from here or
        from anywhere. Arguments and errors as in `run`.
        """
        settings = settings_of(model, **options)
        content = await self.signatures.content(settings.model, settings.version, inputs)
        task_id = new_task_id()
        tiny = self.signatures.tiny(self.signatures.cached(settings.model, settings.version))

        async def find_tiny() -> TinyModel | None:
            return tiny

        task = AsyncTask(self.dispatcher, task_id, find_tiny)
        self.dispatcher.submit(settings, [(task_id, content)], task.settle, task.confirm)
        await task.accepted()
        return task

    async def result(self, task_id: str, timeout_s: float | None = None) -> dict[str, Array]:
        """The outputs of a task submitted before, here or by another program.

        Raises:
            UnknownTask: the mesh does not know it (any longer).
            ResultTimeout: it has not ended within `timeout_s`; None waits for it.
            TaskError: it ended without outputs.
        """
        return await self.task(task_id).result(timeout_s)

    def task(self, task_id: str) -> AsyncTask:
        """A task submitted before, here or by another program, by its id."""
        identity = parse_task_id(task_id)
        task = AsyncTask(self.dispatcher, identity, lambda: self.signatures.tiny_of_task(task_id))
        task.watch()
        return task

    async def nodes(self) -> list[Node]:
        """Every device in the mesh."""
        return await self.http.nodes()

    # --- for the synchronous mesh and the command line ---------------------------------------

    @property
    def http(self) -> HttpApi:
        """The coordinator's HTTP API."""
        if self._http is None:
            raise MeshNotFound("This mesh is not open: use it in a `with` block.")
        return self._http

    @property
    def dispatcher(self) -> Dispatcher:
        """What carries tasks."""
        if self._dispatcher is None:
            raise MeshNotFound("This mesh is not open: use it in a `with` block.")
        return self._dispatcher

    @property
    def description(self) -> MeshDescription:
        """Where the parts of the mesh are, as of its opening."""
        if self._description is None:
            raise MeshNotFound("This mesh is not open: use it in a `with` block.")
        return self._description

    @property
    def signatures(self) -> Signatures:
        """What is known of the models."""
        if self._signatures is None:
            raise MeshNotFound("This mesh is not open: use it in a `with` block.")
        return self._signatures

    async def signature(self, model: str, version: int = 0) -> Model:
        """A model's signature; UnknownModel names near ones."""
        return await self.signatures.signature(model, version)


async def _wait(news: asyncio.Event, timeout_s: float | None) -> None:
    if timeout_s is None:
        await news.wait()
        return
    try:
        async with asyncio.timeout(timeout_s):
            await news.wait()
    except TimeoutError:
        return


async def _as_async(items: Iterator[Value]) -> AsyncIterator[Value]:
    for item in items:
        yield item
