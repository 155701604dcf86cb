"""Who is there: births, wills, silence, sequence gaps, and two devices with one id.

A will or a retained message proves nothing by itself: a will counts only if its boot number is
the one that was born last, a retained birth only once something live was heard from that boot.
The coordinator's own timer is the truth; wills only make it faster.
"""

from dataclasses import dataclass, field

from maille_coordinator.core.actions import Action, Report, SendToNode, Write
from maille_coordinator.core.counters import Counters
from maille_coordinator.core.registry import NodeRecord, Registry
from maille_coordinator.records import MeshEvent, NodeWish
from maille_protocol import (
    PRESENCE_TRANSITIONS,
    Control,
    ControlOrder,
    Envelope,
    Heartbeat,
    NodeInfo,
    NodeState,
    NodeStatus,
    PresenceEvent,
)
from maille_protocol.limits import NODE_LOST_AFTER_MS, NODE_SUSPECT_AFTER_MS

REBIRTH_EVERY_MS = 5000.0
"""A node is asked to announce itself again at most this often."""

WISH_SETTLES_MS = 5000.0
"""A node that is READY so long after it was taken back has overcome any order to drain."""

FRESH_MESSAGES_OF_A_TWIN = 2
"""New messages of a replaced process that show that it still runs: two devices share an id."""

MAX_NODES = 50_000
"""Beyond this, messages of unknown nodes are counted and dropped, whatever they claim."""

_BIRTH_MESSAGES = 2
"""Between the INIT of a birth and the state that ends it: capabilities and a heartbeat.

A board says its own state as well.
"""

_EVENT_OF_STATE = {
    NodeState.INIT: PresenceEvent.BORN,
    NodeState.READY: PresenceEvent.READY,
    NodeState.DRAINING: PresenceEvent.DRAINS,
    NodeState.SLEEPING: PresenceEvent.SLEEPS,
    NodeState.DISCONNECTED: PresenceEvent.LEFT,
    NodeState.LOST: PresenceEvent.WILL,
}


@dataclass(slots=True)
class Heard:
    """What hearing a message led to."""

    record: NodeRecord | None
    accepted: bool = False
    """Whether the message is to be acted on."""
    lost_reason: str | None = None
    """Why attempts that were on the node are lost, if they are."""
    actions: list[Action] = field(default_factory=list)


class Presence:
    """Keeps the registry's presence fields."""

    def __init__(self, registry: Registry, counters: Counters) -> None:
        self._registry = registry
        self._counters = counters

    def hear(self, node: str, envelope: Envelope, retained: bool, now_ms: float) -> Heard:
        """Take note of a message."""
        message = envelope.message
        record = self._registry.get(node)
        if record is None:
            if len(self._registry) >= MAX_NODES:
                self._counters.messages_unannounced += 1
                return Heard(None)
            record = self._registry.add(node)
            record.wish_since_ms = now_ms
        heard = Heard(record)
        if isinstance(message, NodeStatus) and envelope.seq == 0:
            self._will(heard, record, envelope.boot, message, retained, now_ms)
            return heard
        if envelope.boot != record.boot and not self._other_boot(
            heard, record, envelope, retained, now_ms
        ):
            return heard
        self._count_gap(record, envelope, retained)
        if not retained:
            if not (record.confirmed or record.state is NodeState.READY) and not isinstance(
                message, NodeStatus
            ):
                # What the broker kept may be old; a birth says it anew.
                record.missed_seq = max(record.missed_seq, envelope.seq - 1)
            record.last_heard_ms = now_ms
            record.suspect = False
            record.confirmed = True
        match message:
            case NodeStatus():
                if envelope.seq >= record.last_state_seq:
                    record.last_state_seq = envelope.seq
                    event = _EVENT_OF_STATE[message.state]
                    # A late one says nothing of what was missed after it.
                    if message.state is not NodeState.INIT and envelope.seq >= record.missed_seq:
                        record.missed_seq = 0
                    self._move(heard, record, event, message.reason, now_ms)
            case NodeInfo():
                record.info = message
            case Heartbeat():
                record.running = message.running
                record.queued = message.queued
                record.latency_us = message.latency_us
                record.battery_percent = message.battery_percent
                record.warm = frozenset(message.warm)
                if (
                    record.state is NodeState.INIT
                    and not record.incomplete
                    and envelope.seq > record.last_state_seq + _BIRTH_MESSAGES + record.is_board
                ):
                    record.missed_seq = envelope.seq - 1
                if not record.alive and not retained:
                    # It was silent for too long, but here it is: take it back, and let it say
                    # whether it is ready.
                    record.missed_seq = max(record.missed_seq, envelope.seq - 1)
                    self._move(heard, record, PresenceEvent.HEARD, "heard again", now_ms)
                self._order_again(heard, record, now_ms)
            case _:
                pass
        # A birth says the state, then the capabilities, then what is held: in this order.
        announced = record.info is not None and (
            record.state is not NodeState.INIT or record.last_state_seq > 0
        )
        if not (announced or retained or isinstance(message, NodeStatus | NodeInfo)):
            self._counters.messages_unannounced += 1
            self._ask_rebirth(heard, record, now_ms)
        if record.incomplete and record.alive and not retained:
            # What was lost may have been a change of state; nothing else would say it again.
            self._ask_rebirth(heard, record, now_ms)
        heard.accepted = not retained or isinstance(message, NodeStatus | NodeInfo)
        return heard

    def check_at_ms(self, record: NodeRecord) -> float:
        """When to look at a node again if nothing is heard of it."""
        limit_ms = NODE_LOST_AFTER_MS if record.suspect else NODE_SUSPECT_AFTER_MS
        return record.last_heard_ms + limit_ms

    def check(self, record: NodeRecord, now_ms: float) -> tuple[list[Action], str | None]:
        """Look for silence; returns actions and, if the node is lost, the reason."""
        silent_ms = now_ms - record.last_heard_ms
        heard = Heard(record)
        if silent_ms >= NODE_LOST_AFTER_MS:
            reason = f"silent for {silent_ms / 1000:.1f} s"
            self._move(heard, record, PresenceEvent.SILENT, reason, now_ms)
        elif silent_ms >= NODE_SUSPECT_AFTER_MS:
            record.suspect = True
        return heard.actions, heard.lost_reason

    def _will(
        self,
        heard: Heard,
        record: NodeRecord,
        boot: int,
        message: NodeStatus,
        retained: bool,
        now_ms: float,
    ) -> None:
        if record.boot == 0:
            record.boot = boot
            record.state = NodeState.LOST
            record.reason = message.reason or "lost before this coordinator started"
            record.last_heard_ms = now_ms
        elif boot == record.boot and record.alive and not retained:
            self._move(heard, record, PresenceEvent.WILL, "its connection closed", now_ms)

    def _other_boot(
        self,
        heard: Heard,
        record: NodeRecord,
        envelope: Envelope,
        retained: bool,
        now_ms: float,
    ) -> bool:
        """A message of another process than the present one. Whether to go on with it."""
        boot = envelope.boot
        if boot == record.rejected_boot:
            record.shared_until_ms = now_ms + NODE_LOST_AFTER_MS
            self._refuse_twin(heard, record, boot)
            return False
        retired = record.retired.get(boot)
        if retired is not None:
            if retained or envelope.seq <= retired.last_seq:
                return False  # late, or kept by the broker
            retired.last_seq = envelope.seq
            retired.fresh_messages += 1
            record.shared_until_ms = now_ms + NODE_LOST_AFTER_MS
            if retired.fresh_messages < FRESH_MESSAGES_OF_A_TWIN:
                return False
            # The replaced process still runs: the newcomer has taken its id, and must go.
            self._counters.nodes_duplicate += 1
            record.rejected_boot = record.boot
            self._refuse_twin(heard, record, record.boot)
            text = "two devices use this id; the newcomer was told to stop"
            heard.actions.append(_report("node.duplicate", now_ms, record.node, text))
            heard.lost_reason = text
            del record.retired[boot]
            self._become(record, envelope, now_ms)
            return True
        if retained and record.confirmed:
            return False
        if record.boot and record.alive and record.confirmed:
            heard.lost_reason = "the node started anew"
        if record.boot and record.alive:
            # Nobody has seen it end: until it is known to be silent there may be two.
            record.shared_until_ms = now_ms + NODE_LOST_AFTER_MS
        record.retire_boot()
        self._become(record, envelope, now_ms)
        return True

    def _become(self, record: NodeRecord, envelope: Envelope, now_ms: float) -> None:
        record.boot = envelope.boot
        record.state = NodeState.INIT
        record.reason = ""
        record.last_seq = 0
        record.last_state_seq = 0
        record.last_heard_ms = now_ms
        record.confirmed = False
        record.suspect = False
        record.missed_seq = 0
        record.warm = frozenset()
        record.board = None
        record.running = record.queued = 0
        record.window_closed_until_ms = 0.0

    def _count_gap(self, record: NodeRecord, envelope: Envelope, retained: bool) -> None:
        if retained:
            return
        if record.last_seq and envelope.seq > record.last_seq + 1:
            self._counters.sequence_gaps += 1
            record.missed_seq = envelope.seq - 1
        record.last_seq = max(record.last_seq, envelope.seq)

    def _move(
        self, heard: Heard, record: NodeRecord, event: PresenceEvent, reason: str, now_ms: float
    ) -> None:
        """Change a node's state as the protocol's table says."""
        was_alive = record.alive
        state = PRESENCE_TRANSITIONS[record.state][event]
        if state is not record.state:
            kind = f"node.{state.name.lower()}"
            heard.actions.append(_report(kind, now_ms, record.node, reason))
        record.state = state
        record.reason = reason
        if not record.alive:
            record.suspect = False
            heard.lost_reason = reason
            self._counters.nodes_lost += was_alive and state is NodeState.LOST
        elif state is NodeState.READY and record.drain_wanted:
            record.order_sent_ms = now_ms
            order = ControlOrder(Control.DRAIN, record.boot, "asked by a person")
            heard.actions.append(SendToNode(record.node, order))

    def _order_again(self, heard: Heard, record: NodeRecord, now_ms: float) -> None:
        """Repeat an order to drain or to resume that the node does not seem to have got."""
        if (
            record.resume_wanted
            and record.state is NodeState.READY
            and not record.incomplete
            and now_ms - record.wish_since_ms >= WISH_SETTLES_MS
            # Of two processes with this id the other one may be the one that still drains.
            and now_ms >= record.shared_until_ms
        ):
            record.resume_wanted = False
            self._registry.wishes.pop(record.node, None)
            heard.actions.append(Write(NodeWish(record.node, None)))
        command = None
        if record.drain_wanted and record.state is NodeState.READY:
            command = Control.DRAIN
        elif record.resume_wanted and record.state is NodeState.DRAINING:
            command = Control.RESUME
        if command is not None and now_ms - record.order_sent_ms >= REBIRTH_EVERY_MS:
            record.order_sent_ms = now_ms
            order = ControlOrder(command, record.boot, "asked by a person")
            heard.actions.append(SendToNode(record.node, order))

    def _ask_rebirth(self, heard: Heard, record: NodeRecord, now_ms: float) -> None:
        if now_ms - record.rebirth_asked_ms < REBIRTH_EVERY_MS:
            return
        record.rebirth_asked_ms = now_ms
        order = ControlOrder(Control.REBIRTH, record.boot, "not announced")
        heard.actions.append(SendToNode(record.node, order))

    def _refuse_twin(self, heard: Heard, record: NodeRecord, boot: int) -> None:
        order = ControlOrder(
            Control.STOP_DUPLICATE, boot, f"another device in the mesh is called {record.node}"
        )
        heard.actions.append(SendToNode(record.node, order))


def _report(kind: str, now_ms: float, subject: str, text: str) -> Report:
    return Report(MeshEvent(kind, int(now_ms), subject, text))
