"""The JSON of the API. These descriptions are the documentation page that users read."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

TaskStateName = Literal[
    "queued", "offered", "running", "done", "failed", "cancelled", "expired", "dead"
]
"""Values of `maille_protocol.TaskState`."""

Sha256 = Annotated[
    str,
    Field(
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of the bytes, in lower-case hexadecimal.",
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    ),
]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class ErrorBody(_Answer):
    """What is wrong and what to do about it."""

    code: str = Field(
        description="A stable word for programs, such as `unknown_model` or `input_shape`."
    )
    message: str = Field(description="For people: names the cause and the next step.")


class ErrorAnswer(_Answer):
    """Every error of this API has this form."""

    error: ErrorBody


class Health(_Answer):
    """Whether the coordinator works."""

    status: Literal["ok", "broker_down"]
    epoch: int
    broker_connected: bool


class Mesh(_Answer):
    """Where the parts of this mesh are."""

    mesh: str = Field(description="The mesh's name; it stands in every MQTT topic.")
    coordinator: str
    epoch: int = Field(description="Grows with every start of the coordinator.")
    version: str = Field(description="The program's version.")
    broker_url: str = Field(description="The MQTT broker, as nodes and clients reach it.")
    websocket_url: str | None = Field(description="The same broker for browsers.")
    broker_connected: bool
    max_input_bytes: int = Field(description="The largest request with inputs that is taken.")
    max_artefact_bytes: int = Field(description="The largest model or other artefact.")


class MeasuredAnswer(_Answer):
    """What a node measured about itself when it started; 0 where it did not."""

    cores: int
    memory_bytes: int
    multiply_accumulates_per_s: int
    memory_bytes_per_s: int
    disk_free_bytes: int
    accelerators: list[str]


class NodeInfoAnswer(_Answer):
    """What a node can do."""

    kind: Literal["pc", "micropython", "arduino", "browser", "simulated", "gateway"]
    name: str = Field(description="The name that a person gave the device.")
    software: str
    slots: int = Field(description="Tasks that it runs at the same time.")
    formats: list[str] = Field(description="Forms of models that it runs.")
    max_message_bytes: int
    measured: MeasuredAnswer
    gateway: str | None = Field(description="The node that speaks for it, if it has no network.")


class Node(_Answer):
    """A device in the mesh, as the coordinator sees it."""

    node: str = Field(description="The node's id.")
    state: Literal["init", "ready", "draining", "sleeping", "disconnected", "lost"]
    info: NodeInfoAnswer | None
    last_heard_ms_ago: int
    running: int
    queued: int
    outstanding: int = Field(description="Attempts that the coordinator counts as being there.")
    latency_us: int = Field(description="Median time of its recent runs.")
    done: int
    failed: int
    battery_percent: int | None
    warm_models: list[str] = Field(description="Models in its memory.")
    reason: str = Field(description="Why it is in this state, if it said so.")


class Nodes(_Answer):
    """All nodes, by id."""

    nodes: list[Node]


class Tensor(_Answer):
    """One input or output of a model."""

    name: str
    dtype: str = Field(description="A NumPy type name; `str` for text.", examples=["float32"])
    shape: list[int | str | None] = Field(
        description="Sizes; a name or null where the model takes any size.",
        examples=[["N", 64]],
    )


class Model(_Answer):
    """One version of a model."""

    name: str
    version: int
    sha256: Sha256
    size_bytes: int
    format: Literal["onnx", "tiny", "gguf"]
    inputs: list[Tensor]
    outputs: list[Tensor]
    batchable: bool = Field(description="Whether tasks may be run together in one batch.")
    added_at_unix_ms: int
    description: str


class Models(_Answer):
    """Every version of every model, by name and version."""

    models: list[Model]


class ModelRequest(BaseModel):
    """Makes an artefact, which must have been uploaded, a model."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="1 to 64 of a-z, 0-9 and inner `.` `_` `-`.", examples=["digits"])
    sha256: Sha256
    format: Literal["onnx", "gguf", "tiny"] | None = Field(
        None, description="The form of the file; its first bytes say so anyway."
    )
    description: str = Field("", max_length=2000)


class Removed(_Answer):
    """What was removed."""

    name: str
    versions: list[int]


class Artefact(_Answer):
    """Stored bytes."""

    sha256: Sha256
    size_bytes: int = Field(description="Bytes stored so far.")
    complete: bool = Field(description="False: go on with the upload at `size_bytes`.")


class TaskRequest(BaseModel):
    """One task, or several of the same model."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="The model's name.", examples=["digits"])
    inputs: dict[str, JsonValue] | list[dict[str, JsonValue]] = Field(
        description="Inputs by name, as nested lists of numbers, booleans or text in the model's "
        "shape; null stands for a floating-point number that is none (NaN). "
        "A list of such objects makes one task of each.",
        examples=[{"X": [[0.0, 1.0, 2.0, 3.0]]}],
    )
    version: int = Field(0, ge=0, le=0xFFFFFFFF, description="0: the newest.")
    priority: int = Field(5, ge=0, le=9, description="9 goes first.")
    deadline_ms: int = Field(
        0,
        ge=0,
        le=0xFFFFFFFF,
        description="Milliseconds after which the task ends as `expired`; 0: the coordinator's "
        "default.",
    )
    max_attempts: int = Field(0, ge=0, le=100, description="0: the coordinator's default.")
    at_most_once: bool = Field(
        False, description="Never run it a second time, even if nobody knows whether it ran."
    )
    target: str | None = Field(
        None,
        pattern="^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$",
        description="Run it on this node only.",
    )
    wait_s: float = Field(
        60.0,
        ge=0,
        le=600,
        description="How long to wait for the end. Tasks that are still open then go on; ask for "
        "them later by their ids.",
    )


class TaskError(_Answer):
    """Why a task did not end as done."""

    code: str
    message: str


class Attempt(_Answer):
    """One earlier try of a task."""

    attempt: int
    node: str
    code: str
    reason: str
    started_at_unix_ms: int
    ended_at_unix_ms: int


class TaskSummary(_Answer):
    """A task in a list."""

    task_id: str = Field(description="32 hexadecimal digits.")
    client: str
    model: str
    version: int
    state: TaskStateName
    priority: int
    accepted_at_unix_ms: int
    ended_at_unix_ms: int | None
    node: str = Field(description="The node that has it or answered it; empty if none.")
    attempts: int
    code: str = Field(description="`none`, or why it failed.")
    run_us: int = Field(description="Time in the model.")
    total_us: int = Field(description="Time from acceptance to the result.")


class Tasks(_Answer):
    """Tasks, newest first."""

    tasks: list[TaskSummary]


class TaskAnswer(_Answer):
    """What became of a task so far."""

    task_id: str
    model: str
    version: int
    state: TaskStateName
    outputs: dict[str, JsonValue] | None = Field(
        description="Outputs by name as nested lists, once `state` is `done`; numbers that JSON "
        "does not know (NaN, infinities) are null."
    )
    error: TaskError | None = Field(description="Why it did not end as done.")
    node: str
    attempts: int
    run_us: int
    total_us: int


class TaskDetail(TaskSummary):
    """One task with all that is known about it."""

    outputs: dict[str, JsonValue] | None
    error: TaskError | None
    history: list[Attempt]


class TaskAnswers(_Answer):
    """The tasks of one request, in its order."""

    tasks: list[TaskAnswer]


class Cancelled(_Answer):
    """Whether the task was still open."""

    task_id: str
    cancelled: bool
    state: TaskStateName


class Event(_Answer):
    """One line of the event stream."""

    kind: str = Field(examples=["node.ready"])
    at_unix_ms: int
    subject: str = Field(description="A node's id, a task's id or a model's name.")
    text: str
    details: dict[str, int | str]
