"""Board messages as frozen dataclasses (SERIAL.md, section 8); `serial.cddl` is the same in CDDL.

A message is one CBOR array: its code, then the dataclass's fields in order.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, TypeAlias

from maille_protocol import cbor
from maille_protocol.cbor import Plain
from maille_protocol.codes import (
    ErrorCode,
    Kernel,
    ModelState,
    NodeKind,
    ResultStatus,
    SenseMode,
)
from maille_protocol.errors import UsageError, WireError
from maille_protocol.fields import array, boolean, code, items, octets, text, uint
from maille_protocol.limits import SHA256_BYTES
from maille_protocol.serial.limits import MAX_MESSAGE_BYTES

SCHEMA = bytes.fromhex("ae1a8913")
"""First 4 bytes of the SHA-256 of `serial.cddl` without comments; a board's HELLO names its own."""

_MAX_NAME_BYTES = 32
_MAX_MCU_BYTES = 16
_MAX_IDENTITY_BYTES = 16
_MAX_LOG_BYTES = 200


# --- to a board ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OfferTask:
    """Run a model once on these inputs."""

    CODE: ClassVar = 0
    task: int
    model: int
    remaining_ms: int
    inputs: tuple[bytes, ...]
    """Elements of each input in the model's order, row-major, little-endian."""


@dataclass(frozen=True, slots=True)
class CancelTask:
    """A task is not wanted any more."""

    CODE: ClassVar = 1
    task: int


@dataclass(frozen=True, slots=True)
class Deploy:
    """Take a model into a slot; the board asks for its bytes."""

    CODE: ClassVar = 2
    model: int
    size_bytes: int
    crc32: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class ModelChunk:
    """What `Want` asked for."""

    CODE: ClassVar = 3
    model: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Evict:
    """Forget the model in a slot."""

    CODE: ClassVar = 4
    model: int


@dataclass(frozen=True, slots=True)
class Sense:
    """Run a model on a sensor every so often."""

    CODE: ClassVar = 5
    sense: int
    model: int
    sensor: int
    interval_ms: int
    mode: SenseMode


@dataclass(frozen=True, slots=True)
class StopSense:
    """End a sense."""

    CODE: ClassVar = 6
    sense: int


@dataclass(frozen=True, slots=True)
class Calibrate:
    """Measure the kernels again, then say `Info`."""

    CODE: ClassVar = 7


@dataclass(frozen=True, slots=True)
class Report:
    """Say `Info`, every `SensorRecord` and every `ModelRecord` again."""

    CODE: ClassVar = 8


# --- from a board --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Info:
    """What the board is; the first message of a session."""

    CODE: ClassVar = 12
    kind: NodeKind
    name: str
    software: str
    mcu: str
    clock_hz: int
    flash_bytes: int
    flash_free: int
    ram_bytes: int
    ram_free: int
    slots: int
    format_version: int
    max_models: int
    max_model_bytes: int
    arena_bytes: int
    identity: bytes
    """Of this very chip; empty where it has none."""
    resets: int
    kernels: tuple[tuple[Kernel, int], ...]
    """Measured cycles for one operation, in hundredths."""
    sensors: int
    """How many `SensorRecord` follow."""
    models: int
    """How many `ModelRecord` follow."""


@dataclass(frozen=True, slots=True)
class SensorRecord:
    """One of the board's sensors."""

    CODE: ClassVar = 13
    sensor: int
    name: str
    values: int


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One of the models that the board holds."""

    CODE: ClassVar = 14
    model: int
    size_bytes: int
    sha256: bytes
    removable: bool


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How a task ended. With a status other than DONE the outputs are empty or one UTF-8 text."""

    CODE: ClassVar = 15
    task: int
    status: ResultStatus
    code: ErrorCode
    run_us: int
    outputs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Want:
    """Send these bytes of a model; everything before is kept."""

    CODE: ClassVar = 16
    model: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class ModelStateReport:
    """How `Deploy` or `Evict` ended."""

    CODE: ClassVar = 17
    model: int
    state: ModelState
    code: ErrorCode
    run_us: int


@dataclass(frozen=True, slots=True)
class SenseReading:
    """What a model made of a sensor."""

    CODE: ClassVar = 18
    sense: int
    counter: int
    age_ms: int
    code: ErrorCode
    run_us: int
    outputs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """How the board does, every second."""

    CODE: ClassVar = 19
    uptime_ms: int
    running: int
    queued: int
    latency_us: int
    ram_free: int
    bad: int
    overruns: int


@dataclass(frozen=True, slots=True)
class BoardLog:
    """A line for people."""

    CODE: ClassVar = 20
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The board cannot do what a message asked."""

    CODE: ClassVar = 21
    message: int
    """Code of that message."""
    handle: int
    error: ErrorCode


ToBoard: TypeAlias = (
    OfferTask | CancelTask | Deploy | ModelChunk | Evict | Sense | StopSense | Calibrate | Report
)
FromBoard: TypeAlias = (
    Info
    | SensorRecord
    | ModelRecord
    | TaskResult
    | Want
    | ModelStateReport
    | SenseReading
    | Load
    | BoardLog
    | Refused
)
BoardMessage: TypeAlias = ToBoard | FromBoard

# --- fields --------------------------------------------------------------------------------------

_Parse: TypeAlias = Callable[[object, str], Any]


def _number(maximum: int) -> _Parse:
    return lambda value, name: uint(value, maximum, name)


def _text(maximum_bytes: int) -> _Parse:
    def parse(value: object, name: str) -> str:
        found = text(value, name, maximum_bytes)
        if len(found.encode()) > maximum_bytes:
            raise WireError(f"{name}: more than {maximum_bytes} bytes")
        return found

    return parse


def _bytes(maximum: int) -> _Parse:
    def parse(value: object, name: str) -> bytes:
        if type(value) is not bytes or len(value) > maximum:
            raise WireError(f"{name}: expected at most {maximum} bytes")
        return value

    return parse


def _code(codes: type[Any]) -> _Parse:
    return lambda value, name: code(value, codes, name)


def _strings(value: object, name: str) -> tuple[bytes, ...]:
    return items(value, lambda item: _bytes(MAX_MESSAGE_BYTES)(item, name), name)


def _sha256(value: object, name: str) -> bytes:
    return octets(value, SHA256_BYTES, name)


def _kernel(value: object) -> tuple[Kernel, int]:
    kernel, centicycles = array(value, 2, "kernel")
    return code(kernel, Kernel, "kernel"), _u32(centicycles, "centicycles")


def _kernels(value: object, name: str) -> tuple[tuple[Kernel, int], ...]:
    return items(value, _kernel, name)


_u8, _u16, _u32 = _number(0xFF), _number(0xFFFF), _number(0xFFFFFFFF)
_error = _code(ErrorCode)

_FIELDS: Mapping[type[Any], tuple[_Parse, ...]] = {
    OfferTask: (_u16, _u8, _u32, _strings),
    CancelTask: (_u16,),
    Deploy: (_u8, _u32, _u32, _sha256),
    ModelChunk: (_u8, _u32, _bytes(MAX_MESSAGE_BYTES)),
    Evict: (_u8,),
    Sense: (_u16, _u8, _u8, _u32, _code(SenseMode)),
    StopSense: (_u16,),
    Calibrate: (),
    Report: (),
    Info: (
        _code(NodeKind),
        _text(_MAX_NAME_BYTES),
        _text(_MAX_NAME_BYTES),
        _text(_MAX_MCU_BYTES),
        *[_u32] * 5,
        _u8,
        _u16,
        _u8,
        _u32,
        _u32,
        _bytes(_MAX_IDENTITY_BYTES),
        _u32,
        _kernels,
        _u8,
        _u8,
    ),
    SensorRecord: (_u8, _text(_MAX_NAME_BYTES), _u16),
    ModelRecord: (_u8, _u32, _sha256, boolean),
    TaskResult: (_u16, _code(ResultStatus), _error, _u32, _strings),
    Want: (_u8, _u32, _u16),
    ModelStateReport: (_u8, _code(ModelState), _error, _u32),
    SenseReading: (_u16, _u32, _u32, _error, _u32, _strings),
    Load: (_u32, _u8, _u8, _u32, _u32, _u32, _u32),
    BoardLog: (_u8, _text(_MAX_LOG_BYTES)),
    Refused: (_u8, _u16, _error),
}
MESSAGE_CLASSES: Mapping[int, type[Any]] = {kind.CODE: kind for kind in _FIELDS}


def encode_board_message(message: BoardMessage) -> bytes:
    """The bytes of one message of the link.

    Raises:
        UsageError: longer than any board takes.
    """
    body = [message.CODE, *(_plain(getattr(message, field.name)) for field in fields(message))]
    data = cbor.encode(body)
    if len(data) > MAX_MESSAGE_BYTES:
        raise UsageError(
            f"{type(message).__name__} takes {len(data)} bytes, a board {MAX_MESSAGE_BYTES}"
        )
    return data


def decode_board_message(data: bytes) -> BoardMessage:
    """The message in `data`.

    Raises:
        WireError: malformed, unknown, or a field out of its range.
    """
    body = cbor.decode(data)
    if not isinstance(body, list) or not body:
        raise WireError("a board message is an array")
    kind = MESSAGE_CLASSES.get(uint(body[0], 0xFF, "code"))
    if kind is None:
        raise WireError(f"unknown board message {body[0]}")
    parsers = _FIELDS[kind]
    names = [field.name for field in fields(kind)]
    _, *values = array(body, 1 + len(parsers), kind.__name__)
    parsed = [
        parse(value, f"{kind.__name__} {name}")
        for parse, name, value in zip(parsers, names, values, strict=True)
    ]
    message: BoardMessage = kind(*parsed)
    return message


def decode_from_board(data: bytes) -> FromBoard:
    """A board's message in `data`.

    Raises:
        WireError: as `decode_board_message`, or it is one that only a gateway says.
    """
    message = decode_board_message(data)
    if isinstance(message, ToBoard):
        raise WireError(f"{type(message).__name__} from a board")
    return message


def _plain(value: object) -> Plain:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value) or not isinstance(value, int | bytes | str):
        raise UsageError(f"{value!r} does not stand on the wire")
    return value if isinstance(value, bool | bytes | str) else int(value)
