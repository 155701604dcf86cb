"""Messages of nodes that hold only the models delivered to them, such as microcontrollers.

Such a node, on Wi-Fi or behind a gateway, pulls a model in chunks at its own pace, runs it on
inputs sent to it or on a sensor of its own, and says what it holds. What the messages mean
together: the section on boards of SPEC.md.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from maille_protocol import fields
from maille_protocol.cbor import Plain
from maille_protocol.codes import (
    ErrorCode,
    Kernel,
    MessageType,
    ModelCommand,
    ModelState,
    ResetCause,
    SenseCommand,
    SenseMode,
)
from maille_protocol.errors import WireError
from maille_protocol.limits import (
    MAX_ARTEFACT_BYTES,
    MAX_CHUNK_BYTES,
    MAX_INLINE_CONTENT_BYTES,
    MAX_NAME_CHARACTERS,
    MAX_SENSOR_NAME_CHARACTERS,
    MAX_UINT32,
    MAX_UINT64,
    SHA256_BYTES,
)
from maille_protocol.reference import ModelReference

_MAX_UINT16 = (1 << 16) - 1


def _octets_up_to(value: object, maximum: int, name: str) -> bytes:
    if type(value) is not bytes or len(value) > maximum:
        raise WireError(f"{name}: expected at most {maximum} bytes, got {fields.describe(value)}")
    return value


def _sha256(value: object) -> bytes:
    return fields.octets(value, SHA256_BYTES, "model sha256")


def _optional_sha256(value: object) -> bytes | None:
    return None if value is None else _sha256(value)


# --- to a node ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelOrder:
    """Deploy or evict a model, measure the kernels again, or say `BoardState` again."""

    TYPE: ClassVar = MessageType.MODEL_ORDER
    command: ModelCommand
    model: ModelReference | None
    """What to deploy or evict; None for the other commands."""
    nonce: int
    """Echoed in every report on this order."""

    def to_body(self) -> Plain:
        """The body's array."""
        model = None if self.model is None else self.model.to_body()
        return [int(self.command), model, self.nonce]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        command, model, nonce = fields.array(body, 3, "model order")
        return cls(
            fields.code(command, ModelCommand, "command"),
            None if model is None else ModelReference.from_body(model),
            fields.uint(nonce, MAX_UINT32, "nonce"),
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """Part of a model's artefact: the answer to a `ModelReport` WANT."""

    TYPE: ClassVar = MessageType.CHUNK
    sha256: bytes
    """Of the whole artefact."""
    offset: int
    data: bytes

    def to_body(self) -> Plain:
        """The body's array."""
        return [self.sha256, self.offset, self.data]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        sha256, offset, data = fields.array(body, 3, "chunk")
        return cls(
            _sha256(sha256),
            fields.uint(offset, MAX_ARTEFACT_BYTES, "offset"),
            _octets_up_to(data, MAX_CHUNK_BYTES, "chunk data"),
        )


@dataclass(frozen=True, slots=True)
class SenseOrder:
    """Run a model on a sensor every so often and publish the outputs, or stop that."""

    TYPE: ClassVar = MessageType.SENSE_ORDER
    command: SenseCommand
    sense: int
    """Number of this assignment, chosen by the coordinator."""
    sha256: bytes | None
    """The model, which the node holds; None with STOP."""
    sensor: str
    interval_ms: int
    mode: SenseMode

    def to_body(self) -> Plain:
        """The body's array."""
        return [
            int(self.command),
            self.sense,
            self.sha256,
            self.sensor,
            self.interval_ms,
            int(self.mode),
        ]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        command, sense, sha256, sensor, interval, mode = fields.array(body, 6, "sense order")
        return cls(
            fields.code(command, SenseCommand, "command"),
            fields.uint(sense, MAX_UINT32, "sense"),
            _optional_sha256(sha256),
            fields.text(sensor, "sensor", MAX_SENSOR_NAME_CHARACTERS),
            fields.uint(interval, MAX_UINT32, "interval"),
            fields.code(mode, SenseMode, "mode"),
        )


# --- from a node -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelReport:
    """How an order on a model goes on, or (WANT) which part of it is to be sent next."""

    TYPE: ClassVar = MessageType.MODEL_REPORT
    state: ModelState
    sha256: bytes | None
    """None where the order named no model."""
    nonce: int
    offset: int = 0
    """WANT: of the first byte that is missing; what is before it is kept."""
    length: int = 0
    """WANT: how many bytes the node can take in one chunk, from 1 to 512."""
    code: ErrorCode = ErrorCode.NONE
    text: str = ""
    run_us: int = 0
    """READY: one run of the model, measured in its self-test."""

    def to_body(self) -> Plain:
        """The body's array."""
        return [
            int(self.state),
            self.sha256,
            self.nonce,
            self.offset,
            self.length,
            int(self.code),
            self.text,
            self.run_us,
        ]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        state, sha256, nonce, offset, length, code, text, run = fields.array(
            body, 8, "model report"
        )
        return cls(
            fields.code(state, ModelState, "state"),
            _optional_sha256(sha256),
            fields.uint(nonce, MAX_UINT32, "nonce"),
            fields.uint(offset, MAX_ARTEFACT_BYTES, "offset"),
            fields.uint(length, MAX_CHUNK_BYTES, "length"),
            fields.code(code, ErrorCode, "code"),
            fields.text(text, "text"),
            fields.uint(run, MAX_UINT64, "run time"),
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model made of one reading of a sensor."""

    sense: int
    counter: int
    """Of this sense since it was started on this boot, from 1; runs that are not published count."""
    age_ms: int
    """Since the sensor was read."""
    code: ErrorCode
    content: bytes
    """Encoded tensors, or with a code other than NONE a UTF-8 text that names the cause."""
    run_us: int

    def to_body(self) -> Plain:
        """One element of `Readings`."""
        return [
            self.sense,
            self.counter,
            self.age_ms,
            int(self.code),
            self.content,
            self.run_us,
        ]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse one element of `Readings`; WireError."""
        sense, counter, age, code, content, run = fields.array(body, 6, "reading")
        return cls(
            fields.uint(sense, MAX_UINT32, "sense"),
            fields.uint(counter, MAX_UINT32, "counter"),
            fields.uint(age, MAX_UINT32, "age"),
            fields.code(code, ErrorCode, "code"),
            _octets_up_to(content, MAX_INLINE_CONTENT_BYTES, "content"),
            fields.uint(run, MAX_UINT64, "run time"),
        )


@dataclass(frozen=True, slots=True)
class Readings:
    """Readings of one or more senses."""

    TYPE: ClassVar = MessageType.READINGS
    readings: tuple[Reading, ...]

    def to_body(self) -> Plain:
        """The body's array."""
        return [reading.to_body() for reading in self.readings]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        return cls(fields.items(body, Reading.from_body, "readings"))


@dataclass(frozen=True, slots=True)
class Sensor:
    """A sensor that a node can feed a model from."""

    name: str
    values: int
    """Numbers in one reading; 0: as many as the model wants, one sample after another."""


@dataclass(frozen=True, slots=True)
class HeldModel:
    """A model that a node can run now."""

    name: str
    sha256: bytes
    removable: bool
    """False: built into the firmware."""


@dataclass(frozen=True, slots=True)
class KernelSpeed:
    """What a node measured of one kind of inner loop."""

    kernel: Kernel
    operations_per_s: int
    """Multiply-accumulates; comparisons for forests."""


@dataclass(frozen=True, slots=True)
class BoardState:
    """What a node that holds only delivered models has and can take."""

    TYPE: ClassVar = MessageType.BOARD_STATE
    sensors: tuple[Sensor, ...]
    models: tuple[HeldModel, ...]
    kernels: tuple[KernelSpeed, ...]
    format_version: int
    """The newest version of the tiny format that it runs."""
    max_models: int
    """How many removable models it holds at a time; 0: none can be delivered."""
    max_model_bytes: int
    """The largest artefact that can be delivered."""
    arena_bytes: int
    """The largest arena of a model that it runs."""
    free_memory_bytes: int
    resets: int
    """Times that it started, as far as it remembers."""
    reset_cause: ResetCause
    faults: int
    """Messages refused or dropped since it started: too large, malformed, unknown."""
    senses: tuple[int, ...]
    """Those that run now."""

    def to_body(self) -> Plain:
        """The body's array."""
        return [
            [[sensor.name, sensor.values] for sensor in self.sensors],
            [[model.name, model.sha256, model.removable] for model in self.models],
            [[int(speed.kernel), speed.operations_per_s] for speed in self.kernels],
            self.format_version,
            self.max_models,
            self.max_model_bytes,
            self.arena_bytes,
            self.free_memory_bytes,
            self.resets,
            int(self.reset_cause),
            self.faults,
            list(self.senses),
        ]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        (
            sensors,
            models,
            kernels,
            format_version,
            max_models,
            max_model_bytes,
            arena,
            free_memory,
            resets,
            reset_cause,
            faults,
            senses,
        ) = fields.array(body, 12, "board state")
        return cls(
            fields.items(sensors, _sensor, "sensors"),
            fields.items(models, _held_model, "models"),
            fields.items(kernels, _kernel_speed, "kernels"),
            fields.uint(format_version, _MAX_UINT16, "format version"),
            fields.uint(max_models, _MAX_UINT16, "most models"),
            fields.uint(max_model_bytes, MAX_ARTEFACT_BYTES, "largest model"),
            fields.uint(arena, MAX_UINT32, "arena"),
            fields.uint(free_memory, MAX_UINT64, "free memory"),
            fields.uint(resets, MAX_UINT32, "resets"),
            fields.code(reset_cause, ResetCause, "reset cause"),
            fields.uint(faults, MAX_UINT32, "faults"),
            fields.items(senses, lambda item: fields.uint(item, MAX_UINT32, "sense"), "senses"),
        )


def _sensor(value: object) -> Sensor:
    name, values = fields.array(value, 2, "sensor")
    return Sensor(
        fields.text(name, "sensor", MAX_SENSOR_NAME_CHARACTERS),
        fields.uint(values, _MAX_UINT16, "values"),
    )


def _held_model(value: object) -> HeldModel:
    name, sha256, removable = fields.array(value, 3, "held model")
    return HeldModel(
        fields.text(name, "model name", MAX_NAME_CHARACTERS),
        _sha256(sha256),
        fields.boolean(removable, "removable"),
    )


def _kernel_speed(value: object) -> KernelSpeed:
    kernel, operations = fields.array(value, 2, "kernel speed")
    return KernelSpeed(
        fields.code(kernel, Kernel, "kernel"),
        fields.uint(operations, MAX_UINT64, "operations"),
    )
