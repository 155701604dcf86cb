"""A board in the words of the mesh: its id, its info, what it has."""

import re
from collections.abc import Iterable, Mapping

from maille_node.gateway.events import Portrait
from maille_protocol import (
    BoardState,
    HeldModel,
    KernelSpeed,
    Measured,
    ModelFormat,
    NodeInfo,
    NodeKind,
    Sensor,
)
from maille_protocol.codes import ResetCause
from maille_protocol.limits import MAX_MICROCONTROLLER_PUBLISH_BYTES
from maille_protocol.tiny import Model

_ID_CHARACTERS = 32
_MARK_CHARACTERS = 8


def node_id(portrait: Portrait, place: str) -> str:
    """An id that the board keeps: from its chip, or else from `place`, where it is plugged in."""
    name = _clean(portrait.info.name) or "board"
    mark = portrait.info.identity.hex()[-_MARK_CHARACTERS:] or _clean(place)[-_MARK_CHARACTERS:]
    return f"{name[: _ID_CHARACTERS - _MARK_CHARACTERS - 1]}-{mark}".strip("-")


def node_info(portrait: Portrait, gateway: str) -> NodeInfo:
    """What the mesh is told."""
    info = portrait.info
    # It says the same with a network: room of its file system, and the name of its chip.
    is_micropython = info.kind is NodeKind.MICROPYTHON
    speeds = [speed.operations_per_s for speed in kernel_speeds(portrait)]
    return NodeInfo(
        kind=info.kind,
        name=info.name or info.mcu,
        software=info.software,
        slots=info.slots,
        formats=(ModelFormat.TINY,),
        max_message_bytes=MAX_MICROCONTROLLER_PUBLISH_BYTES,
        measured=Measured(
            cores=1,
            memory_bytes=info.ram_bytes,
            multiply_accumulates_per_s=speeds[0] if speeds else 0,
            disk_free_bytes=info.flash_free if is_micropython else info.max_model_bytes,
            accelerators=(info.mcu,) if is_micropython else (),
        ),
        gateway=gateway,
    )


def board_state(
    portrait: Portrait, models: Mapping[bytes, Model], faults: int, senses: Iterable[int]
) -> BoardState:
    """What the board has; `models` are those whose artefacts are known, by SHA-256."""
    info, hello = portrait.info, portrait.hello
    known_causes = {int(cause) for cause in ResetCause}
    return BoardState(
        sensors=tuple(Sensor(record.name, record.values) for record in portrait.sensors.values()),
        models=tuple(
            HeldModel(_model_name(models, record.sha256), record.sha256, record.removable)
            for record in portrait.models.values()
        ),
        kernels=kernel_speeds(portrait),
        format_version=info.format_version,
        max_models=info.max_models,
        max_model_bytes=info.max_model_bytes,
        arena_bytes=info.arena_bytes,
        free_memory_bytes=info.ram_free,
        resets=info.resets,
        reset_cause=ResetCause(hello.cause if hello.cause in known_causes else 0),
        faults=faults,
        senses=tuple(senses),
    )


def kernel_speeds(portrait: Portrait) -> tuple[KernelSpeed, ...]:
    """From the measured cycles of one operation."""
    clock_hz = portrait.info.clock_hz
    return tuple(
        KernelSpeed(kernel, 100 * clock_hz // centicycles)
        for kernel, centicycles in portrait.info.kernels
        if centicycles
    )


def _model_name(models: Mapping[bytes, Model], sha256: bytes) -> str:
    model = models.get(sha256)
    return (model.description.name if model is not None else "")[:64] or sha256.hex()[:12]


def _clean(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
