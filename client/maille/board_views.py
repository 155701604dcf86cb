"""What the mesh says about its boards and what runs on their sensors, as the program sees it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, cast

from maille.json_fields import Json, integer, mappings, text


@dataclass(frozen=True, slots=True)
class BoardModel:
    """A model that is on a board, comes, goes, or could not come."""

    model: str
    version: int
    state: str
    """waiting, sending, ready, failed or evicting."""
    wanted_by: str
    """person, sense, task, or "" where it was there without being asked for."""
    size_bytes: int
    received_bytes: int
    run_s: float
    """One run on the board, as its self-test measured it; 0: not known."""
    took_s: float
    """From the first order to ready; 0 before."""
    code: str
    text: str
    """Why it failed."""

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """One element of a board's models."""
        return cls(
            model=text(data, "model"),
            version=integer(data, "version"),
            state=text(data, "state"),
            wanted_by=text(data, "wanted_by"),
            size_bytes=integer(data, "size_bytes"),
            received_bytes=integer(data, "received_bytes"),
            run_s=integer(data, "run_us") / 1e6,
            took_s=integer(data, "took_ms") / 1e3,
            code=text(data, "code"),
            text=text(data, "text"),
        )


@dataclass(frozen=True, slots=True)
class Board:
    """A node that holds only the models that are delivered to it."""

    name: str
    reachable: bool
    models: tuple[BoardModel, ...]
    sensors: tuple[str, ...]
    kernels: dict[str, int]
    """Operations per second of each kind of inner loop, as the board measured them."""
    max_models: int
    max_model_bytes: int
    arena_bytes: int
    free_memory_bytes: int
    resets: int
    reset_cause: str
    faults: int
    calibrating: bool
    calibrated: int

    def model(self, name: str) -> BoardModel | None:
        """The newest version of a model that is wanted or held there."""
        found = [model for model in self.models if model.model == name]
        return max(found, key=lambda model: model.version) if found else None

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """One element of the HTTP API's list of boards."""
        return cls(
            name=text(data, "node"),
            reachable=bool(data.get("reachable")),
            models=tuple(BoardModel.from_json(found) for found in mappings(data, "models")),
            sensors=tuple(text(found, "name") for found in mappings(data, "sensors")),
            kernels={
                text(found, "kernel"): integer(found, "operations_per_s")
                for found in mappings(data, "kernels")
            },
            max_models=integer(data, "max_models"),
            max_model_bytes=integer(data, "max_model_bytes"),
            arena_bytes=integer(data, "arena_bytes"),
            free_memory_bytes=integer(data, "free_memory_bytes"),
            resets=integer(data, "resets"),
            reset_cause=text(data, "reset_cause"),
            faults=integer(data, "faults"),
            calibrating=bool(data.get("calibrating")),
            calibrated=integer(data, "calibrated"),
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model made of one reading of a sensor."""

    sense: int
    counter: int
    at_unix_ms: int
    outputs: dict[str, object] | None
    """By name: real numbers or labels as nested lists; None with a code."""
    run_s: float
    code: str = "none"
    text: str = ""

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """One element of a sense's readings."""
        outputs = data.get("outputs")
        return cls(
            sense=integer(data, "sense"),
            counter=integer(data, "counter"),
            at_unix_ms=integer(data, "at_unix_ms"),
            outputs=dict(cast("Json", outputs)) if isinstance(outputs, Mapping) else None,
            run_s=integer(data, "run_us") / 1e6,
            code=text(data, "code"),
            text=text(data, "text"),
        )


@dataclass(frozen=True, slots=True)
class Sense:
    """A model on a board's sensor."""

    id: int
    node: str
    model: str
    version: int
    sensor: str
    every_s: float
    changes: bool
    """Whether only outputs that differ from the last are published."""
    state: str
    """waiting, starting, running or failed."""
    code: str
    text: str
    readings: int
    latest: Reading | None

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """One element of the HTTP API's list of senses."""
        latest = data.get("latest")
        return cls(
            id=integer(data, "sense"),
            node=text(data, "node"),
            model=text(data, "model"),
            version=integer(data, "version"),
            sensor=text(data, "sensor"),
            every_s=integer(data, "interval_ms") / 1e3,
            changes=bool(data.get("changes")),
            state=text(data, "state"),
            code=text(data, "code"),
            text=text(data, "text"),
            readings=integer(data, "readings"),
            latest=Reading.from_json(cast("Json", latest)) if isinstance(latest, Mapping) else None,
        )
