"""What the mesh says about its models, nodes and tasks, as the program sees it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, cast

from maille_protocol.signature import TensorSpec
from maille_protocol.tensors import Array

Json = Mapping[str, object]


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
            name=_text(data, "name"),
            version=_integer(data, "version"),
            inputs=_specs(data, "inputs"),
            outputs=_specs(data, "outputs"),
            format=_text(data, "format"),
            size_bytes=_integer(data, "size_bytes"),
            sha256=_text(data, "sha256"),
            batchable=bool(data.get("batchable", False)),
            description=_text(data, "description"),
            added_at_unix_ms=_integer(data, "added_at_unix_ms"),
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
        info = _object(data, "info")
        measured = _object(info, "measured")
        battery = data.get("battery_percent")
        gateway = info.get("gateway")
        return cls(
            name=_text(data, "node"),
            state=_text(data, "state"),
            kind=_text(info, "kind"),
            title=_text(info, "name"),
            slots=_integer(info, "slots"),
            running=_integer(data, "running"),
            queued=_integer(data, "queued"),
            outstanding=_integer(data, "outstanding"),
            latency_s=_integer(data, "latency_us") / 1e6,
            last_heard_s=_integer(data, "last_heard_ms_ago") / 1e3,
            multiply_accumulates_per_s=_integer(measured, "multiply_accumulates_per_s"),
            memory_bytes=_integer(measured, "memory_bytes"),
            cores=_integer(measured, "cores"),
            accelerators=tuple(str(item) for item in _list(measured, "accelerators")),
            battery_percent=battery if isinstance(battery, int) else None,
            gateway=gateway if isinstance(gateway, str) else None,
            done=_integer(data, "done"),
            failed=_integer(data, "failed"),
            reason=_text(data, "reason"),
            warm_models=tuple(str(item) for item in _list(data, "warm_models")),
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
            mesh=_text(data, "mesh"),
            coordinator=_text(data, "coordinator"),
            epoch=_integer(data, "epoch"),
            version=_text(data, "version"),
            broker_url=_text(data, "broker_url"),
            websocket_url=websocket if isinstance(websocket, str) else None,
            broker_connected=bool(data.get("broker_connected", True)),
            max_input_bytes=_integer(data, "max_input_bytes") or DEFAULT_MAX_INPUT_BYTES,
        )


DEFAULT_MAX_INPUT_BYTES = 64 * 1024 * 1024
"""What a coordinator takes unless it says otherwise."""


def _text(data: Json, key: str) -> str:
    value = data.get(key)
    return value if isinstance(value, str) else ""


def _integer(data: Json, key: str) -> int:
    value = data.get(key)
    return int(value) if isinstance(value, int | float) else 0


def _object(data: Json, key: str) -> Json:
    value = data.get(key)
    return cast("Json", value) if isinstance(value, Mapping) else {}


def _list(data: Json, key: str) -> Sequence[object]:
    value = data.get(key)
    return value if isinstance(value, list) else ()


def _specs(data: Json, key: str) -> tuple[TensorSpec, ...]:
    specs: list[TensorSpec] = []
    for item in _list(data, key):
        if isinstance(item, Mapping):
            spec = cast("Json", item)
            shape = tuple(
                size if isinstance(size, int | str) else None for size in _list(spec, "shape")
            )
            specs.append(TensorSpec(_text(spec, "name"), _text(spec, "dtype"), shape))
    return tuple(specs)
