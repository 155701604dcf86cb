"""Errors of placement, by what the caller can do about them.

PlacementError
├── PlacementInputError    a value is out of its range: a mistake of the program that asks
└── PlacementImpossible    no set of nodes holds the model; says how many bytes are missing
"""


class PlacementError(Exception):
    """Base of every error this package raises."""


class PlacementInputError(PlacementError, ValueError):
    """Raised when a description of a model, a node, a link or a wish makes no sense."""


class PlacementImpossible(PlacementError):
    """Raised when no set of the offered nodes can hold the model.

    Attributes:
        missing_bytes: the least usable memory (after the overhead of a stage's process) of one
            node more with which the model fits.
        needed_bytes: weights and key-value caches of the whole model.
        usable_bytes: what the allowed nodes offer together, overheads taken off.
    """

    def __init__(
        self, text: str, *, missing_bytes: int, needed_bytes: int, usable_bytes: int
    ) -> None:
        super().__init__(text)
        self.missing_bytes = missing_bytes
        self.needed_bytes = needed_bytes
        self.usable_bytes = usable_bytes
