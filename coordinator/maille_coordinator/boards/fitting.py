"""Whether a board can hold a model at all, and take tasks of it."""

from maille_coordinator.boards.state import Board
from maille_protocol import ErrorCode, ModelReference

Refusal = tuple[ErrorCode, str]
"""Code and a text that names cause and next step."""


def refusal(board: Board, model: ModelReference, offer_bytes: int = 0) -> Refusal | None:
    """Why this board cannot hold the model, or run a task of it; None if it may be able to.

    Args:
        board: the board; of one that has not said its state yet only the format is known.
        model: what is to be there.
        offer_bytes: what an offer of a task takes; 0: not asked.
    """
    node = board.node
    if not board.runs_tiny:
        return (ErrorCode.UNSUPPORTED_FORMAT, f"node {node} does not run models in the tiny format")
    if offer_bytes > board.max_message_bytes:
        text = (
            f"the task takes {offer_bytes} bytes, node {node} receives at most "
            f"{board.max_message_bytes}: use a model with smaller inputs, or another node"
        )
        return (ErrorCode.INPUT_TOO_LARGE, text)
    state = board.state or board.told
    if state is None or board.holds(model.sha256):
        return None
    if state.max_models == 0:
        text = (
            f"node {node} takes no models over the mesh: build {model.name} into its firmware, "
            "or use another node"
        )
        return (ErrorCode.NO_SPACE, text)
    if model.size_bytes > state.max_model_bytes:
        text = (
            f"model {model.name} has {model.size_bytes} bytes, node {node} takes at most "
            f"{state.max_model_bytes}: convert a smaller model, or use another node"
        )
        return (ErrorCode.MODEL_TOO_LARGE, text)
    return None


def crowded(board: Board, model: ModelReference, needed: set[bytes]) -> Refusal | None:
    """Why a model would find no place on the board: senses need all that is there.

    Args:
        board: the board.
        model: what is to be there.
        needed: SHA-256 of the models that senses of this board need.
    """
    state = board.state or board.told
    if state is None or model.sha256 in needed or board.holds(model.sha256):
        return None
    if len(needed) < state.max_models:
        return None
    text = (
        f"node {board.node} holds {state.max_models} model(s), and senses need them all: "
        "stop one first (maille sense --list)"
    )
    return (ErrorCode.NO_SPACE, text)
