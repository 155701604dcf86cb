"""/api/boards and /api/senses: models on microcontrollers and on their sensors."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query

from maille_coordinator.api import board_schemas as schemas
from maille_coordinator.api.errors import described
from maille_coordinator.boards.service import BoardApi, BoardView, SenseView
from maille_coordinator.models import Catalogue
from maille_protocol import SenseMode

Version = Annotated[int, Query(ge=0, description="0: the newest.")]


def router(boards: BoardApi, catalogue: Catalogue) -> APIRouter:
    """The routes, over the coordinator's boards."""
    routes = APIRouter(tags=["boards"], responses=described())

    @routes.get("/api/boards")
    async def list_boards() -> schemas.Boards:
        """Every board: what it holds, what it measured, what it can take."""
        return schemas.Boards(boards=[_board(view) for view in boards.boards()])

    @routes.get("/api/boards/{node}", responses=described(404, 409))
    async def show_board(node: str) -> schemas.Board:
        """One board."""
        return _board(boards.board(node))

    @routes.post("/api/boards/{node}/models", status_code=202, responses=described(404, 409))
    async def deploy(node: str, wanted: schemas.DeployRequest) -> schemas.BoardModel:
        """Put a model on a board, and keep it there.

        The board fetches it piece by piece, verifies and tests it, and only then uses it. Ask
        GET /api/boards/{node} how far it is. What failed before is tried again.
        """
        record = catalogue.require(wanted.model, wanted.version)
        view = asdict(boards.deploy(node, record))
        return schemas.BoardModel.model_validate(view)

    @routes.delete("/api/boards/{node}/models/{name}", responses=described(404, 409))
    async def evict(node: str, name: str, version: Version = 0) -> schemas.Board:
        """Take a model off a board. One that a sense runs must be stopped there first (409)."""
        return _board(boards.evict(node, name, catalogue.get(name, version)))

    @routes.post("/api/boards/{node}/calibrate", status_code=202, responses=described(404, 409))
    async def calibrate(node: str) -> schemas.Board:
        """Have a board measure its kernels again; `calibrated` counts up when it has."""
        return _board(boards.calibrate(node))

    @routes.get("/api/senses")
    async def list_senses() -> schemas.Senses:
        """Every sense, each with its newest reading."""
        return schemas.Senses(senses=[_sense(view) for view in boards.senses()])

    @routes.post("/api/senses", status_code=201, responses=described(404, 409))
    async def start_sense(wanted: schemas.SenseRequest) -> schemas.Sense:
        """Run a model on a board's sensor from now on, also after restarts.

        The model is brought to the board if need be. Readings come as `sense.reading` in
        /api/events. A sense of the same node, model and sensor is replaced.
        """
        record = catalogue.require(wanted.model, wanted.version)
        mode = SenseMode.CHANGES if wanted.changes else SenseMode.ALWAYS
        return _sense(boards.sense(wanted.node, record, wanted.sensor, wanted.interval_ms, mode))

    @routes.get("/api/senses/{sense}", responses=described(404))
    async def show_sense(sense: int) -> schemas.Sense:
        """One sense with its newest reading."""
        return _sense(boards.show_sense(sense))

    @routes.delete("/api/senses/{sense}", responses=described(404))
    async def stop_sense(sense: int) -> schemas.Sense:
        """End a sense; returns how it was."""
        return _sense(boards.stop_sense(sense))

    @routes.get("/api/senses/{sense}/readings", responses=described(404))
    async def readings(
        sense: int, limit: Annotated[int, Query(ge=1, le=200)] = 20
    ) -> schemas.Readings:
        """The last readings of a sense, newest first."""
        found = [asdict(view) for view in boards.readings(sense, limit)]
        return schemas.Readings.model_validate({"readings": found})

    return routes


def _board(view: BoardView) -> schemas.Board:
    state = view.state
    return schemas.Board.model_validate(
        {
            "node": view.node,
            "reachable": view.reachable,
            "said": state is not None,
            "models": [asdict(model) for model in view.models],
            "sensors": [asdict(sensor) for sensor in state.sensors] if state else [],
            "kernels": [
                {"kernel": found.kernel.name.lower(), "operations_per_s": found.operations_per_s}
                for found in (state.kernels if state else ())
            ],
            "format_version": state.format_version if state else 0,
            "max_models": state.max_models if state else 0,
            "max_model_bytes": state.max_model_bytes if state else 0,
            "arena_bytes": state.arena_bytes if state else 0,
            "free_memory_bytes": state.free_memory_bytes if state else 0,
            "resets": state.resets if state else 0,
            "reset_cause": state.reset_cause.name.lower() if state else "unknown",
            "faults": state.faults if state else 0,
            "calibrating": view.calibrating,
            "calibrated": view.calibrated,
        }
    )


def _sense(view: SenseView) -> schemas.Sense:
    fields = asdict(view)
    fields["changes"] = fields.pop("mode") is SenseMode.CHANGES
    return schemas.Sense.model_validate(fields)
