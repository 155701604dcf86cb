"""What the mesh says about its models, nodes and tasks, as the program sees it."""

from dataclasses import dataclass
from typing import Self

from maille.json_fields import Json, integer, items, mapping, mappings, text, texts
from maille_protocol.signature import TensorSpec
from maille_protocol.tensors import Array


@dataclass(frozen=True, slots=True)
class Answer:
    """What one task gave.

    `run_s` is the time in the model on the node, `total_s` from acceptance to result by the
    coordinator's clock, `latency_s` from sending to arrival by this program's. `index` is the
    position of the inputs in a `map`.
    """

    outputs: dict[str, Array]
    node: str
    attempts: int
    run_s: float
    total_s: float
    latency_s: float = 0.0
    task_id: str = ""
    index: int = 0


@dataclass(frozen=True, slots=True)
class Model:
    """One version of a model that the mesh can run."""

    name: str
    version: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    format: str
    size_bytes: int
    sha256: str
    batchable: bool = False
    description: str = ""
    added_at_unix_ms: int = 0

    def __str__(self) -> str:
        """The signature as a person would write it."""
        inputs = ", ".join(str(spec) for spec in self.inputs)
        outputs = ", ".join(str(spec) for spec in self.outputs)
        return f"{self.name} version {self.version}: ({inputs}) -> ({outputs})"

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """One element of the HTTP API's list of models."""
        return cls(
            name=text(data, "name"),
            version=integer(data, "version"),
            inputs=_specs(data, "inputs"),
            outputs=_specs(data, "outputs"),
            format=text(data, "format"),
            size_bytes=integer(data, "size_bytes"),
            sha256=text(data, "sha256"),
            batchable=bool(data.get("batchable", False)),
            description=text(data, "description"),
            added_at_unix_ms=integer(data, "added_at_unix_ms"),
        )


@dataclass(frozen=True, slots=True)
class Node:
    """A device in the mesh, as its coordinator sees it."""

    name: str
    state: str
    kind: str
    title: str
    """The name that a person gave it."""
    slots: int
    running: int
    queued: int
    outstanding: int
    latency_s: float
    """Median time of its recent runs."""
    last_heard_s: float
    multiply_accumulates_per_s: int = 0
    memory_bytes: int = 0
    cores: int = 0
    accelerators: tuple[str, ...] = ()
    battery_percent: int | None = None
    gateway: str | None = None
    done: int = 0
    failed: int = 0
    reason: str = ""
    warm_models: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """One element of the HTTP API's list of nodes."""
        info = mapping(data, "info")
        measured = mapping(info, "measured")
        battery = data.get("battery_percent")
        gateway = info.get("gateway")
        return cls(
            name=text(data, "node"),
            state=text(data, "state"),
            kind=text(info, "kind"),
            title=text(info, "name"),
            slots=integer(info, "slots"),
            running=integer(data, "running"),
            queued=integer(data, "queued"),
            outstanding=integer(data, "outstanding"),
            latency_s=integer(data, "latency_us") / 1e6,
            last_heard_s=integer(data, "last_heard_ms_ago") / 1e3,
            multiply_accumulates_per_s=integer(measured, "multiply_accumulates_per_s"),
            memory_bytes=integer(measured, "memory_bytes"),
            cores=integer(measured, "cores"),
            accelerators=texts(measured, "accelerators"),
            battery_percent=battery if isinstance(battery, int) else None,
            gateway=gateway if isinstance(gateway, str) else None,
            done=integer(data, "done"),
            failed=integer(data, "failed"),
            reason=text(data, "reason"),
            warm_models=texts(data, "warm_models"),
        )


@dataclass(frozen=True, slots=True)
class MeshDescription:
    """Where the parts of a mesh are, and its limits."""

    mesh: str
    coordinator: str
    epoch: int
    version: str
    broker_url: str
    websocket_url: str | None
    broker_connected: bool
    max_input_bytes: int

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The answer of `/api/mesh`."""
        websocket = data.get("websocket_url")
        return cls(
            mesh=text(data, "mesh"),
            coordinator=text(data, "coordinator"),
            epoch=integer(data, "epoch"),
            version=text(data, "version"),
            broker_url=text(data, "broker_url"),
            websocket_url=websocket if isinstance(websocket, str) else None,
            broker_connected=bool(data.get("broker_connected", True)),
            max_input_bytes=integer(data, "max_input_bytes") or DEFAULT_MAX_INPUT_BYTES,
        )


DEFAULT_MAX_INPUT_BYTES = 64 * 1024 * 1024
"""What a coordinator takes unless it says otherwise."""


def _specs(data: Json, key: str) -> tuple[TensorSpec, ...]:
    specs: list[TensorSpec] = []
    for spec in mappings(data, key):
        shape = tuple(
            size if isinstance(size, int | str) else None for size in items(spec, "shape")
        )
        specs.append(TensorSpec(text(spec, "name"), text(spec, "dtype"), shape))
    return tuple(specs)
