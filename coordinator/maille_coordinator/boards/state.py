"""What the core knows of boards: data holders, changed only by `core` and its parts."""

from dataclasses import dataclass, field
from enum import Enum

from maille_coordinator.boards.records import SenseWish
from maille_protocol import BoardState, ErrorCode, ModelReference
from maille_protocol.limits import MAX_MICROCONTROLLER_PUBLISH_BYTES, WARM_MODEL_BYTES


class Origin(Enum):
    """Who wants a model on a board: what a person wants stays wanted, also after a restart."""

    PERSON = "person"
    SENSE = "sense"
    TASK = "task"


class Phase(Enum):
    """Where a delivery is."""

    WAITING = "waiting"
    SENDING = "sending"
    READY = "ready"
    FAILED = "failed"


@dataclass(slots=True)
class Delivery:
    """One model on its way to one board, or there."""

    model: ModelReference
    origin: Origin
    asked_at_unix_ms: int
    phase: Phase = Phase.WAITING
    offset: int = 0
    """Bytes that the board has, as far as it said."""
    attempts: int = 0
    """That failed in a way that may pass."""
    nonce: int = 0
    repeats: int = 0
    """Times that the present attempt's order was sent again, nothing having been heard."""
    next_ms: float = 0.0
    """When to send the order (again)."""
    started_ms: float = 0.0
    took_ms: float = 0.0
    run_us: int = 0
    code: ErrorCode = ErrorCode.NONE
    text: str = ""

    @property
    def open(self) -> bool:
        """Whether it may still end either way."""
        return self.phase in (Phase.WAITING, Phase.SENDING)


@dataclass(slots=True)
class Eviction:
    """A model that is to go."""

    model: ModelReference
    nonce: int = 0
    tries: int = 0
    next_ms: float = 0.0


@dataclass(slots=True)
class Calibration:
    """A measurement that is to be made."""

    nonce: int = 0
    tries: int = 0
    next_ms: float = 0.0


class SensePhase(Enum):
    """Where a sense is."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    FAILED = "failed"


@dataclass(slots=True)
class Sense:
    """A model on a sensor."""

    wish: SenseWish
    phase: SensePhase = SensePhase.WAITING
    tries: int = 0
    next_ms: float = 0.0
    code: ErrorCode = ErrorCode.NONE
    text: str = ""
    last_boot: int = 0
    last_counter: int = 0
    readings: int = 0
    """Taken since this coordinator started."""


@dataclass(slots=True)
class Board:
    """One board."""

    node: str
    boot: int = 0
    reachable: bool = False
    runs_tiny: bool = True
    """Until it says otherwise."""
    max_message_bytes: int = MAX_MICROCONTROLLER_PUBLISH_BYTES
    state: BoardState | None = None
    """What it said last on this boot."""
    told: BoardState | None = None
    """What it said last, on whichever boot: for people."""
    held: frozenset[bytes] = frozenset()
    running: frozenset[int] = frozenset()
    deliveries: dict[bytes, Delivery] = field(default_factory=dict)
    evictions: dict[bytes, Eviction] = field(default_factory=dict)
    calibration: Calibration | None = None
    calibrated: int = 0
    """Times that it measured itself when it was asked."""
    stops: dict[int, float] = field(default_factory=dict)
    """When to send STOP again for a sense that should not run."""
    ask_ms: float = 0.0
    """When to ask for its state (again)."""
    asked: int = 0
    nonce: int = 0
    wake_ms: float = float("inf")
    """The earliest time that the timers hold for it."""

    def holds(self, sha256: bytes) -> bool:
        """Whether the model is on it, as far as it said."""
        return sha256[:WARM_MODEL_BYTES] in self.held

    def next_nonce(self) -> int:
        """A number for the next order."""
        self.nonce = self.nonce % 0xFFFFFFFF + 1
        return self.nonce

    @property
    def current(self) -> Delivery | None:
        """The delivery under way: one at a time."""
        for delivery in self.deliveries.values():
            if delivery.phase is Phase.SENDING:
                return delivery
        return None
