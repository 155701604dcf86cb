"""/api/nodes: the devices."""

from fastapi import APIRouter

from maille_coordinator.api import schemas, views
from maille_coordinator.api.context import Context
from maille_coordinator.api.errors import ApiError, described


def router(context: Context) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["nodes"], responses=described())
    service = context.service

    def find(node: str) -> schemas.Node:
        known = service.nodes()
        for view in known:
            if view.node == node:
                return views.mesh_node(view)
        there = ", ".join(view.node for view in known[:8]) or "none yet"
        raise ApiError(404, "unknown_node", f"no node is called {node[:80]!r}; there are: {there}")

    @routes.get("/api/nodes")
    async def list_nodes() -> schemas.Nodes:
        """Every node that the coordinator knows, by id."""
        return schemas.Nodes(nodes=[views.mesh_node(view) for view in service.nodes()])

    @routes.get("/api/nodes/{node}", responses=described(404))
    async def show_node(node: str) -> schemas.Node:
        """One node."""
        return find(node)

    @routes.post("/api/nodes/{node}/drain", responses=described(404, 409))
    async def drain_node(node: str) -> schemas.Node:
        """Let a node finish what it holds and give it nothing new."""
        service.drain(node)
        return find(node)

    @routes.post("/api/nodes/{node}/resume", responses=described(404, 409))
    async def resume_node(node: str) -> schemas.Node:
        """Take a drained node back."""
        service.resume(node)
        return find(node)

    @routes.delete("/api/nodes/{node}", status_code=204, responses=described(404, 409))
    async def forget_node(node: str) -> None:
        """Forget a node that is gone. One that is alive must be stopped first (409)."""
        service.forget(node)

    return routes
