"""Boards a tiny model can be meant for: room, speed, and whether a model fits.

`cycles_per_product` says where it comes from; a board that has joined a mesh states its own measured
figure, which is what the scheduler uses.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from maille_protocol.tiny import Forest, Model, multiply_accumulates


@dataclass(frozen=True, slots=True)
class Board:
    """What a model may take of a board, and how fast the board is."""

    name: str
    title: str
    clock_hz: int
    model_bytes: int
    """Storage left for a model beside the node itself."""
    arena_bytes: int
    """Memory left for activations beside the node itself."""
    cycles_per_product: float
    """Of one multiply-accumulate of a dense layer."""
    cycles_per_element: float
    """Of one element that a layer without weights reads, and of one step down a tree."""
    measured: str
    """Where the cycles come from; starts with "measured" or "estimated"."""


BOARDS = (
    Board(
        *("uno", "Arduino Uno, Nano (ATmega328P)", 16_000_000, 18 * 1024, 700, 12.0, 40.0),
        "estimated: the kernels' target on AVR, dense layers",
    ),
    Board(
        *("mega", "Arduino Mega (ATmega2560)", 16_000_000, 48 * 1024, 5 * 1024, 12.0, 40.0),
        "estimated: the kernels' target on AVR, dense layers",
    ),
    Board(
        *("rp2040", "Raspberry Pi Pico, Pico W", 133_000_000, 256 * 1024, 48 * 1024, 50.0, 150.0),
        "estimated: viper code, from its length in instructions",
    ),
    Board(
        *("esp32", "ESP32, ESP32-S3", 240_000_000, 512 * 1024, 48 * 1024, 50.0, 150.0),
        "estimated: viper code, from its length in instructions",
    ),
)
TARGETS = {
    "avr": ("uno", "mega"),
    "esp32": ("esp32",),
    "rp2040": ("rp2040",),
    "any": tuple(board.name for board in BOARDS),
    "uno": ("uno",),
    "mega": ("mega",),
}
"""A target is met where the model fits one of its boards."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A model on a board."""

    board: Board
    fits: bool
    reason: str
    """What does not fit, naming the layer and by how much; empty where it fits."""
    estimated_ms: float


def fit(board: Board, model: Model, size_bytes: int) -> Fit:
    """Whether the model fits the board, and how long one run may take."""
    reasons: list[str] = []
    if size_bytes > board.model_bytes:
        largest = max(range(len(model.layers)), key=lambda index: _layer_bytes(model, index))
        reasons.append(
            f"{size_bytes} bytes of model are {size_bytes - board.model_bytes} more than the "
            f"{board.model_bytes} there are; the largest layer is {layer_name(model, largest)} "
            f"with {_layer_bytes(model, largest)} bytes"
        )
    if model.arena_bytes > board.arena_bytes:
        reasons.append(
            f"{model.arena_bytes} bytes of memory are {model.arena_bytes - board.arena_bytes} more "
            f"than the {board.arena_bytes} there are, at {layer_name(model, model.peak_layer)}"
        )
    return Fit(board, not reasons, "; ".join(reasons), estimated_ms(board, model))


def estimated_ms(board: Board, model: Model) -> float:
    """One run by the board's cycles; a forest by the depth of its trees."""
    products = sum(multiply_accumulates(layer) for layer in model.layers)
    elements = 0.0
    for layer in model.layers:
        if isinstance(layer, Forest):
            elements += forest_steps(layer.nodes, layer.roots)
        else:
            elements += layer.writes().count + sum(item.count for item in layer.reads())
    cycles = products * board.cycles_per_product + elements * board.cycles_per_element
    return 1000 * cycles / board.clock_hz


def forest_steps(nodes: bytes, roots: bytes) -> int:
    """About how many nodes a walk through all trees meets, were each tree balanced."""
    trees = len(roots) // 2
    each = max(1, len(nodes) // 5 // trees)
    return trees * each.bit_length()


def layer_name(model: Model, index: int) -> str:
    """A layer as people know it: its number, kind and name in the original model."""
    names: Sequence[str] = model.description.layer_names
    original = f", {names[index]}" if names else ""
    return f"layer {index} ({model.layers[index].KIND.name.lower()}{original})"


def _layer_bytes(model: Model, index: int) -> int:
    layer = model.layers[index]
    parts = [
        getattr(layer, name, b"")
        for name in ("weights", "table", "nodes", "leaves", "bases", "roots")
    ]
    channels = getattr(getattr(layer, "requantisation", None), "channels", b"")
    return sum(map(len, parts)) + len(channels)
