"""The nodes of a mesh as the coordinator knows them: presence, load, and what they are good at."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from maille_coordinator.core.tasks import Task
from maille_protocol import BoardState, NodeInfo, NodeKind, NodeState
from maille_protocol.limits import WARM_MODEL_BYTES

ModelKey = tuple[str, int]
"""A model's name and version."""

BOARD_KINDS = frozenset({NodeKind.MICROPYTHON, NodeKind.ARDUINO})

_RETIRED_BOOTS = 4


@dataclass(slots=True)
class ModelSkill:
    """How one node has been doing with one model."""

    per_task_ms: float = 0.0
    """Smoothed time from offer to result, divided by the attempts on the node; 0: unknown."""
    failures_in_row: int = 0
    closed_until_ms: float = 0.0
    """The circuit breaker: nothing of this model is offered before this time."""


@dataclass(slots=True)
class RetiredBoot:
    """A process that another one of the same id has replaced."""

    last_seq: int
    fresh_messages: int = 0
    """Messages that it sent after it was replaced: more than one, and two devices share an id."""


@dataclass(slots=True)
class NodeRecord:
    """One node. A data holder; `Core` and `Scheduler` change it."""

    node: str
    boot: int = 0
    state: NodeState = NodeState.INIT
    reason: str = ""
    info: NodeInfo | None = None
    last_seq: int = 0
    last_state_seq: int = 0
    last_heard_ms: float = 0.0
    confirmed: bool = False
    """Whether anything but retained messages was heard from this boot."""
    suspect: bool = False
    missed_seq: int = 0
    """The last message that may have said a state and was not heard; 0: none is missing."""
    shared_until_ms: float = -1e12
    """Until then another process with this id may still hear what is sent to it."""
    drain_wanted: bool = False
    resume_wanted: bool = False
    """Whether the node was drained and is to take work again, and has not said that it does."""
    order_sent_ms: float = -1e12
    """When it was last told to drain or to resume."""
    wish_since_ms: float = -1e12
    """When a person asked for that, or this coordinator began to want it."""
    running: int = 0
    queued: int = 0
    latency_us: int = 0
    battery_percent: int | None = None
    warm: frozenset[bytes] = frozenset()
    board: BoardState | None = None
    """What a node that holds only delivered models said on this boot."""
    outstanding: dict[bytes, Task] = field(default_factory=dict)
    """Attempts that are on the node, by task id, oldest first."""
    skills: dict[ModelKey, ModelSkill] = field(default_factory=dict)
    window_closed_until_ms: float = 0.0
    """Set when the node says that it is full though we thought it was not."""
    rebirth_asked_ms: float = -1e12
    retired: dict[int, RetiredBoot] = field(default_factory=dict)
    rejected_boot: int = 0
    done: int = 0
    failed: int = 0

    @property
    def alive(self) -> bool:
        """Whether the node is thought to be running."""
        return self.state not in (NodeState.DISCONNECTED, NodeState.LOST)

    @property
    def incomplete(self) -> bool:
        """Whether the node may be in another state than the one that it was heard to say."""
        return self.missed_seq > 0

    @property
    def is_board(self) -> bool:
        """Whether it holds only the models that are delivered to it."""
        if self.board is not None:
            return True
        return self.info is not None and self.info.kind in BOARD_KINDS

    def can_run(self, sha256: bytes, offer_bytes: int) -> bool:
        """Whether a task of a model reaches the node and finds the model there, or gets it there.

        Args:
            sha256: of the model.
            offer_bytes: of the publish that offers the task, its inputs with it.
        """
        if not self.is_board:
            return True
        assert self.info is not None  # noqa: S101 - boards are known by their info
        return sha256[:WARM_MODEL_BYTES] in self.warm and offer_bytes <= self.info.max_message_bytes

    @property
    def takes_work(self) -> bool:
        """Whether new work may be offered at all."""
        return (
            self.state is NodeState.READY
            and self.confirmed
            and not self.suspect
            and not self.drain_wanted
            and self.info is not None
        )

    def retire_boot(self) -> None:
        """Remember the present boot as replaced."""
        if self.boot:
            while len(self.retired) >= _RETIRED_BOOTS:
                del self.retired[next(iter(self.retired))]
            self.retired[self.boot] = RetiredBoot(self.last_seq)


class Registry:
    """All nodes, by id."""

    def __init__(self) -> None:
        self._nodes: dict[str, NodeRecord] = {}
        self.wishes: dict[str, bool] = {}
        """What people want of nodes, also of those that were not heard yet: True for drained."""

    def __iter__(self) -> Iterator[NodeRecord]:
        return iter(self._nodes.values())

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, node: str) -> NodeRecord | None:
        """The node, if it is known."""
        return self._nodes.get(node)

    def add(self, node: str) -> NodeRecord:
        """The node, made known if it was not."""
        record = self._nodes.get(node)
        if record is None:
            record = self._nodes[node] = NodeRecord(node)
            wish = self.wishes.get(node)
            record.drain_wanted = wish is True
            record.resume_wanted = wish is False
        return record

    def remove(self, node: str) -> None:
        """Forget a node."""
        self._nodes.pop(node, None)
