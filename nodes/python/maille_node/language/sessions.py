"""The sessions of one stage: their work in order, and the choice of what is computed next."""

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field, replace

from maille_node.language.choosing import Answer
from maille_node.language.history import History
from maille_node.language.parts import Joiner
from maille_node.language.stage_events import SliceFacts
from maille_node.language.turns import Turns
from maille_node.language.waiting import Sent
from maille_protocol import ActivationFlag, Reference, SessionOrder

MAX_ACTIVATION_POSITIONS = 256
"""More are not taken in one activation."""

_QUEUE_SLACK_BYTES = 1 << 20
MAX_AHEAD = 1024
"""So many works of one session may wait for what belongs before them."""
_VALUE_BYTES = 4


@dataclass(frozen=True, slots=True)
class Work:
    """Positions that wait to be computed."""

    layout: int
    position: int
    count: int
    data: bytes
    """`count` tokens or rows of hidden values."""
    flags: int
    until: int
    order: int
    """Of arrival, over all sessions of the stage."""
    since_ms: float
    ring: bool = False
    """Came from the last stage, not from the coordinator."""

    @property
    def replay(self) -> bool:
        """Whether it only fills caches."""
        return bool(self.flags & ActivationFlag.REPLAY)

    @property
    def decode(self) -> bool:
        """Whether somebody waits for the token that comes of it."""
        return self.count == 1 and not self.replay

    @property
    def samples(self) -> bool:
        """Whether it ends with a token that is chosen."""
        return bool(self.flags & ActivationFlag.SAMPLE) and not self.replay

    def cut(self, count: int) -> "tuple[Work, Work | None]":
        """The first `count` positions, and the rest if there is one; only the rest samples."""
        if self.count <= count:
            return self, None
        size_bytes = len(self.data) // self.count * count
        first = replace(
            self,
            count=count,
            data=self.data[:size_bytes],
            flags=self.flags & ~ActivationFlag.SAMPLE,
        )
        rest = replace(
            self,
            position=self.position + count,
            count=self.count - count,
            data=self.data[size_bytes:],
        )
        return first, rest


@dataclass(slots=True)
class Resend:
    """History that waits to be sent on again."""

    layout: int
    position: int
    until: int


@dataclass(slots=True, eq=False)
class Session:
    """One generation on one stage."""

    number: int
    cache: int
    """Number of its cache, never used again."""
    capacity: int
    touched_ms: float
    opened: SessionOrder
    sent: Sent
    """Of the last OPEN."""
    answer: Answer | None = None
    """On the last stage."""
    length: int = 0
    """Positions in the cache."""
    queue: deque[Work | Resend] = field(default_factory=deque)
    queued_bytes: int = 0
    """Of what waits in the queue and ahead of it."""
    ahead: list[Work] = field(default_factory=list)
    """Came before what belongs before it."""
    history: History = field(default_factory=History)
    joiner: Joiner = field(default_factory=Joiner)
    gap_ms: float = -math.inf
    """When a gap was last reported."""
    awaited: int | None = None
    """The coordinator wants to hear when so many positions are in the cache."""
    closed: bool = False

    def add(self, work: Work, row_bytes: int) -> bool:
        """Queue a work; False if that is more than any correct sender has under way."""
        if not self._has_room(work, row_bytes):
            return False
        self.queue.append(work)
        self.queued_bytes += len(work.data)
        return True

    def hold(self, work: Work, row_bytes: int) -> None:
        """Let a work wait for the positions before it, if there is room: messages overtake."""
        if len(self.ahead) < MAX_AHEAD and self._has_room(work, row_bytes):
            self.ahead.append(work)
            self.queued_bytes += len(work.data)

    def join_ahead(self) -> None:
        """Queue what has waited for positions that are here now, before all else."""
        ready = [work for work in self.ahead if work.position <= self.length]
        if not ready:
            return
        self.ahead = [work for work in self.ahead if work.position > self.length]
        # What fills caches first: the step that samples is to see all of it.
        ready.sort(key=lambda work: (work.position, not work.replay, work.order))
        self.queue.extendleft(reversed(ready))

    def _has_room(self, work: Work, row_bytes: int) -> bool:
        limit = 2 * self.capacity * row_bytes + _QUEUE_SLACK_BYTES
        return self.queued_bytes + len(work.data) <= limit

    @property
    def next_work(self) -> Work | None:
        """The work at the head; None if there is none, or history is sent first."""
        head = self.queue[0] if self.queue else None
        return head if isinstance(head, Work) else None

    def take(self, most: int) -> Work | None:
        """The next step of the work at the head, of so many positions at most."""
        head = self.next_work
        if head is None:
            return None
        step, rest = head.cut(most)
        if rest is None:
            self.queue.popleft()
        else:
            self.queue[0] = rest
        self.queued_bytes -= len(step.data)
        return step

    def drop_queue(self) -> int:
        """Forget what waits; how much that was."""
        count = len(self.queue) + len(self.ahead)
        self.queue.clear()
        self.ahead.clear()
        self.queued_bytes = 0
        self.joiner.clear()
        return count


@dataclass(slots=True, eq=False)
class Running:
    """The step that a stage computes now."""

    job: int
    session: Session
    step: Work
    began_ms: float


@dataclass(slots=True, eq=False)
class HeldStage:
    """A slice as one stage of one pipeline."""

    pipeline: int
    stage: int
    reference: Reference
    cache_limit_bytes: int
    nonce: int
    sent: Sent
    """Of the last order to load it."""
    facts: SliceFacts | None = None
    """None while it loads."""
    sessions: dict[int, Session] = field(default_factory=dict)
    kept: OrderedDict[int, Session] = field(default_factory=OrderedDict)
    """Those that are over and whose caches others may begin with, the longest unused first."""
    running: Running | None = None
    turns: Turns = field(default_factory=Turns)

    def row_bytes(self, facts: SliceFacts) -> int:
        """Of one position as it comes in."""
        return _VALUE_BYTES if facts.with_embedding else _VALUE_BYTES * facts.hidden_size

    def session_bytes(self, facts: SliceFacts, capacity: int) -> int:
        """What a session takes when it is full: keys, values, and what was sent on."""
        history = 0 if facts.with_head else _VALUE_BYTES * facts.hidden_size
        return facts.cache_bytes * (capacity + 1) + history * capacity

    def reserved_bytes(self) -> int:
        """What the open sessions take when they are full, and what those that are kept take."""
        facts = self.facts
        if facts is None:
            return 0
        opened = sum(self.session_bytes(facts, found.capacity) for found in self.sessions.values())
        return opened + self.kept_bytes(facts)

    def kept_bytes(self, facts: SliceFacts) -> int:
        """What is kept for others to begin with."""
        return sum(self.session_bytes(facts, found.length) for found in self.kept.values())

    def filled_bytes(self) -> int:
        """What the open sessions take now, without what waits."""
        facts = self.facts
        if facts is None:
            return 0
        filled = sum(self.session_bytes(facts, found.length) for found in self.sessions.values())
        return filled + self.kept_bytes(facts)
