"""The documentation page: OpenAPI shown by Swagger UI, from files of an installed package.

`fastapi-offline` carries the page's script and style, so the page works without the internet.
"""

from importlib.metadata import version
from importlib.resources import files

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic.json_schema import models_json_schema

from maille_coordinator.api import openai_schemas, schemas
from maille_coordinator.api.errors import ApiError

_DESCRIPTION = """
Runs models on the devices of a mesh.

1. `PUT /api/artefacts/{sha256}` uploads a model's file, `POST /api/models` makes it a model.
2. `POST /api/tasks` runs it and waits for the outputs.
3. `GET /api/nodes` and `GET /api/events` show what happens.
4. Language models speak OpenAI's API under `/v1`: point any of its clients at this address.

Every error has the form `{"error": {"code": ..., "message": ...}}`, under `/v1` with `type` and
`param` beside them; the message names the cause and the next step.
"""

_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
_PAGE_HEADERS = {
    # Nothing is fetched from elsewhere. Swagger UI needs inline style, its page an inline script.
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline'; img-src 'self' data:",
}


def create_documented(with_key: bool) -> FastAPI:
    """An application whose OpenAPI document says how to pass the key, if one is asked."""
    app = FastAPI(
        title="Maille",
        version=version("maille"),
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
    )

    def document() -> dict[str, object]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            components = made.setdefault("components", {})
            known = components.setdefault("schemas", {})
            for name, schema in _own_schemas().items():
                known.setdefault(name, schema)
            if with_key:
                components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
                made["security"] = [{"key": []}]
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign] # the way that FastAPI documents
    return app


def _own_schemas() -> dict[str, object]:
    """Schemas of what the routes read or write themselves, so that FastAPI does not see them."""
    _, definitions = models_json_schema(
        [
            (schemas.TaskRequest, "validation"),
            (schemas.ModelRequest, "validation"),
            (schemas.Event, "serialization"),
            (openai_schemas.ChatRequest, "validation"),
            (openai_schemas.CompletionRequest, "validation"),
        ],
        ref_template="#/components/schemas/{model}",
    )
    found: dict[str, object] = definitions.get("$defs", {})
    return found


def router() -> APIRouter:
    """/, /docs and its files."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def home() -> Response:
        return RedirectResponse("/docs")

    @routes.get("/docs")
    async def docs() -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="Maille",
            swagger_js_url="/docs/files/swagger-ui-bundle.js",
            swagger_css_url="/docs/files/swagger-ui.css",
            swagger_favicon_url="/docs/files/favicon.png",
        )
        page.headers.update(_PAGE_HEADERS)
        return page

    @routes.get("/docs/files/{name}")
    def asset(name: str) -> Response:
        media_type = _ASSETS.get(name)
        if media_type is None:
            raise ApiError(404, "not_found", "the documentation has no such file: see /docs")
        data = files("fastapi_offline").joinpath("static", name).read_bytes()
        return Response(data, media_type=media_type, headers={"Cache-Control": "max-age=86400"})

    return routes
