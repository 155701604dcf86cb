"""Looks over a coordinator's shoulder: what it may never do with what it hears."""

from collections.abc import Mapping, Sequence

from maille_coordinator.core import Core
from maille_coordinator.core.actions import Action, Report, SendOffers, Write
from maille_coordinator.core.events import NodeSpoke
from maille_coordinator.records import NodeWish, TaskEnd
from maille_protocol import (
    ErrorCode,
    Heartbeat,
    NodeState,
    OutcomeStatus,
    Results,
)
from maille_protocol.limits import NODE_LOST_AFTER_MS
from maille_simulator.virtual.violation import Violation

UNREAD_MS = 700.0
"""What has just arrived may be unread yet; this long, and the process stood still."""

Before = tuple[str, tuple[tuple[bytes, int], ...]]
_NOTHING: Before = ("", ())


class CoordinatorWatch:
    """Keeps its own account of what nodes said, and compares it with what the core does."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._arrived: dict[tuple[str, int], float] = {}
        self._taken: dict[tuple[str, int], float] = {}

    def arrived(self, node: str, boot: int, now_ms: float) -> None:
        """A message of a node, no will and not retained, lies before the coordinator."""
        self._arrived[node, boot] = now_ms

    def before(self, event: NodeSpoke) -> Before:
        """To be given to `after`: what of this message must hold when the core has taken it."""
        envelope = event.envelope
        message = envelope.message
        if event.retained:
            return _NOTHING
        arrived_ms = self._arrived.get((event.node, envelope.boot))
        if arrived_ms is not None:
            self._taken[event.node, envelope.boot] = arrived_ms
        if isinstance(message, Results):
            epoch = self._core.epoch
            fresh = {one.task_id for one in message.results if one.epoch == epoch}
            stale = tuple(
                (one.task_id, one.attempt)
                for one in message.results
                if one.epoch != epoch and one.task_id not in fresh
            )
            return ("stale", stale) if stale else _NOTHING
        if isinstance(message, Heartbeat) and message.held:
            record = self._core.registry.get(event.node)
            if record is None or record.boot != event.envelope.boot:
                return _NOTHING
            outstanding = record.outstanding
            held = tuple(
                (task_id, attempt)
                for task_id, attempt in message.held
                if task_id in outstanding and outstanding[task_id].attempt == attempt
            )
            return ("held", held) if held else _NOTHING
        return _NOTHING

    def after(self, event: NodeSpoke, before: Before, actions: Sequence[Action]) -> None:
        """Violation if the core did what this message does not allow."""
        what, attempts = before
        if what == "stale":
            wrong = {task_id for task_id, _ in attempts}
            for action in actions:
                if not isinstance(action, Write) or not isinstance(action.record, TaskEnd):
                    continue
                end = action.record
                if end.task_id in wrong and end.status is not OutcomeStatus.EXPIRED:
                    text = f"{event.node}'s result of an older epoch ended {end.task_id.hex()}"
                    raise Violation("no older epoch takes effect", text)
        elif what == "held":
            tasks = self._core.tasks
            for task_id, attempt in attempts:
                task = tasks.get(task_id)
                if task is None or not task.history:
                    continue
                last = task.history[-1]
                if last.attempt == attempt and last.code is ErrorCode.LEASE_EXPIRED:
                    text = f"{event.node} holds {task_id.hex()} and says so, yet its lease ended"
                    raise Violation("a held task keeps its lease", text)

    def reports(self, actions: Sequence[Action], now_ms: float) -> None:
        """Violation if a node is listed as lost for silence though it has just spoken."""
        for action in actions:
            if isinstance(action, Report) and action.event.kind == "node.lost":
                node = action.event.subject
                record = self._core.registry.get(node)
                if record is None or not action.event.text.startswith("silent"):
                    continue
                key = node, record.boot
                silent_ms = now_ms - self._taken.get(key, -1e12)
                unread_ms = now_ms - self._arrived.get(key, -1e12)
                if silent_ms < NODE_LOST_AFTER_MS - 1 or (
                    UNREAD_MS < unread_ms < NODE_LOST_AFTER_MS - 1
                ):
                    text = f"{node} was heard {unread_ms:.0f} ms ago"
                    raise Violation("no node is lost while it answers", text)

    def check_offers(self, actions: Sequence[Action], wishes: Mapping[str, bool]) -> None:
        """Violation if a node gets work that a person has drained, by the journal's word."""
        writes = [action.record for action in actions if isinstance(action, Write)]
        changed = {one.node for one in writes if isinstance(one, NodeWish)}
        for action in actions:
            if (
                isinstance(action, SendOffers)
                and wishes.get(action.node)
                and action.node not in changed
            ):
                text = f"{action.node} is offered {len(action.offers)} tasks"
                raise Violation("a drained node gets no work", text)

    def broken(self, text: str) -> None:
        """Raise that the core contradicts itself."""
        raise Violation("the core agrees with itself", text)

    def check_answering(self, answering: dict[str, int]) -> None:
        """Violation unless these nodes (by id, with their boot) are ready and hold nothing."""
        for node, boot in answering.items():
            record = self._core.registry.get(node)
            if record is None or record.boot != boot or record.state is not NodeState.READY:
                state = "unknown" if record is None else record.state.name
                text = f"{node} answers in calm weather but is {state}"
                raise Violation("no node is lost while it answers", text)
            if record.outstanding:
                text = f"{node} is thought to hold {len(record.outstanding)} tasks, all have ended"
                raise Violation("slots are respected", text)

    def check_memory(self) -> None:
        """Violation if the core keeps more than its nodes and limits allow."""
        sizes = self._core.sizes()
        nodes, limits = len(self._core.registry), self._core.limits
        bounds = {
            "tasks": limits.max_open_tasks,
            "ended": limits.remembered_ids,
            # One silence check a node, one bucket a second of deadlines, a few circuit breakers.
            "timers": 8 * nodes + 2 * sizes["tasks"] + sizes["deadline_seconds"] + 64,
            "queued": 2 * limits.max_open_tasks,
        }
        for name, bound in bounds.items():
            if sizes[name] > bound:
                text = f"{sizes[name]} {name}, at most {bound} are allowed"
                raise Violation("the core's memory is bounded", text)
