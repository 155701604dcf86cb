"""/api/language: where the layers of language models are, and why they are there."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from maille_coordinator.api.errors import described
from maille_coordinator.language import LanguageApi, LanguageModelView, PlanView
from maille_coordinator.service import ServiceError


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class LanguageStage(_Answer):
    """Where a run of layers is."""

    node: str
    first_layer: int
    last_layer: int
    shadows: list[str] = Field(description="Nodes that hold the same layers, to take over at once.")
    weight_bytes: int
    state: str = Field(description="`loading`, `ready` or `lost`.")


class LanguageModel(_Answer):
    """A language model, and the nodes that hold it together."""

    name: str
    version: int
    added_at_unix_ms: int
    architecture: str
    quantisation: str
    parameters: int
    size_bytes: int
    layer_count: int
    context_length: int
    state: str = Field(
        description="`waiting` (no node yet), `measuring`, `loading`, `checking`, `ready`, "
        "`recovering`, `impossible` or `broken`."
    )
    state_text: str = Field(description="Why it is not ready, and what to do.")
    stages: list[LanguageStage]
    predicted_tokens_per_s: float
    measured_tokens_per_s: float = Field(description="Of the last session; 0 before one.")
    active_sessions: int
    queued_sessions: int
    has_chat_template: bool


class LanguageModels(_Answer):
    """All language models, by name and version."""

    models: list[LanguageModel]


class LanguagePlan(_Answer):
    """How a model is, or would be, cut."""

    model: str
    version: int
    possible: bool
    current: bool = Field(description="Whether this is what runs.")
    stages: list[LanguageStage]
    predicted_tokens_per_s: float
    lines: list[str] = Field(description="For a person: the choice, and why others were left out.")


def router(language: LanguageApi) -> APIRouter:
    """The routes, over the coordinator's language models."""
    routes = APIRouter(tags=["language models"], responses=described())

    @routes.get("/api/language/models")
    async def list_models() -> LanguageModels:
        """Every language model, with its state and the places of its layers."""
        return LanguageModels(models=[_model(view) for view in language.models()])

    @routes.get("/api/language/models/{name}", responses=described(404))
    async def show_model(
        name: str, version: Annotated[int, Query(ge=0, description="0: the newest.")] = 0
    ) -> LanguageModel:
        """One language model, with its state and the places of its layers."""
        found = [
            view for view in language.models() if view.name == name and version in {0, view.version}
        ]
        if not found:
            raise ServiceError(
                404,
                "unknown_model",
                f"no language model is called {name[:80]!r}"
                + (f" in version {version}" if version else "")
                + ": GET /api/language/models lists them, `maille models add FILE.gguf` adds one",
            )
        return _model(max(found, key=lambda view: view.version))

    @routes.get("/api/language/models/{name}/plan", responses=described(404))
    async def plan(
        name: str,
        explain: Annotated[bool, Query(description="With the cost of each node left out.")] = True,
    ) -> LanguagePlan:
        """How the model is cut over the nodes, or would be now. `name:2` names a version."""
        return _plan(await language.plan(name, explain=explain))

    return routes


def _model(view: LanguageModelView) -> LanguageModel:
    return LanguageModel.model_validate(asdict(view))


def _plan(view: PlanView) -> LanguagePlan:
    return LanguagePlan.model_validate(asdict(view))
