"""The request to run tasks, in JSON or CBOR, made into submissions."""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastapi import Request
from pydantic import ValidationError

from maille_coordinator.api.body import read_body
from maille_coordinator.api.context import Context
from maille_coordinator.api.errors import ApiError, validation_text
from maille_coordinator.api.schemas import TaskRequest
from maille_coordinator.api.tensors import InputProblem, arrays_of
from maille_coordinator.models import ArtefactStore
from maille_coordinator.records import ModelRecord
from maille_coordinator.service import TaskOptions
from maille_protocol import ErrorCode, Reference, Submission, TaskFlag, UsageError, WireError
from maille_protocol.limits import (
    MAX_INLINE_CONTENT_BYTES,
    MAX_ITEMS_PER_MESSAGE,
    TASK_ID_BYTES,
)
from maille_protocol.signature import TensorSpec, check_inputs
from maille_protocol.tensors import Array, decode_tensors, encode_tensors
from maille_protocol.tiny import Model, quantise_inputs

_THREAD_BYTES = 128 * 1024
"""Larger bodies are parsed in a thread, so that the event loop goes on."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request that is well-formed; whether its inputs fit the model is not yet known."""

    model: str
    options: TaskOptions
    wait_s: float
    inputs: tuple[Mapping[str, object], ...]
    """JSON inputs, one mapping a task; empty if `encoded` is given."""
    encoded: bytes | None
    single: bool
    body_bytes: int


async def parse(request: Request, context: Context) -> Wanted:
    """Read and check the request.

    Raises:
        ApiError: 413, 415 or 422.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in {"application/json", "application/cbor"}:
        raise ApiError(
            415,
            "unsupported_media_type",
            f"tasks come as application/json or application/cbor, not as {media_type[:80]!r}: "
            "set the Content-Type header",
        )
    body = await read_body(request, context.max_task_body_bytes, "max_input_bytes")
    if media_type == "application/cbor":
        # The same fields as in JSON, from the query; the inputs are the body.
        query: dict[str, object] = dict(request.query_params)
        fields = await _validated({**query, "inputs": {}}, None)
        return _wanted(fields, body, len(body))
    return _wanted(await _validated(None, body), None, len(body))


async def submissions(
    wanted: Wanted, record: ModelRecord, artefacts: ArtefactStore, tiny: Model | None = None
) -> list[Submission]:
    """The tasks, with inputs checked against the model; large ones become artefacts.

    Args:
        wanted: the request.
        record: the model.
        artefacts: for large inputs.
        tiny: the model decoded, if it is a tiny one: real numbers become its integers.

    Raises:
        ApiError: 422, the inputs do not fit.
    """
    if wanted.body_bytes > _THREAD_BYTES:
        contents = await asyncio.to_thread(_contents, wanted, record, tiny)
    else:
        contents = _contents(wanted, record, tiny)
    made: list[Submission] = []
    for content in contents:
        task_id = secrets.token_bytes(TASK_ID_BYTES)
        if len(content) <= MAX_INLINE_CONTENT_BYTES:
            made.append(Submission(task_id, content))
        else:
            info = await artefacts.add(content)
            reference = Reference(bytes.fromhex(info.sha256), info.size_bytes)
            made.append(Submission(task_id, reference))
    return made


async def _validated(fields: Mapping[str, object] | None, body: bytes | None) -> TaskRequest:
    try:
        if body is None:
            return TaskRequest.model_validate(fields)
        if len(body) > _THREAD_BYTES:
            return await asyncio.to_thread(TaskRequest.model_validate_json, body)
        return TaskRequest.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False)
        raise ApiError(422, "invalid_request", validation_text(problems)) from error


def _wanted(fields: TaskRequest, encoded: bytes | None, body_bytes: int) -> Wanted:
    single = isinstance(fields.inputs, dict)
    inputs: Sequence[Mapping[str, object]] = (
        [fields.inputs] if isinstance(fields.inputs, dict) else fields.inputs
    )
    if not 1 <= len(inputs) <= MAX_ITEMS_PER_MESSAGE:
        raise ApiError(
            422,
            "invalid_request",
            f"inputs: {len(inputs)} tasks in one request, 1 to {MAX_ITEMS_PER_MESSAGE} are taken: "
            "send them in several requests",
        )
    return Wanted(
        model=fields.model,
        options=TaskOptions(
            version=fields.version,
            priority=fields.priority,
            deadline_ms=fields.deadline_ms,
            max_attempts=fields.max_attempts,
            flags=int(TaskFlag.AT_MOST_ONCE) if fields.at_most_once else 0,
            target=fields.target,
        ),
        wait_s=fields.wait_s,
        inputs=() if encoded is not None else tuple(inputs),
        encoded=encoded,
        single=single,
        body_bytes=body_bytes,
    )


def _contents(wanted: Wanted, record: ModelRecord, tiny: Model | None) -> list[bytes]:
    if wanted.encoded is not None:
        try:
            tensors = decode_tensors(wanted.encoded)
        except WireError as error:
            raise _refused(
                ErrorCode.INPUT_MALFORMED,
                f"the body holds no tensors: {error}. Send what "
                "maille_protocol.tensors.encode_tensors gives, or JSON",
                "",
            ) from error
        if tiny is not None:
            tensors = _quantised(tiny, tensors, "")
        _check(record.inputs, tensors, "")
        return [wanted.encoded if tiny is None else encode_tensors(tensors)]
    contents: list[bytes] = []
    for position, inputs in enumerate(wanted.inputs):
        where = "" if wanted.single else f"task {position}: "
        try:
            arrays = arrays_of(record.inputs if tiny is None else _real(tiny), inputs)
        except InputProblem as error:
            raise _refused(error.code, str(error), where) from error
        if tiny is not None:
            arrays = _quantised(tiny, arrays, where)
        _check(record.inputs, arrays, where)
        contents.append(encode_tensors(arrays))
    return contents


def _real(tiny: Model) -> tuple[TensorSpec, ...]:
    """What people give to a tiny model: real numbers, as to the model that it was made from."""
    return tuple(
        TensorSpec(found.name, "float64", found.shape) for found in tiny.description.inputs
    )


def _quantised(tiny: Model, arrays: Mapping[str, Array], where: str) -> dict[str, Array]:
    try:
        return quantise_inputs(tiny, arrays)
    except UsageError as error:
        named = {found.name for found in tiny.description.inputs} == set(arrays)
        code = ErrorCode.INPUT_SHAPE if named else ErrorCode.INPUT_NAME
        raise _refused(code, str(error), where) from error


def _check(specs: Sequence[TensorSpec], tensors: Mapping[str, Array], where: str) -> None:
    mismatch = check_inputs(specs, tensors)
    if mismatch is not None:
        raise _refused(mismatch.code, mismatch.text, where)


def _refused(code: ErrorCode, text: str, where: str) -> ApiError:
    return ApiError(422, code.name.lower(), f"{where}{text}")
