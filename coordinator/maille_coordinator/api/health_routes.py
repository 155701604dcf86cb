"""/healthz: for supervisors and for people in a hurry."""

from fastapi import APIRouter, Response

from maille_coordinator.api import schemas
from maille_coordinator.api.context import Context


def router(context: Context) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["mesh"])

    @routes.head("/healthz", include_in_schema=False)
    @routes.get(
        "/healthz",
        responses={503: {"model": schemas.Health, "description": "The broker is not connected."}},
    )
    async def health(response: Response) -> schemas.Health:
        """200 while the coordinator is connected to its broker, 503 while it is not. No key."""
        described = context.service.describe()
        if not described.broker_connected:
            response.status_code = 503
        return schemas.Health(
            status="ok" if described.broker_connected else "broker_down",
            epoch=described.epoch,
            broker_connected=described.broker_connected,
        )

    return routes
