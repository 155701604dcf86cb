"""What placement is asked (a model, nodes, links, a wish) and what it answers (a plan)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from math import isfinite

from maille_coordinator.placement.errors import PlacementInputError

__all__ = [
    "Links",
    "ModelShape",
    "NodeOffer",
    "Objective",
    "Plan",
    "Prediction",
    "Replica",
    "Stage",
    "Wish",
]

STAGE_OVERHEAD_BYTES = 120_000_000
"""The most that a stage's process may take beyond its slice and its key-value caches."""

MESSAGE_BYTES = 64
"""The most that a message adds to the hidden values it carries, and the size of a token's one."""


class Objective(StrEnum):
    """What a plan minimises, as milliseconds for each token.

    With T the time of a token around the ring (all stages and all hops, one after the other), S
    the time of the slowest stage or link, and n sessions at once, a ring gives each second
    min(n / T, 1 / S) tokens in all: either every session waits for its own token, or the slowest
    stage always has one to do. So both objectives minimise max(T / n, S):

    LATENCY: with n = 1, which is T, because S is part of T. What one user waits for.
    THROUGHPUT: with n = the wished number of sessions. What all users get together; a single
        session may get less than it would from the fastest node alone.
    """

    LATENCY = "latency"
    THROUGHPUT = "throughput"


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model, as its slices have them.

    Attributes:
        layers: bytes of each layer's weights.
        embedding_bytes: of the slice part that turns tokens into hidden values.
        head_bytes: of the slice part that turns hidden values into logits.
        kv_bytes_per_token: of one token in one layer's key-value cache.
        hidden_size: values of one activation.
        shared_bytes: what a node that has both embedding and head keeps only once.
    """

    layers: tuple[int, ...]
    embedding_bytes: int
    head_bytes: int
    kv_bytes_per_token: int
    hidden_size: int
    shared_bytes: int = 0

    def __post_init__(self) -> None:
        sizes = (self.embedding_bytes, self.head_bytes, self.kv_bytes_per_token)
        if not self.layers or min(self.layers) <= 0 or min(sizes) < 0 or self.hidden_size < 1:
            raise PlacementInputError(
                "a model needs at least one layer, layers of at least one byte, no negative size "
                "and a hidden size of at least 1"
            )
        if not 0 <= self.shared_bytes <= min(self.embedding_bytes, self.head_bytes):
            raise PlacementInputError(
                f"shared_bytes is {self.shared_bytes}; it is at most the smaller of embedding and "
                "head"
            )

    @cached_property
    def layer_weights(self) -> tuple[float, ...]:
        """How many mean layers each layer counts for: decode waits for reading the weights."""
        mean = sum(self.layers) / len(self.layers)
        return tuple(size / mean for size in self.layers)

    def weight_bytes(self, first: int, last: int) -> int:
        """Bytes of a slice of the layers `first` to `last`, both included, with its ends."""
        has_embedding = first == 0
        has_head = last == len(self.layers) - 1
        return (
            sum(self.layers[first : last + 1])
            + has_embedding * self.embedding_bytes
            + has_head * self.head_bytes
            - (has_embedding and has_head) * self.shared_bytes
        )


@dataclass(frozen=True, slots=True)
class NodeOffer:
    """What one node measured of itself with a slice of this model, and what it offers.

    Attributes:
        node: its id.
        layer_decode_s: seconds of one token through one (mean) layer.
        layer_prefill_s: seconds of one token through one layer within a chunk of many.
        embedding_s: seconds of one token through the embedding.
        head_s: seconds of one token through the head, sampling included.
        memory_bytes: what the node offers for slices, key-value caches and the stage's process,
            those of this model that it already has included.
        domain: what fails together (a machine, a power strip, a room); "" for the node itself.
        reluctance: share by which this node's times are taken for longer when nodes are chosen,
            for one on battery or often away. Predictions stay true.
    """

    node: str
    layer_decode_s: float
    layer_prefill_s: float
    embedding_s: float
    head_s: float
    memory_bytes: int
    domain: str = ""
    reluctance: float = 0.0

    def __post_init__(self) -> None:
        if not self.node:
            raise PlacementInputError("a node needs an id")
        _at_least_zero(
            self.node,
            layer_decode_s=self.layer_decode_s,
            layer_prefill_s=self.layer_prefill_s,
            embedding_s=self.embedding_s,
            head_s=self.head_s,
            memory_bytes=self.memory_bytes,
            reluctance=self.reluctance,
        )
        if self.layer_decode_s == 0 or self.layer_prefill_s == 0:
            raise PlacementInputError(f"{self.node}: a layer takes more than no time; measure it")

    @property
    def usable_bytes(self) -> int:
        """What is left for slices and key-value caches."""
        return max(0, self.memory_bytes - STAGE_OVERHEAD_BYTES)

    @property
    def failure_domain(self) -> str:
        """What fails together with this node."""
        return self.domain or f"node {self.node}"


@dataclass(frozen=True, slots=True)
class Links:
    """Round-trip times and speeds between nodes.

    Attributes:
        broker_ms: milliseconds in which a message of a node is back at it through the broker. A
            hop between two nodes takes half of each.
        direct_ms: round trip between two nodes that have a link past the broker, either order.
        bytes_per_s: speed of a node's connection, the slower direction.
        default_ms: for a node that is not in `broker_ms`.
        default_bytes_per_s: for a node that is not in `bytes_per_s`.
    """

    broker_ms: Mapping[str, float] = field(default_factory=dict)
    direct_ms: Mapping[tuple[str, str], float] = field(default_factory=dict)
    bytes_per_s: Mapping[str, float] = field(default_factory=dict)
    default_ms: float = 1.0
    default_bytes_per_s: float = 100e6

    def __post_init__(self) -> None:
        for name, values in (
            ("broker_ms", self.broker_ms.values()),
            ("direct_ms", self.direct_ms.values()),
            ("bytes_per_s", self.bytes_per_s.values()),
            ("defaults", (self.default_ms, self.default_bytes_per_s)),
        ):
            _at_least_zero("links", **{f"{name}": min(values, default=0.0)})
            if not all(isfinite(value) for value in values):
                raise PlacementInputError(f"links: {name} must be finite numbers")
        if min((*self.bytes_per_s.values(), self.default_bytes_per_s)) <= 0:
            raise PlacementInputError("links: a speed is more than 0 bytes a second")

    def hop_s(self, sender: str, receiver: str, size_bytes: int) -> float:
        """Seconds from the send on one node to the receipt on another; 0 within one node."""
        if sender == receiver:
            return 0.0
        direct = self._direct(sender, receiver)
        if direct is not None:
            return direct / 2000 + self.transfer_s(sender, receiver, size_bytes)
        halves = self.broker_ms.get(sender, self.default_ms) + self.broker_ms.get(
            receiver, self.default_ms
        )
        return halves / 2000 + size_bytes / self._speed(sender) + size_bytes / self._speed(receiver)

    def transfer_s(self, sender: str, receiver: str, size_bytes: int) -> float:
        """Seconds that a message keeps the slower of both connections busy."""
        if sender == receiver:
            return 0.0
        return size_bytes / min(self._speed(sender), self._speed(receiver))

    def _direct(self, one: str, other: str) -> float | None:
        return self.direct_ms.get((one, other), self.direct_ms.get((other, one)))

    def _speed(self, node: str) -> float:
        return self.bytes_per_s.get(node, self.default_bytes_per_s)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the pipeline is for.

    Attributes:
        context_tokens: room for tokens in each session's key-value cache.
        sessions: how many sessions have a cache, and run at once.
        copies: how often each slice is kept: 2 for one replica.
        objective: what is minimised.
        pinned: nodes that must take part, even if they slow the ring down.
        excluded: nodes that must not.
        value_bytes: of one hidden value on the wire: 4 (exact) or 2.
    """

    context_tokens: int = 2048
    sessions: int = 1
    copies: int = 1
    objective: Objective = Objective.LATENCY
    pinned: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()
    value_bytes: int = 4

    def __post_init__(self) -> None:
        if min(self.context_tokens, self.sessions, self.copies, self.value_bytes) < 1:
            raise PlacementInputError(
                "context_tokens, sessions, copies and value_bytes are at least 1"
            )
        both = self.pinned & self.excluded
        if both:
            raise PlacementInputError(
                f"{', '.join(sorted(both))}: both pinned and excluded; choose one"
            )

    @property
    def sessions_that_count(self) -> int:
        """How many sessions the objective thinks of."""
        return self.sessions if self.objective is Objective.THROUGHPUT else 1

    def kv_bytes(self, shape: ModelShape) -> int:
        """Key-value caches of one layer."""
        return shape.kv_bytes_per_token * self.context_tokens * self.sessions

    def hop_bytes(self, shape: ModelShape) -> int:
        """Size of a message that carries one token's hidden values."""
        return shape.hidden_size * self.value_bytes + MESSAGE_BYTES


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of layers on a node.

    Attributes:
        node: its id.
        first_layer: counted from 0.
        last_layer: included.
        with_embedding: takes tokens.
        with_head: gives tokens.
        weight_bytes: of the slice.
        kv_bytes: of the key-value caches.
        predicted_ms: milliseconds for one token, without hops.
    """

    node: str
    first_layer: int
    last_layer: int
    with_embedding: bool
    with_head: bool
    weight_bytes: int
    kv_bytes: int
    predicted_ms: float

    @property
    def size_bytes(self) -> int:
        """Weights and caches."""
        return self.weight_bytes + self.kv_bytes


@dataclass(frozen=True, slots=True)
class Replica:
    """A second copy of a stage's slice, with room for its caches.

    Attributes:
        node: who keeps it.
        stage: place in `Plan.stages`.
        size_bytes: weights and caches.
        other_domain: whether it survives what takes the stage's failure domain away.
    """

    node: str
    stage: int
    size_bytes: int
    other_domain: bool


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a ring is expected to give.

    Attributes:
        token_ms: one token around the ring, stages and hops (T).
        hops_ms: the hops' part of it.
        slowest_ms: the slowest node or link for one token (S).
        tokens_per_s: of one session.
        all_tokens_per_s: of as many sessions as wished, together.
        prefill_tokens_per_s: of a long prompt, chunks overlapping from stage to stage.
        cost_ms: what the objective minimises.
    """

    token_ms: float
    hops_ms: float
    slowest_ms: float
    tokens_per_s: float
    all_tokens_per_s: float
    prefill_tokens_per_s: float
    cost_ms: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a model's layers go, and why.

    Attributes:
        stages: in the order of the layers. After a loss a node may have two of them.
        replicas: further copies of stages.
        prediction: what the plan gives.
        best_single: the best node that could hold the model alone and what it would give; None if
            there is none.
        explanation: lines for a person; empty unless asked for.
        notes: wishes that could not be met.
        shape: of the model.
        offers: of all nodes that were considered.
        links: between them.
        wish: what was asked.
    """

    stages: tuple[Stage, ...]
    replicas: tuple[Replica, ...]
    prediction: Prediction
    best_single: tuple[str, Prediction] | None
    explanation: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    shape: ModelShape = field(kw_only=True, repr=False)
    offers: tuple[NodeOffer, ...] = field(kw_only=True, repr=False)
    links: Links = field(kw_only=True, repr=False)
    wish: Wish = field(kw_only=True, repr=False)

    @property
    def nodes(self) -> frozenset[str]:
        """Nodes that have a stage."""
        return frozenset(stage.node for stage in self.stages)


def by_id(offers: Iterable[NodeOffer]) -> dict[str, NodeOffer]:
    """Offers by their node.

    Raises:
        PlacementInputError: two offers are of one node.
    """
    found: dict[str, NodeOffer] = {}
    for offer in offers:
        if offer.node in found:
            raise PlacementInputError(f"{offer.node} offers twice; give one offer a node")
        found[offer.node] = offer
    return found


def _at_least_zero(owner: str, **values: float) -> None:
    for name, value in values.items():
        if not (isfinite(value) and value >= 0):
            raise PlacementInputError(f"{owner}: {name} is {value}; it is a number from 0 upwards")
