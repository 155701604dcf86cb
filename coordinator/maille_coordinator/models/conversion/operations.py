"""What lies between ONNX and the tiny format: real-valued operations on tensors in arena order."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from maille_protocol.tiny import ElementType, Window

Reals: TypeAlias = npt.NDArray[np.float64]
Positions: TypeAlias = npt.NDArray[np.int64]
Function: TypeAlias = Callable[[Reals], Reals]


@dataclass(slots=True)
class Source:
    """A tensor. `value` is the name in the ONNX graph whose range it has."""

    value: str
    count: int
    element_type: ElementType = ElementType.UINT8


@dataclass(slots=True)
class InputSource(Source):
    """A model input: the tensor holds `gain * x + offset`, in the order of `order`."""

    name: str = ""
    shape: tuple[int, ...] = ()
    order: tuple[int, ...] = ()
    gain: Reals = field(default_factory=lambda: np.ones(1))
    offset: Reals = field(default_factory=lambda: np.zeros(1))


@dataclass(slots=True)
class Operation:
    """One future layer: `name` for people, tensors by index."""

    name: str
    inputs: tuple[int, ...]
    output: int


@dataclass(slots=True)
class Linear(Operation):
    """Dense (no window), convolution, or depthwise: `weights` [output channel][product]."""

    weights: Reals
    bias: Reals
    window: Window | None = None
    depthwise: bool = False
    low: float = -np.inf
    high: float = np.inf


@dataclass(slots=True)
class Pool(Operation):
    """Maximum or average under a window."""

    window: Window
    average: bool
    low: float = -np.inf
    high: float = np.inf


@dataclass(slots=True)
class Sum(Operation):
    """Sum of two tensors."""

    low: float = -np.inf
    high: float = np.inf


@dataclass(slots=True)
class Table(Operation):
    """A function of each element alone."""

    function: Function


@dataclass(slots=True)
class Shares(Operation):
    """Softmax."""


@dataclass(slots=True)
class Choice(Operation):
    """Index of the largest element."""


@dataclass(frozen=True, slots=True)
class TreeNode:
    """A node of a decision tree in real numbers; a leaf has a row and no children."""

    feature: int = 0
    threshold: float = 0.0
    left: int = -1
    right: int = -1
    row: int = -1


@dataclass(slots=True)
class Trees(Operation):
    """A forest: for each tree its nodes (the first is the root), leaf rows and base values."""

    trees: list[list[TreeNode]]
    rows: Reals
    bases: Reals


Clamped: TypeAlias = Linear | Pool | Sum
"""Operations that can hold a ReLU."""


@dataclass(slots=True)
class Output:
    """A model output: a tensor, its shape for people, and the names of its classes."""

    name: str
    tensor: int
    shape: tuple[int, ...]
    order: tuple[int, ...]
    labels: tuple[int | str, ...] = ()


@dataclass(slots=True)
class Program:
    """The whole model in real numbers."""

    tensors: list[Source] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
