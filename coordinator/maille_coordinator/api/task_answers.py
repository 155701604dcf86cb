"""What became of tasks, in JSON or CBOR."""

import asyncio
import contextlib
import json
from dataclasses import dataclass

from fastapi import Request, Response

from maille_coordinator.api import errors, views
from maille_coordinator.api.tensors import json_of
from maille_coordinator.models import ArtefactStore, UnknownArtefact
from maille_coordinator.records import ModelRecord, TaskEnd, TaskView
from maille_coordinator.service import Service
from maille_coordinator.store.rows import STATE_OF_STATUS
from maille_protocol import ErrorCode, Reference, TaskState, UsageError
from maille_protocol.contents import Content
from maille_protocol.tensors import decode_tensors
from maille_protocol.tiny import Model, dequantise_outputs

_CBOR = "application/cbor"
_THREAD_BYTES = 128 * 1024
"""Larger outputs are turned into JSON in a thread, so that the event loop goes on."""
_INPUT_CODES = frozenset(code for code in ErrorCode if code.name.startswith("INPUT_"))


@dataclass(frozen=True, slots=True)
class Answered:
    """A task to be shown: `fields` are those of the schema, content is still as on the wire."""

    fields: dict[str, object]
    state: str
    code: ErrorCode
    content: Content | None
    tiny: Model | None = None
    """The model decoded, if it is a tiny one: its integers become numbers or labels."""


def from_end(
    task_id: bytes,
    end: TaskEnd | None,
    record: ModelRecord,
    service: Service,
    tiny: Model | None = None,
) -> Answered:
    """The answer to a request that waited; `end` None: the task is still open."""
    view = service.task(task_id) if end is None else None
    if end is None:
        state = TaskState.QUEUED.value if view is None else view.state
    else:
        state = STATE_OF_STATUS[end.status]
    return Answered(
        fields={
            "task_id": task_id.hex(),
            "model": record.name,
            "version": record.version,
            "state": state,
            "node": end.node if end else view.node if view else "",
            "attempts": end.attempts if end else view.attempts if view else 0,
            "run_us": end.run_us if end else 0,
            "total_us": end.total_us if end else 0,
        },
        state=state,
        code=end.code if end else ErrorCode.NONE,
        content=end.content if end else None,
        tiny=tiny,
    )


async def one(answered: Answered, request: Request, artefacts: ArtefactStore) -> Response:
    """A response for one task: 200 once it has ended, 202 before."""
    ended = TaskState(answered.state).final
    content = await _bytes(answered.content, artefacts) if ended else None
    if ended and _CBOR in request.headers.get("accept", ""):
        return _cbor(answered, content)
    return await _json(await _whole(answered, content), 200 if ended else 202, content)


async def many(answers: list[Answered], artefacts: ArtefactStore) -> Response:
    """A response for several tasks: 200 once all have ended."""
    tasks: list[dict[str, object]] = []
    size = 0
    for answered in answers:
        ended = TaskState(answered.state).final
        content = await _bytes(answered.content, artefacts) if ended else None
        size += len(content or b"")
        tasks.append(await _whole(answered, content))
    all_ended = all(TaskState(answered.state).final for answered in answers)
    return await _json({"tasks": tasks}, 200 if all_ended else 202, bytes(0), size)


async def detail(
    view: TaskView, request: Request, artefacts: ArtefactStore, tiny: Model | None = None
) -> Response:
    """A response for a task as the coordinator knows it."""
    fields = views.task_summary(view)
    fields["history"] = [views.attempt(record) for record in view.history]
    answered = Answered(fields, view.state, view.code, view.content, tiny)
    ended = TaskState(view.state).final
    content = await _bytes(view.content, artefacts) if ended else None
    if ended and _CBOR in request.headers.get("accept", ""):
        return _cbor(answered, content)
    return await _json(await _whole(answered, content), 200, content)


def _cbor(answered: Answered, content: bytes | None) -> Response:
    if answered.state == TaskState.DONE.value and content is not None:
        headers = {"Maille-Task": str(answered.fields["task_id"])}
        return Response(content, media_type=_CBOR, headers=headers)
    error = _error(answered, content)
    status = 422 if answered.code in _INPUT_CODES else 502
    return errors.answer(
        status,
        error["code"],
        f"task {answered.fields['task_id']} {answered.state}: {error['message']}",
    )


async def _whole(answered: Answered, content: bytes | None) -> dict[str, object]:
    fields = dict(answered.fields)
    fields["outputs"] = None
    fields["error"] = None
    if not TaskState(answered.state).final:
        return fields
    if answered.state != TaskState.DONE.value or content is None:
        fields["error"] = _error(answered, content)
    elif len(content) > _THREAD_BYTES:
        fields["outputs"] = await asyncio.to_thread(_outputs, content, answered.tiny)
    else:
        fields["outputs"] = _outputs(content, answered.tiny)
    return fields


def _outputs(content: bytes, tiny: Model | None) -> dict[str, object]:
    arrays = decode_tensors(content)
    if tiny is not None:
        with contextlib.suppress(UsageError):  # a node's fault: show what it sent
            arrays = dequantise_outputs(tiny, arrays)
    return {name: json_of(array) for name, array in arrays.items()}


def _error(answered: Answered, content: bytes | None) -> dict[str, str]:
    if answered.state == TaskState.DONE.value:
        return {
            "code": ErrorCode.CONTENT_UNAVAILABLE.name.lower(),
            "message": "the outputs are no longer stored: run the task again",
        }
    text = (content or b"").decode("utf-8", "replace")
    return {
        "code": answered.code.name.lower(),
        "message": text or f"the task ended as {answered.state}",
    }


async def _bytes(content: Content | None, artefacts: ArtefactStore) -> bytes | None:
    """The content itself; None if there is none (any more)."""
    if not isinstance(content, Reference):
        return content
    try:
        return await artefacts.read(content.sha256.hex())
    except (UnknownArtefact, FileNotFoundError):
        return None


async def _json(value: object, status: int, content: bytes | None, size_bytes: int = 0) -> Response:
    if max(size_bytes, len(content or b"")) > _THREAD_BYTES:
        data = await asyncio.to_thread(_dump, value)
    else:
        data = _dump(value)
    return Response(data, status, media_type="application/json")


def _dump(value: object) -> bytes:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
