"""/api/mesh: where the parts of the mesh are."""

from fastapi import APIRouter

from maille_coordinator.api import schemas
from maille_coordinator.api.context import Context
from maille_coordinator.api.errors import described


def router(context: Context) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["mesh"], responses=described())

    @routes.get("/api/mesh")
    async def mesh() -> schemas.Mesh:
        """Where the broker is, which version runs, and the limits."""
        found = context.service.describe()
        return schemas.Mesh(
            mesh=found.mesh,
            coordinator=found.coordinator,
            epoch=found.epoch,
            version=found.version,
            broker_url=found.broker_url,
            websocket_url=found.websocket_url,
            broker_connected=found.broker_connected,
            max_input_bytes=context.max_task_body_bytes,
            max_artefact_bytes=context.service.artefacts.max_artefact_bytes,
        )

    return routes
