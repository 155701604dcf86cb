"""The JSON of boards and senses. These descriptions are the documentation page that users read."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class BoardSensor(_Answer):
    """A sensor that a board can feed a model from."""

    name: str
    values: int = Field(
        description="Numbers in one reading; 0: as many as the model wants, sample after sample."
    )


class BoardKernel(_Answer):
    """What a board measured of one kind of inner loop."""

    kernel: Literal["dense", "convolution", "depthwise", "forest"]
    operations_per_s: int = Field(description="Multiply-accumulates; comparisons for forests.")


class BoardModel(_Answer):
    """A model that is on a board, comes, goes, or could not come."""

    model: str
    version: int = Field(description="0 where the board holds it without having been asked.")
    sha256: str
    size_bytes: int
    state: Literal["waiting", "sending", "ready", "failed", "evicting"]
    wanted_by: str = Field(
        description="`person` (it is brought back if the board loses it), `sense` or `task`."
    )
    received_bytes: int
    attempts: int = Field(description="Tries that failed in a way that may pass.")
    took_ms: int = Field(description="From the first order to ready; 0 before.")
    run_us: int = Field(description="One run on the board, measured in its self-test; 0: unknown.")
    code: str = Field(description="`none`, or why it failed.")
    text: str


class Board(_Answer):
    """A node that holds only the models that are delivered to it."""

    node: str
    reachable: bool
    said: bool = Field(description="False: it has not said anything of itself yet.")
    models: list[BoardModel]
    sensors: list[BoardSensor]
    kernels: list[BoardKernel]
    format_version: int = Field(description="The newest version of the tiny format that it runs.")
    max_models: int = Field(description="Models that it holds at a time.")
    max_model_bytes: int
    arena_bytes: int = Field(description="The most memory a model may need while it runs.")
    free_memory_bytes: int
    resets: int
    reset_cause: str
    faults: int = Field(description="Messages that it refused or dropped.")
    calibrating: bool
    calibrated: int = Field(
        description="Times that it measured itself when asked, since the coordinator started."
    )


class Boards(_Answer):
    """All boards, by id."""

    boards: list[Board]


class DeployRequest(BaseModel):
    """Puts a model on a board."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(examples=["digits-tiny"])
    version: int = Field(0, ge=0, le=0xFFFFFFFF, description="0: the newest.")


class SenseRequest(BaseModel):
    """Runs a model on a board's sensor, again and again."""

    model_config = ConfigDict(extra="forbid")

    node: str = Field(examples=["pico-1"])
    model: str = Field(examples=["vibration-tiny"])
    version: int = Field(0, ge=0, le=0xFFFFFFFF, description="0: the newest.")
    sensor: str = Field(min_length=1, max_length=32, examples=["adc0"])
    interval_ms: int = Field(
        1000, ge=0, le=0xFFFFFFFF, description="From one run to the next; 0: as fast as it can."
    )
    changes: bool = Field(False, description="Publish only outputs that differ from the last.")


class Reading(_Answer):
    """What a model made of one reading of a sensor."""

    sense: int
    counter: int = Field(description="Runs since the sense was started on this boot of the board.")
    at_unix_ms: int
    code: str = Field(description="`none`, or why there are no outputs.")
    text: str
    outputs: dict[str, JsonValue] | None = Field(
        description="By name: real numbers, or labels, as the original model gives them."
    )
    run_us: int


class Sense(_Answer):
    """A model on a sensor."""

    sense: int
    node: str
    model: str
    version: int
    sensor: str
    interval_ms: int
    changes: bool
    asked_at_unix_ms: int
    state: Literal["waiting", "starting", "running", "failed"]
    code: str
    text: str
    readings: int = Field(description="Taken since the coordinator started.")
    latest: Reading | None


class Senses(_Answer):
    """All senses, by number."""

    senses: list[Sense]


class Readings(_Answer):
    """Readings of one sense, newest first."""

    readings: list[Reading]
