"""Models and plans as people see them."""

from maille_coordinator.language.model_files import LoadedModel
from maille_coordinator.language.service import LanguageModelView, PlanView, StagePlace
from maille_coordinator.language.state import Model, Pipeline
from maille_coordinator.placement import Plan, render
from maille_coordinator.records import ModelRecord


def unread_view(record: ModelRecord, broken: str | None) -> LanguageModelView:
    """A model whose file is being read, or cannot be."""
    return LanguageModelView(
        record.name,
        record.version,
        record.added_at_unix_ms,
        architecture="",
        quantisation="",
        parameters=0,
        size_bytes=record.size_bytes,
        layer_count=0,
        context_length=0,
        state="waiting" if broken is None else "broken",
        state_text="its file is being read" if broken is None else broken,
    )


def model_view(loaded: LoadedModel, model: Model) -> LanguageModelView:
    """A model and what is arranged for it."""
    pipeline = model.pipeline
    running = 0 if pipeline is None else sum(not s.check for s in pipeline.sessions.values())
    return LanguageModelView(
        *model.key,
        loaded.record.added_at_unix_ms,
        architecture=loaded.model.architecture,
        quantisation=loaded.quantisation,
        parameters=loaded.parameters,
        size_bytes=loaded.record.size_bytes,
        layer_count=loaded.model.layer_count,
        context_length=loaded.model.context_length,
        state=model.state.value,
        state_text=model.text,
        stages=() if pipeline is None else _places(model, pipeline),
        predicted_tokens_per_s=(0.0 if pipeline is None else pipeline.plan.prediction.tokens_per_s),
        measured_tokens_per_s=model.measured_tokens_per_s,
        active_sessions=running,
        queued_sessions=len(model.queue),
        has_chat_template=loaded.template is not None,
    )


def plan_view(model: Model, plan: Plan, *, current: bool) -> PlanView:
    """A plan with the lines that explain it."""
    pipeline = model.pipeline
    if current and pipeline is not None:
        stages = _places(model, pipeline)
    else:
        stages = tuple(
            StagePlace(
                stage.node,
                stage.first_layer,
                stage.last_layer,
                tuple(copy.node for copy in plan.replicas if copy.stage == place),
                stage.weight_bytes,
                "planned",
            )
            for place, stage in enumerate(plan.stages)
        )
    return PlanView(
        *model.key,
        possible=True,
        current=current,
        stages=stages,
        predicted_tokens_per_s=plan.prediction.tokens_per_s,
        lines=tuple(render(plan)),
    )


def _places(model: Model, pipeline: Pipeline) -> tuple[StagePlace, ...]:
    return tuple(
        StagePlace(
            slot.primary,
            slot.first,
            slot.last,
            tuple(slot.shadows),
            model.shape.weight_bytes(slot.first, slot.last),
            "ready" if slot.ready(slot.primary) else "loading",
        )
        for slot in pipeline.slots
    )
