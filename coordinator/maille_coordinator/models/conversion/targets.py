"""Boards a tiny model can be meant for: room, speed, and whether a model fits.

`cycles_per_product` says where it comes from; a board that has joined a mesh states its own measured
figure, which is what the scheduler uses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from maille_protocol.tiny import (
    AveragePool,
    Conv2d,
    Dense,
    DepthwiseConv2d,
    Forest,
    Layer,
    MaxPool,
    Model,
    Softmax,
    multiply_accumulates,
)


@dataclass(frozen=True, slots=True)
class Cycles:
    """What one of each takes on a processor, in clock cycles."""

    run: float
    """Going through the container once more for a run."""
    layer: float
    dense_product: float
    convolution_product: float
    depthwise_product: float
    window_row: float
    """One row of the kernel at one output position of a convolution."""
    output: float
    """One sum requantised."""
    pool_element: float
    element: float
    """One element of a layer that looks at each once."""
    share: float
    """One element of a softmax."""
    tree: float
    step: float
    """One node on the way through a tree."""


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
    cycles: Cycles
    measured: str
    """Where the cycles come from; starts with "measured" or "estimated"."""
    settings: Mapping[str, int] = field(default_factory=dict)
    """Settings of the node that bound a model, and their values unless the user changes them."""


# From single layers of several sizes as machine code of an ATmega328P, counted by simavr; held to
# whole models by tests/boards/test_avr_forecasts.py.
_AVR = Cycles(
    run=7000,
    layer=1500,
    dense_product=8.5,
    convolution_product=11,
    depthwise_product=320,
    window_row=1050,
    output=200,
    pool_element=130,
    element=80,
    share=880,
    tree=1270,
    step=320,
)
_AVR_SOURCE = "measured: single layers of the Arduino library, counted in simavr"
# From the length of the viper loops in machine instructions; nobody has counted them on a board.
_VIPER = Cycles(
    run=60_000,
    layer=20_000,
    dense_product=40,
    convolution_product=45,
    depthwise_product=60,
    window_row=300,
    output=300,
    pool_element=60,
    element=60,
    share=400,
    tree=600,
    step=200,
)
_VIPER_SOURCE = "estimated: from the length of the viper loops, not counted on a board"
_MICROPYTHON_SETTINGS = {"max_model_bytes": 8192, "arena_bytes": 2048}
BOARDS = (
    # What tests/boards/test_avr_forecasts.py finds free beside the firmware, and 500 bytes of stack.
    Board(
        *("uno", "Arduino Uno (ATmega328P)", 16_000_000, 9_728, 640),
        *(_AVR, _AVR_SOURCE),
    ),
    Board(
        *("nano", "Arduino Nano (ATmega328P)", 16_000_000, 8_192, 640),
        *(_AVR, _AVR_SOURCE),
    ),
    # An array of avr-gcc has at most 32767 bytes.
    Board(
        *("mega", "Arduino Mega (ATmega2560)", 16_000_000, 32_767, 5 * 1024),
        *(_AVR, _AVR_SOURCE),
    ),
    # A board of MicroPython holds its model in memory beside the node.
    Board(
        *("rp2040", "Raspberry Pi Pico, Pico W", 133_000_000, 96 * 1024, 16 * 1024),
        *(_VIPER, _VIPER_SOURCE, _MICROPYTHON_SETTINGS),
    ),
    Board(
        *("esp32", "ESP32, ESP32-S3", 240_000_000, 64 * 1024, 16 * 1024),
        *(_VIPER, _VIPER_SOURCE, _MICROPYTHON_SETTINGS),
    ),
)
TARGETS = {
    "avr": ("uno", "nano", "mega"),
    "any": tuple(board.name for board in BOARDS),
    **{board.name: (board.name,) for board in BOARDS},
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
    hint: str = ""
    """What has to be set on the board first."""


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
    needed = {"max_model_bytes": size_bytes, "arena_bytes": model.arena_bytes}
    raised = [
        f"{name} to at least {needed[name]:,} (it is {value:,} unless changed)"
        for name, value in board.settings.items()
        if needed[name] > value
    ]
    hint = f"raise {' and '.join(raised)} in the board's settings" if raised else ""
    return Fit(board, not reasons, "; ".join(reasons), estimated_ms(board, model), hint)


def estimated_ms(board: Board, model: Model) -> float:
    """One run, by the board's cycles."""
    cycles = board.cycles.run + sum(_layer_cycles(board.cycles, item) for item in model.layers)
    return 1000 * cycles / board.clock_hz


def _layer_cycles(cycles: Cycles, layer: Layer) -> float:
    products = multiply_accumulates(layer)
    outputs = layer.writes().count
    match layer:
        case Dense():
            work = products * cycles.dense_product + outputs * cycles.output
        case Conv2d():
            window = layer.window
            rows = window.output_height * window.output_width * window.kernel_height
            work = products * cycles.convolution_product + rows * cycles.window_row
            work += outputs * cycles.output
        case DepthwiseConv2d():
            work = products * cycles.depthwise_product + outputs * cycles.output
        case MaxPool() | AveragePool():
            under = layer.window.kernel_height * layer.window.kernel_width
            work = outputs * under * cycles.pool_element
        case Softmax():
            work = outputs * cycles.share
        case Forest():
            trees = len(layer.roots) // 2
            # About what a walk meets, were the trees balanced.
            depth = max(1, len(layer.nodes) // 5 // trees).bit_length()
            work = trees * (cycles.tree + depth * cycles.step)
        case _:
            work = sum(item.count for item in layer.reads()) * cycles.element
    return cycles.layer + work


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
