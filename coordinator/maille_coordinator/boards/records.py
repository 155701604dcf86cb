"""What people want of boards, as the journal keeps it: the desired state."""

from dataclasses import dataclass
from typing import TypeAlias

from maille_protocol import ErrorCode, ModelReference, SenseMode


@dataclass(frozen=True, slots=True)
class DeployWish:
    """This model shall be on that node. With a code: it cannot be, and `text` says why."""

    node: str
    model: ModelReference
    asked_at_unix_ms: int
    code: ErrorCode = ErrorCode.NONE
    text: str = ""


@dataclass(frozen=True, slots=True)
class EvictWish:
    """This model shall be gone from that node."""

    node: str
    model: ModelReference


@dataclass(frozen=True, slots=True)
class CalibrateWish:
    """That node shall measure its kernels again."""

    node: str


@dataclass(frozen=True, slots=True)
class SenseWish:
    """That node shall run this model on its sensor."""

    sense: int
    node: str
    model: ModelReference
    sensor: str
    interval_ms: int
    mode: SenseMode
    asked_at_unix_ms: int


Wish: TypeAlias = DeployWish | EvictWish | CalibrateWish | SenseWish


def key_of(wish: Wish) -> tuple[str, str]:
    """(kind, key) under which the journal keeps one; a newer one replaces an older."""
    match wish:
        case DeployWish(node, model):
            return "deploy", f"{node}/{model.sha256.hex()}"
        case EvictWish(node, model):
            return "evict", f"{node}/{model.sha256.hex()}"
        case CalibrateWish(node):
            return "calibrate", node
        case SenseWish(sense):
            return "sense", str(sense)
