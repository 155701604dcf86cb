"""`AsyncMesh`: the mesh for programs that run an event loop."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
)
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias, TypeVar, cast

from maille.boards import AsyncBoards, AsyncSenses
from maille.dispatcher import Dispatcher
from maille.errors import InputError, MailleError, MeshBusy, MeshNotFound, UnknownModel
from maille.flow import Flow
from maille.http_api import HttpApi, OnProgress
from maille.language import AsyncLanguage
from maille.limiter import Limiter
from maille.locate import locate
from maille.progress import MapProgress
from maille.session import Session
from maille.tasks import AsyncTask, answer_of, parse_task_id, settings_of
from maille.tiny_values import as_people_see_it, decode_tiny, quantised
from maille.values import Inputs, count, cut, encode, is_whole, prepare
from maille.views import Answer, MeshDescription, Model, Node
from maille_protocol import Outcome
from maille_protocol.limits import TASK_ID_BYTES
from maille_protocol.tensors import Array
from maille_protocol.tiny import Model as TinyModel

Value = TypeVar("Value")
AnyInputs: TypeAlias = "Inputs | Iterable[Inputs] | AsyncIterable[Inputs]"
OnAnswer: TypeAlias = Callable[[Answer], None]


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
        self._known: dict[tuple[str, int], Model] = {}
        self._limiters: dict[tuple[str, int], Limiter] = {}
        self._tiny: dict[str, TinyModel] = {}
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
        *,
        version: int = 0,
        deadline_s: float | None = None,
        priority: int = 5,
        target: str | None = None,
        at_most_once: bool = False,
    ) -> dict[str, Array]:
        """Run a model once and return its outputs by name.

        Args:
            model: its name.
            inputs: arrays by name, or one array where the model has one input. Arrays must have
                the model's type; Python numbers and lists get it where that is exact.
            version: 0 means the newest.
            deadline_s: time the task may take; None means the coordinator's default.
            priority: 0 to 9, higher first.
            target: run on this node only.
            at_most_once: never start it twice, even if its node is lost.

        Raises:
            UnknownModel, InputError: before anything is sent.
            TaskError: the task ended without outputs.
            MeshUnavailable, MeshBusy: see `maille.errors`.
        """
        answer = await self.run_detailed(
            model,
            inputs,
            version=version,
            deadline_s=deadline_s,
            priority=priority,
            target=target,
            at_most_once=at_most_once,
        )
        return answer.outputs

    async def run_detailed(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: int = 0,
        deadline_s: float | None = None,
        priority: int = 5,
        target: str | None = None,
        at_most_once: bool = False,
    ) -> Answer:
        """As `run`, with the node, the times and the attempts it took."""
        settings = settings_of(model, version, deadline_s, priority, target, at_most_once)
        content = await self.content(model, version, inputs)
        task_id = secrets.token_bytes(TASK_ID_BYTES)
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
        tiny = self.tiny(self.cached(model, version))
        return answer_of(outcome, latency_s=arrived_s - sent_s, tiny=tiny)

    async def map(
        self,
        model: str,
        inputs: AnyInputs,
        *,
        version: int = 0,
        deadline_s: float | None = None,
        priority: int = 5,
        target: str | None = None,
        at_most_once: bool = False,
        rows: int | None = None,
        ordered: bool = True,
        progress: bool = False,
        on_answer: OnAnswer | None = None,
    ) -> AsyncGenerator[dict[str, Array]]:
        """Run a model over many inputs; yields the outputs as they come, in order if asked.

        `inputs` is an iterable of what `run` takes; or arrays (one, or by name), which are cut
        along their first axis into tasks of `rows` rows (1 unless said), each keeping that axis.
        With `ordered=False` whatever is ready first comes first. `progress` draws a bar.
        `on_answer` is called with every Answer before its outputs are yielded. The other arguments
        are those of `run`.

        How many tasks are in flight adapts to the mesh. Inputs are taken as there is room, so a
        generator of any length is fine. The first failure ends the map and cancels what is under
        way.
        """
        answers = self.map_detailed(
            model,
            inputs,
            version=version,
            deadline_s=deadline_s,
            priority=priority,
            target=target,
            at_most_once=at_most_once,
            rows=rows,
            ordered=ordered,
            progress=progress,
        )
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
        version: int = 0,
        deadline_s: float | None = None,
        priority: int = 5,
        target: str | None = None,
        at_most_once: bool = False,
        rows: int | None = None,
        ordered: bool = True,
        progress: bool = False,
    ) -> AsyncGenerator[Answer | MailleError]:
        """As `map`; yields an Answer, or the error, of every task and goes on after errors."""
        settings = settings_of(model, version, deadline_s, priority, target, at_most_once)
        known = await self.signature(model, version)
        pieces = map_pieces(inputs, rows, known)
        source = pieces if isinstance(pieces, AsyncIterable) else _as_async(pieces)
        dispatcher = self.dispatcher
        flow: Flow[Answer | MailleError] = Flow(self.limiter(known), ordered)
        arrived: list[tuple[bytes, Outcome | MailleError, float]] = []
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
                        content = self.encoded(known, piece)
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
                    shown.advance(settle(flow, taken, self.tiny(known)))
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
        *,
        version: int = 0,
        deadline_s: float | None = None,
        priority: int = 5,
        target: str | None = None,
        at_most_once: bool = False,
    ) -> AsyncTask:
        """Hand a task over; returns when it is on the coordinator's disk.

        From then on it survives this program: `result(task.id)` fetches its outputs, from here or
        from anywhere. Arguments and errors as in `run`.
        """
        settings = settings_of(model, version, deadline_s, priority, target, at_most_once)
        content = await self.content(model, version, inputs)
        task_id = new_task_id()
        tiny = self.tiny(self.cached(model, version))

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
        task = AsyncTask(self.dispatcher, identity, lambda: self._tiny_of_task(task_id))
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

    def cached(self, model: str, version: int) -> Model | None:
        """A model's signature, if it has been asked for before."""
        return self._known.get((model, version))

    async def signature(self, model: str, version: int = 0) -> Model:
        """A model's signature; UnknownModel names near ones."""
        known = self._known.get((model, version))
        if known is not None:
            return known
        return await self._look_up(model, version)

    async def content(self, model: str, version: int, inputs: Inputs) -> bytes:
        """The bytes of inputs for a model; UnknownModel, InputError.

        Inputs that do not fit the signature known from before are checked against the newest
        version once more: the model may have been replaced since.
        """
        known = self._known.get((model, version))
        if known is not None:
            try:
                return self.encoded(known, inputs)
            except InputError:
                if version:
                    raise
        return self.encoded(await self._look_up(model, version), inputs)

    async def _look_up(self, model: str, version: int) -> Model:
        """Ask for a model's signature, and for what its integers mean if it is a tiny one."""
        found = self.remember(await self.http.models(), model, version)
        if found.format != "tiny":
            return found
        if found.sha256 not in self._tiny:
            data = await self.http.get_bytes(bytes.fromhex(found.sha256), found.size_bytes)
            self._tiny[found.sha256] = decode_tiny(found, data)
        known = as_people_see_it(found, self._tiny[found.sha256])
        self._known[model, version] = known
        return known

    def tiny(self, model: Model | None) -> TinyModel | None:
        """What the integers of a tiny model mean; None for any other."""
        return None if model is None else self._tiny.get(model.sha256)

    async def _tiny_of_task(self, task_id: str) -> TinyModel | None:
        """As `tiny`, for a task that this program knows only by its id."""
        if not any(model.format == "tiny" for model in await self.http.models()):
            return None
        told = await self.http.task(task_id)
        name, version = told.get("model"), told.get("version")
        if not isinstance(name, str) or not isinstance(version, int):
            return None
        with contextlib.suppress(UnknownModel):  # removed since: its integers are all there is
            return self.tiny(await self.signature(name, version))
        return None

    def remember(self, models: list[Model], model: str, version: int) -> Model:
        """Find a model in the catalogue and keep its signature; UnknownModel."""
        found = [item for item in models if item.name == model]
        if version:
            exact = [item for item in found if item.version == version]
            if found and not exact:
                versions = ", ".join(str(item.version) for item in found)
                raise UnknownModel(f"Model {model!r} has no version {version}, only {versions}.")
            found = exact
        if not found:
            raise UnknownModel(unknown_model_text(model, [item.name for item in models]))
        newest = max(found, key=lambda item: item.version)
        if newest.format != "tiny":  # what its integers mean is not known yet
            self._known[model, version] = newest
        return newest

    def forget(self, model: str) -> None:
        """Ask for a model's signature anew next time."""
        self._known = {key: item for key, item in self._known.items() if key[0] != model}

    def limiter(self, model: Model) -> Limiter:
        """What this program has learned about how many tasks of a model to keep in flight."""
        return self._limiters.setdefault((model.name, model.version), Limiter())

    def encoded(self, model: Model, inputs: Inputs) -> bytes:
        """The bytes of inputs that fit the model; InputError."""
        tiny = self.tiny(model)
        if tiny is None:
            arrays = prepare(inputs, model.inputs, model.name)
        else:
            arrays = quantised(inputs, model, tiny)
        return encode(arrays, self.description.max_input_bytes)


class AsyncModels:
    """The mesh's catalogue of models (`mesh.models`)."""

    def __init__(self, mesh: AsyncMesh) -> None:
        self._mesh = mesh

    async def add(
        self,
        path: str | PathLike[str],
        name: str | None = None,
        *,
        description: str = "",
        on_progress: OnProgress | None = None,
    ) -> Model:
        """Upload a model file; the name is made from the file's unless given.

        Raises:
            ModelRejected: the file is no model that the mesh can run; the text says why.
        """
        model = await self._mesh.http.add_model(
            readable_file(path), name=name, description=description, on_progress=on_progress
        )
        self._mesh.forget(model.name)
        return model

    async def list(self) -> "list[Model]":
        """Every version of every model, by name."""
        models = await self._mesh.http.models()
        return sorted(models, key=lambda model: (model.name, model.version))

    async def show(self, name: str, version: int = 0) -> Model:
        """One model, the newest version unless given; UnknownModel."""
        return self._mesh.remember(await self._mesh.http.models(), name, version)

    async def remove(self, name: str, version: int = 0) -> None:
        """Remove one version of a model, 0 for all; UnknownModel."""
        await self._mesh.http.remove_model(name, version)
        self._mesh.forget(name)


def new_task_id() -> bytes:
    """A random task id."""
    return secrets.token_bytes(TASK_ID_BYTES)


def readable_file(path: str | PathLike[str]) -> Path:
    """The path, if a file is there.

    Raises:
        MailleError: there is none, or it cannot be read.
    """
    file = Path(path)
    try:
        with file.open("rb"):
            return file
    except OSError as error:
        raise MailleError(
            f"The file {file} cannot be read ({error.strerror or error}). Check the path."
        ) from error


def unknown_model_text(model: str, names: Iterable[str]) -> str:
    """That there is no such model, and which is near."""
    known = sorted(set(names))
    near = get_close_matches(model, known, 3)
    if near:
        return f"No model is called {model!r}: did you mean {', '.join(near)}?"
    if known:
        return f"No model is called {model!r}. The mesh has: {', '.join(known[:20])}."
    return (
        f"No model is called {model!r}: the mesh has none. Add one with `maille models add FILE`."
    )


def map_pieces(
    inputs: AnyInputs, rows: int | None, model: Model
) -> "Iterator[Inputs] | AsyncIterable[Inputs]":
    """The inputs of each task of a map."""
    if is_whole(inputs):
        return cut(inputs, rows or 1, model.inputs, model.name)
    if rows is not None:
        raise MailleError(
            "rows cuts arrays along their first axis: give map one array, or a dict of arrays."
        )
    if isinstance(inputs, AsyncIterable):
        return cast("AsyncIterable[Inputs]", inputs)
    if not isinstance(inputs, Iterable) or isinstance(inputs, str | bytes):
        raise MailleError(
            f"map takes an iterable of inputs, or arrays, not {type(inputs).__name__}."
        )
    return iter(cast("Iterable[Inputs]", inputs))


def settle(
    flow: Flow[Answer | MailleError],
    arrived: Iterable[tuple[bytes, Outcome | MailleError, float]],
    tiny: TinyModel | None = None,
) -> list[Answer | MailleError]:
    """Take what arrived into the flow; what ended for good."""
    ended: list[Answer | MailleError] = []
    for task_id, outcome, now_s in arrived:
        if isinstance(outcome, MeshBusy):
            flow.refused(task_id, now_s)
            continue
        place = flow.take(task_id, now_s, well=isinstance(outcome, Outcome))
        if place is None:
            continue
        index, latency_s = place
        item: Answer | MailleError
        try:
            item = answer_of(outcome, latency_s=latency_s, index=index, tiny=tiny)
        except MailleError as error:
            item = error
        flow.finish(index, item)
        ended.append(item)
    return ended


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
