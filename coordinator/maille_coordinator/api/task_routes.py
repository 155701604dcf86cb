"""/api/tasks: run models, see what became of tasks, cancel them."""

import contextlib
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from maille_coordinator.api import schemas, task_answers, task_requests, views
from maille_coordinator.api.context import Context
from maille_coordinator.api.errors import ApiError, described
from maille_coordinator.models import ModelsError
from maille_coordinator.records import TaskView

State = Literal[
    "open", "queued", "offered", "running", "done", "failed", "cancelled", "expired", "dead"
]

_CBOR_BYTES = {"schema": {"type": "string", "format": "binary"}}
_RUN_BODY = {
    "requestBody": {
        "required": True,
        "description": "JSON for one or several tasks; or for one task its input tensors in CBOR "
        "(RFC 8746, as on the wire), with the other fields as query parameters.",
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/TaskRequest"}},
            "application/cbor": _CBOR_BYTES,
        },
    }
}
_RUN_ANSWERS: dict[int | str, dict[str, object]] = {
    200: {
        "model": schemas.TaskAnswer | schemas.TaskAnswers,
        "description": "Ended: one answer, or a list if `inputs` was one. A task that failed says "
        "so in `state` and `error`. With `Accept: application/cbor`: the output tensors.",
        "content": {"application/cbor": _CBOR_BYTES},
    },
    202: {
        "model": schemas.TaskAnswer | schemas.TaskAnswers,
        "description": "Some are still open after `wait_s`: ask later with GET.",
    },
    502: {
        "model": schemas.ErrorAnswer,
        "description": "Outputs were asked for in CBOR, but the task did not end as done.",
    },
}


def router(context: Context) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["tasks"], responses=described())
    service = context.service

    def find(task_id: str) -> TaskView:
        view = None
        if len(task_id) == 32:
            try:
                view = service.task(bytes.fromhex(task_id))
            except ValueError:
                view = None
        if view is None:
            raise ApiError(
                404,
                "unknown_task",
                f"no task {task_id[:80]!r}: ids have 32 hexadecimal digits, and tasks that ended "
                "long ago are forgotten; GET /api/tasks lists those that are known",
            )
        return view

    @routes.post(
        "/api/tasks",
        response_model=None,
        responses={**_RUN_ANSWERS, **described(400, 404, 413, 415, 422, 503, 507)},
        openapi_extra=_RUN_BODY,
    )
    async def run(request: Request) -> Response:
        """Run a model on one or several inputs and wait for the outputs.

        Inputs are checked against the model before anything runs. What was accepted is run even
        if you hang up or the coordinator is restarted.
        """
        wanted = await task_requests.parse(request, context)
        record = service.catalogue.require(wanted.model, wanted.options.version)
        tiny = context.tiny(record)
        submissions = await task_requests.submissions(wanted, record, service.artefacts, tiny)
        task_ids = await service.submit(wanted.model, submissions, wanted.options)
        ends = await service.wait(task_ids, wanted.wait_s)
        answers = [
            task_answers.from_end(task_id, end, record, service, tiny)
            for task_id, end in zip(task_ids, ends, strict=True)
        ]
        if wanted.single:
            return await task_answers.one(answers[0], request, service.artefacts)
        return await task_answers.many(answers, service.artefacts)

    @routes.get("/api/tasks", response_model=schemas.Tasks)
    async def list_tasks(
        state: Annotated[
            State | None, Query(description="`open`: those that have not ended.")
        ] = None,
        model: str | None = None,
        client: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> schemas.Tasks:
        """Tasks, newest first, without their contents."""
        found = service.tasks(state=state, model=model, client=client, limit=limit)
        return schemas.Tasks.model_validate({"tasks": [views.task_summary(view) for view in found]})

    @routes.get(
        "/api/tasks/{task_id}",
        response_model=schemas.TaskDetail,
        responses={
            200: {"content": {"application/cbor": _CBOR_BYTES}},
            **described(404),
        },
    )
    async def show_task(
        request: Request,
        task_id: str,
        wait_s: Annotated[
            float, Query(ge=0, le=600, description="Wait so long for the end, if it is open.")
        ] = 0.0,
    ) -> Response:
        """One task with its outputs, its error and its history.

        With `Accept: application/cbor`, the output tensors of a task that is done.
        """
        view = find(task_id)
        if view.ended_at_unix_ms is None and wait_s:
            await service.wait([view.task_id], wait_s)
            view = find(task_id)
        tiny = None
        with contextlib.suppress(ModelsError, OSError):  # its model may be gone: show integers
            tiny = context.tiny(service.catalogue.get(view.model, view.version))
        return await task_answers.detail(view, request, service.artefacts, tiny)

    @routes.post("/api/tasks/{task_id}/cancel", responses=described(404))
    async def cancel_task(task_id: str) -> schemas.Cancelled:
        """Cancel a task. One that has ended stays as it is."""
        view = find(task_id)
        cancelled = service.cancel([view.task_id]) > 0
        return schemas.Cancelled.model_validate(
            {"task_id": task_id, "cancelled": cancelled, "state": find(task_id).state}
        )

    return routes
