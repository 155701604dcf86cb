"""A small coordinator in memory: a real `Service` over the real catalogue and artefact store.

It runs every model itself with onnxruntime, at once, unless it is told to hold tasks back.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import httpx
import numpy as np
import onnxruntime

from maille_coordinator.api import create_app
from maille_coordinator.models import ArtefactStore, Catalogue, Inspection, inspect_model
from maille_coordinator.records import (
    AttemptRecord,
    Distribution,
    MeshEvent,
    ModelRecord,
    NodeView,
    TaskEnd,
    TaskView,
)
from maille_coordinator.service import MeshDescription, ServiceError, TaskOptions
from maille_coordinator.store.rows import STATE_OF_STATUS
from maille_protocol import (
    ErrorCode,
    Measured,
    ModelFormat,
    NodeInfo,
    NodeKind,
    NodeState,
    OutcomeStatus,
    Reference,
    Submission,
)
from maille_protocol.contents import Content
from maille_protocol.limits import MAX_INLINE_CONTENT_BYTES
from maille_protocol.tensors import Array, decode_tensors, encode_tensors

MEBIBYTE = 1024 * 1024
_INSPECTIONS: dict[bytes, Inspection] = {}
HISTORY = (AttemptRecord(1, "board-1", ErrorCode.NODE_LOST, "no heartbeat", 1000, 2000),)


def node_view(node: str, state: NodeState) -> NodeView:
    info = NodeInfo(
        kind=NodeKind.PC,
        name=f"{node} on the desk",
        software="maille 0.1.0",
        slots=2,
        formats=(ModelFormat.ONNX,),
        max_message_bytes=48 * 1024,
        measured=Measured(cores=2, memory_bytes=MEBIBYTE),
    )
    return NodeView(node, state, info, 7, 100, 1, 0, 1, 250, 10, 0, None, ("digits",))


class MemoryService:
    """Implements `maille_coordinator.service.Service`."""

    def __init__(self, directory: Path, *, max_artefact_bytes: int = 8 * MEBIBYTE) -> None:
        self.catalogue = Catalogue(directory / "catalogue")
        self.artefacts = ArtefactStore(
            directory / "artefacts", 64 * MEBIBYTE, max_artefact_bytes, reserve_bytes=0
        )
        self.connected = True
        self.hold = False
        """Whether new tasks stay queued."""
        self.fail_with: tuple[OutcomeStatus, ErrorCode, str] | None = None
        self.node_states = {"desk": NodeState.READY, "attic": NodeState.LOST}
        self.known_models: dict[tuple[str, int], ModelRecord] = {}
        self.options: TaskOptions | None = None
        self.open: dict[bytes, tuple[str, Submission]] = {}
        self.ends: dict[bytes, tuple[str, TaskEnd]] = {}
        self.changed = asyncio.Event()
        self.listeners: list[asyncio.Queue[MeshEvent]] = []

    def describe(self) -> MeshDescription:
        return MeshDescription(
            "home", "coordinator", 3, "0.1.0", "mqtt://127.0.0.1:1883", None, self.connected
        )

    def counters(self) -> Mapping[str, float]:
        return {"tasks_ended_total": float(len(self.ends)), "tasks_open": float(len(self.open))}

    def latencies(self) -> Mapping[str, Distribution]:
        buckets = ((0.001, 2), (0.01, 5), (float("inf"), 5))
        return {"task_seconds": Distribution(buckets, 0.02)}

    async def install(self, data: bytes, name: str = "clip") -> ModelRecord:
        """Add a model without the HTTP API; each file is inspected once a test run."""
        if data not in _INSPECTIONS:
            with tempfile.NamedTemporaryFile() as file:
                file.write(data)
                file.flush()
                _INSPECTIONS[data] = await inspect_model(Path(file.name))
        info = await self.artefacts.add(data)
        await self.artefacts.keep(info.sha256)
        digest = bytes.fromhex(info.sha256)
        record = self.catalogue.add(name, digest, len(data), ModelFormat.ONNX, _INSPECTIONS[data])
        self.add_model(record)
        return record

    def nodes(self) -> list[NodeView]:
        return [node_view(node, state) for node, state in sorted(self.node_states.items())]

    def _known(self, node: str) -> None:
        if node not in self.node_states:
            raise ServiceError(404, "unknown_node", f"no node is called {node!r}: see the list")

    def drain(self, node: str) -> None:
        self._known(node)
        self.node_states[node] = NodeState.DRAINING

    def resume(self, node: str) -> None:
        self._known(node)
        self.node_states[node] = NodeState.READY

    def forget(self, node: str) -> None:
        self._known(node)
        if self.node_states[node] is not NodeState.LOST:
            raise ServiceError(409, "node_alive", f"node {node!r} is alive: stop it first")
        del self.node_states[node]

    def add_model(self, record: ModelRecord) -> None:
        self.known_models[record.name, record.version] = record
        self.publish(MeshEvent("model.added", record.added_at_unix_ms, record.name))

    def remove_model(self, name: str, version: int) -> None:
        if self.known_models.pop((name, version), None) is None:
            raise ServiceError(404, "unknown_model", f"no model {name!r}")

    async def submit(
        self, model: str, tasks: Sequence[Submission], options: TaskOptions
    ) -> list[bytes]:
        self.options = options
        for task in tasks:
            self.open[task.task_id] = (model, task)
            if not self.hold:
                await self._run(task.task_id)
        return [task.task_id for task in tasks]

    async def release(self) -> None:
        """Run what was held back."""
        for task_id in list(self.open):
            await self._run(task_id)

    async def wait(self, task_ids: Sequence[bytes], timeout_s: float) -> list[TaskEnd | None]:
        for task_id in task_ids:
            if task_id not in self.open and task_id not in self.ends:
                raise ServiceError(404, "unknown_task", "no such task")
        until = time.monotonic() + timeout_s
        while any(task_id in self.open for task_id in task_ids):
            self.changed.clear()
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    await self.changed.wait()
            except TimeoutError:
                break
        return [self.ends[task_id][1] if task_id in self.ends else None for task_id in task_ids]

    def cancel(self, task_ids: Sequence[bytes]) -> int:
        found = [task_id for task_id in task_ids if task_id in self.open]
        for task_id in found:
            self._end(task_id, OutcomeStatus.CANCELLED, ErrorCode.NONE, b"cancelled by a client")
        return len(found)

    def task(self, task_id: bytes) -> TaskView | None:
        if task_id in self.open:
            model, task = self.open[task_id]
            return TaskView(
                task_id, "api", model, 1, "queued", 5, 1000, "", 0, content=task.content
            )
        if task_id in self.ends:
            model, end = self.ends[task_id]
            return TaskView(
                task_id=task_id,
                client="api",
                model=model,
                version=1,
                state=STATE_OF_STATUS[end.status],
                priority=5,
                accepted_at_unix_ms=1000,
                node=end.node,
                attempts=end.attempts,
                ended_at_unix_ms=end.ended_at_unix_ms,
                code=end.code,
                run_us=end.run_us,
                total_us=end.total_us,
                content=end.content,
                history=end.history,
            )
        return None

    def tasks(
        self, *, state: str | None, model: str | None, client: str | None, limit: int
    ) -> list[TaskView]:
        found = [view for task_id in [*self.ends, *self.open] if (view := self.task(task_id))]
        return [
            view
            for view in reversed(found)
            if (
                state is None
                or view.state == state
                or (state == "open" and not view.ended_at_unix_ms)
            )
            and model in {None, view.model}
            and client in {None, view.client}
        ][:limit]

    async def events(self) -> AsyncIterator[MeshEvent]:
        queue: asyncio.Queue[MeshEvent] = asyncio.Queue()
        self.listeners.append(queue)
        self.changed.set()
        try:
            while True:
                yield await queue.get()
        finally:
            self.listeners.remove(queue)
            self.changed.set()

    def publish(self, event: MeshEvent) -> None:
        for queue in self.listeners:
            queue.put_nowait(event)

    async def _run(self, task_id: bytes) -> None:
        model, task = self.open[task_id]
        if self.fail_with is not None:
            status, code, text = self.fail_with
            self._end(task_id, status, code, text.encode())
            return
        content = task.content
        if isinstance(content, Reference):
            content = await self.artefacts.read(content.sha256.hex())
        record = self.catalogue.require(model)
        session = onnxruntime.InferenceSession(self.artefacts.path(record.sha256.hex()))
        outputs = session.run(None, decode_tensors(content))
        names = [output.name for output in session.get_outputs()]
        data = encode_tensors(
            {name: np.asarray(out) for name, out in zip(names, outputs, strict=True)}
        )
        answer: Content = data
        if len(data) > MAX_INLINE_CONTENT_BYTES:
            info = await self.artefacts.add(data)
            answer = Reference(bytes.fromhex(info.sha256), info.size_bytes)
        self._end(task_id, OutcomeStatus.DONE, ErrorCode.NONE, answer)

    def _end(
        self, task_id: bytes, status: OutcomeStatus, code: ErrorCode, content: Content
    ) -> None:
        model, _ = self.open.pop(task_id)
        self.ends[task_id] = (
            model,
            TaskEnd(task_id, status, code, content, "desk", 2, 250, 900, 2000, HISTORY),
        )
        self.changed.set()


Scenario = Callable[[MemoryService, httpx.AsyncClient], Awaitable[None]]


def play(
    directory: Path,
    scenario: Scenario,
    *,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    max_task_body_bytes: int = MEBIBYTE,
    hosts: Sequence[str] | None = None,
    base_url: str = "http://127.0.0.1:7700",
) -> None:
    """Run `scenario` against the API of a fresh coordinator, without a network."""

    async def run() -> None:
        service = MemoryService(directory)
        app = create_app(service, key=key, hosts=hosts, max_task_body_bytes=max_task_body_bytes)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url=base_url, headers=headers
        ) as client:
            await scenario(service, client)
        service.catalogue.close()

    asyncio.run(run())


def encoded(**tensors: Array) -> bytes:
    return encode_tensors(tensors)
