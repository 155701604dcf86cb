"""What the HTTP API may ask of boards. `runner.BoardService` implements it."""

from dataclasses import dataclass
from typing import Protocol

from maille_coordinator.records import ModelRecord
from maille_protocol import BoardState, SenseMode


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """A model on its way to a board, there, or leaving it."""

    node: str
    model: str
    version: int
    sha256: str
    size_bytes: int
    state: str
    """"waiting", "sending", "ready", "failed" or "evicting"."""
    wanted_by: str
    """"person", "sense", "task"; "" where it was there without being asked for."""
    received_bytes: int
    attempts: int
    took_ms: int
    """From the first order to ready; 0 while it is not."""
    run_us: int
    """One run on the board, as its self-test measured it; 0: not known."""
    code: str
    """"none", or why it failed."""
    text: str


@dataclass(frozen=True, slots=True)
class BoardView:
    """What a board has and can take."""

    node: str
    reachable: bool
    state: BoardState | None
    """What it said last."""
    models: tuple[DeliveryView, ...]
    calibrating: bool
    calibrated: int
    """Times that it measured itself when asked, since this coordinator started."""


@dataclass(frozen=True, slots=True)
class ReadingView:
    """What a model made of one reading."""

    sense: int
    counter: int
    at_unix_ms: int
    """When the sensor was read."""
    code: str
    text: str
    outputs: dict[str, object] | None
    """By name, as real numbers or labels; None with a code."""
    run_us: int


@dataclass(frozen=True, slots=True)
class SenseView:
    """A model on a sensor."""

    sense: int
    node: str
    model: str
    version: int
    sensor: str
    interval_ms: int
    mode: SenseMode
    asked_at_unix_ms: int
    state: str
    """"waiting" (for the node or the model), "starting", "running" or "failed"."""
    code: str
    text: str
    readings: int
    """Taken since this coordinator started."""
    latest: ReadingView | None


class BoardApi(Protocol):
    """Boards of the running coordinator. All calls are made in its event loop.

    Errors are `ServiceError`s: 404 unknown_node, unknown_model, unknown_sense; 409 where the node
    is none that models are delivered to, or cannot do what is asked.
    """

    def boards(self) -> list[BoardView]:
        """Every board, by id."""
        ...

    def board(self, node: str) -> BoardView:
        """One board."""
        ...

    def deploy(self, node: str, record: ModelRecord) -> DeliveryView:
        """Want a model on a board, and to stay there; one that failed is tried again."""
        ...

    def evict(self, node: str, name: str, record: ModelRecord | None) -> BoardView:
        """Want a model off a board; without a record the one that the board calls `name`."""
        ...

    def calibrate(self, node: str) -> BoardView:
        """Have a board measure its kernels again."""
        ...

    def sense(
        self, node: str, record: ModelRecord, sensor: str, interval_ms: int, mode: SenseMode
    ) -> SenseView:
        """Run a model on a board's sensor from now on; replaces one of the same three."""
        ...

    def senses(self) -> list[SenseView]:
        """Every sense, by number."""
        ...

    def show_sense(self, sense: int) -> SenseView:
        """One sense."""
        ...

    def stop_sense(self, sense: int) -> SenseView:
        """End a sense; returns how it was."""
        ...

    def readings(self, sense: int, limit: int) -> list[ReadingView]:
        """The last readings of a sense, newest first."""
        ...
