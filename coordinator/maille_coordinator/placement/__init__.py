"""Where a model's layers go: measured nodes and links in, a plan with predictions out.

    plan = place(shape, offers, links, Wish(context_tokens=2048), with_explanation=True)
    lines = render(plan)
    plan = replan(plan, "node-b", offers, disk={"node-c": {(0, 9)}})

No I/O, no clock. How times add up and what the two objectives mean: `values.Objective`.
"""

from maille_coordinator.placement.errors import (
    PlacementError,
    PlacementImpossible,
    PlacementInputError,
)
from maille_coordinator.placement.explain import render
from maille_coordinator.placement.planner import keep, place
from maille_coordinator.placement.replan import replan
from maille_coordinator.placement.values import (
    STAGE_OVERHEAD_BYTES,
    Links,
    ModelShape,
    NodeOffer,
    Objective,
    Plan,
    Prediction,
    Replica,
    Stage,
    Wish,
)

__all__ = [
    "STAGE_OVERHEAD_BYTES",
    "Links",
    "ModelShape",
    "NodeOffer",
    "Objective",
    "PlacementError",
    "PlacementImpossible",
    "PlacementInputError",
    "Plan",
    "Prediction",
    "Replica",
    "Stage",
    "Wish",
    "keep",
    "place",
    "render",
    "replan",
]
