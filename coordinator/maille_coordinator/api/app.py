"""Puts the API together: routes, errors, security and the documentation page."""

from collections.abc import Iterable

from fastapi import FastAPI

from maille_coordinator.api import (
    artefact_routes,
    board_routes,
    documentation,
    event_routes,
    health_routes,
    language_routes,
    mesh_routes,
    metrics,
    model_routes,
    node_routes,
    openai_routes,
    task_routes,
)
from maille_coordinator.api.context import MAX_TASK_BODY_BYTES, Context
from maille_coordinator.api.errors import add_handlers
from maille_coordinator.api.security import LOOPBACK_HOSTS, Security
from maille_coordinator.boards.service import BoardApi
from maille_coordinator.language import LanguageApi
from maille_coordinator.service import Service

_ROUTES = (
    health_routes,
    mesh_routes,
    node_routes,
    model_routes,
    artefact_routes,
    task_routes,
    event_routes,
    metrics,
)


def create_app(
    service: Service,
    *,
    key: str | None,
    hosts: Iterable[str] | None = None,
    max_task_body_bytes: int = MAX_TASK_BODY_BYTES,
    language: LanguageApi | None = None,
    boards: BoardApi | None = None,
) -> FastAPI:
    """The HTTP API of `service`, as an ASGI application without state of its own.

    Args:
        service: the running coordinator.
        key: asked of every caller but of /healthz; None asks nobody and is for loopback only.
        hosts: names under which the API may be asked, besides those of loopback. Without any,
            an API without a key answers to the names of loopback only, one with a key to all.
        max_task_body_bytes: largest body with the inputs of tasks.
        language: its language models; None leaves out /v1 and /api/language.
        boards: its boards; None leaves out /api/boards and /api/senses.
    """
    app = documentation.create_documented(key is not None)
    context = Context(service, max_task_body_bytes)
    for module in _ROUTES:
        app.include_router(module.router(context))
    if language is not None:
        app.include_router(openai_routes.router(language))
        app.include_router(language_routes.router(language))
    if boards is not None:
        app.include_router(board_routes.router(boards, service.catalogue))
    app.include_router(documentation.router())
    add_handlers(app)
    allowed = None if hosts is None and key is not None else (*LOOPBACK_HOSTS, *(hosts or ()))
    app.add_middleware(Security, key=key, hosts=allowed)
    return app
