"""What a node says: numbered envelopes, births and heartbeats, and the list of actions."""

import logging
import statistics
from collections import deque
from collections.abc import Callable, Collection, Iterable

from maille_node import events
from maille_node.events import Action
from maille_node.work import Held, Stage
from maille_protocol import (
    BoardState,
    Heartbeat,
    Message,
    NodeInfo,
    NodeState,
    NodeStatus,
    Result,
    pack,
    topics,
)
from maille_protocol.limits import HEARTBEAT_INTERVAL_MS, MAX_TEXT_CHARACTERS, WARM_MODEL_BYTES
from maille_protocol.topics import Topic

HEARTBEAT_JITTER = 0.1
MAX_HEARTBEAT_WARM = 64
MAX_HEARTBEAT_HELD = 1_600
"""So many attempts fit into one publish."""

_RECENT_RUNS = 63


class Voice:
    """Collects actions; gives every message of this process its number.

    Args:
        info: the node's capabilities.
        boot: random and not 0, drawn when the process starts.
        jitter: gives numbers from -1 to 1 that spread heartbeats.
        now_ms: the time of the start.
    """

    def __init__(
        self, info: NodeInfo, boot: int, *, jitter: Callable[[], float], now_ms: float
    ) -> None:
        self.info = info
        self.boot = boot
        self.epoch = 0
        """The newest epoch obeyed; stands in every envelope."""
        self.up = False
        """Whether the broker hears us."""
        self.heartbeat_at_ms = now_ms
        self.battery_percent: int | None = None
        self.board: BoardState | None = None
        """What a board has; said after its info."""
        self._jitter = jitter
        self._started_ms = now_ms
        self._seq = 0
        self._recent_us: deque[int] = deque(maxlen=_RECENT_RUNS)
        self._actions: list[Action] = []

    def do(self, action: Action) -> None:
        """Want something done, after all that was wanted before."""
        self._actions.append(action)

    def note(self, level: int, text: str) -> None:
        """Want a line in the log."""
        self.do(events.Note(level, text))

    def warn(self, text: str) -> None:
        """Want a warning in the log."""
        self.note(logging.WARNING, text)

    def taken(self) -> list[Action]:
        """All that is wanted, once."""
        actions, self._actions = self._actions, []
        return actions

    def has_run(self, run_us: int) -> None:
        """Take the time of one run into the heartbeats' median."""
        self._recent_us.append(run_us)

    def will(self) -> bytes:
        """What the broker is to publish on the state topic when the node vanishes."""
        status = NodeStatus(NodeState.LOST, "the connection broke")
        return pack(status, boot=self.boot, seq=0, epoch=0)

    def publish(self, topic: Topic, message: Message, results: tuple[Result, ...] = ()) -> None:
        """Want a message sent; only while `up`."""
        self._seq += 1
        payload = pack(message, boot=self.boot, seq=self._seq, epoch=self.epoch)
        self.do(events.Publish(topic, payload, results))

    def say_state(self, state: NodeState, reason: str) -> None:
        """Publish a change of state, if anyone hears it."""
        if self.up:
            self.publish(topics.NODE_STATE, NodeStatus(state, reason[:MAX_TEXT_CHARACTERS]))

    def birth(
        self, state: NodeState, held: Collection[Held], warm: Iterable[bytes], now_ms: float
    ) -> None:
        """Say everything anew: INIT, capabilities, all that is held, then `state`."""
        self.publish(topics.NODE_STATE, NodeStatus(NodeState.INIT))
        self.publish(topics.NODE_INFO, self.info)
        if self.board is not None:
            self.publish(topics.NODE_BOARD, self.board)
        self.heartbeat(held, warm, now_ms, everything=True)
        self.say_state(state, "")

    def heartbeat(
        self,
        held: Collection[Held],
        warm: Iterable[bytes],
        now_ms: float,
        *,
        everything: bool = False,
    ) -> None:
        """Send a heartbeat if anyone hears it, and ask to be woken for the next.

        Args:
            held: all tasks; named are those held for half an interval, or with `everything` all.
            warm: SHA-256 of the models in memory, the newest last.
            now_ms: the time.
            everything: see `held`.
        """
        interval_ms = HEARTBEAT_INTERVAL_MS * (1 + HEARTBEAT_JITTER * self._jitter())
        self.heartbeat_at_ms = now_ms + interval_ms
        self.do(events.WakeAt(self.heartbeat_at_ms))
        if not self.up:
            return
        since_ms = now_ms if everything else now_ms - HEARTBEAT_INTERVAL_MS / 2
        running = sum(task.stage is Stage.RUNNING for task in held)
        named = [(task.task_id, task.attempt) for task in held if task.accepted_ms <= since_ms]
        self.publish(
            topics.NODE_HEARTBEAT,
            Heartbeat(
                max(0, round(now_ms - self._started_ms)),
                running,
                len(held) - running,
                round(statistics.median(self._recent_us)) if self._recent_us else 0,
                self.battery_percent,
                tuple([sha256[:WARM_MODEL_BYTES] for sha256 in warm][-MAX_HEARTBEAT_WARM:]),
                tuple(named[:MAX_HEARTBEAT_HELD]),
            ),
        )
