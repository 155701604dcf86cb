"""How boards and senses look to people."""

from maille_coordinator.boards.service import BoardView, DeliveryView, ReadingView, SenseView
from maille_coordinator.boards.state import Board, Sense


def delivery_view(board: Board, sha256: bytes) -> DeliveryView:
    """A model that is wanted on a board."""
    delivery = board.deliveries[sha256]
    model = delivery.model
    return DeliveryView(
        board.node,
        model.name,
        model.version,
        sha256.hex(),
        model.size_bytes,
        delivery.phase.value,
        delivery.origin.value,
        delivery.offset,
        delivery.attempts,
        int(delivery.took_ms),
        delivery.run_us,
        delivery.code.name.lower(),
        delivery.text,
    )


def board_view(board: Board) -> BoardView:
    """A board with all models that are there, come or go."""
    models = [delivery_view(board, sha256) for sha256 in board.deliveries]
    for eviction in board.evictions.values():
        model = eviction.model
        models.append(
            DeliveryView(
                board.node,
                model.name,
                model.version,
                model.sha256.hex(),
                model.size_bytes,
                "evicting",
                "person",
                model.size_bytes,
                eviction.tries,
                0,
                0,
                "none",
                "",
            )
        )
    named = {view.sha256 for view in models}
    state = board.state or board.told
    for held in () if state is None else state.models:
        if held.sha256.hex() not in named:
            text = "" if held.removable else "built into the firmware"
            models.append(
                DeliveryView(
                    board.node, held.name, 0, held.sha256.hex(), 0, "ready", "", 0, 0, 0, 0,
                    "none", text,
                )
            )  # fmt: skip
    return BoardView(
        board.node,
        board.reachable,
        state,
        tuple(models),
        board.calibration is not None,
        board.calibrated,
    )


def sense_view(sense: Sense, latest: ReadingView | None) -> SenseView:
    """A sense with its newest reading."""
    wish = sense.wish
    return SenseView(
        wish.sense,
        wish.node,
        wish.model.name,
        wish.model.version,
        wish.sensor,
        wish.interval_ms,
        wish.mode,
        wish.asked_at_unix_ms,
        sense.phase.value,
        sense.code.name.lower(),
        sense.text,
        sense.readings,
        latest,
    )
