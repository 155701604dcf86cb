"""Carries out what the core of tasks wants: journal first, then publishes joined per receiver."""

import logging
from collections.abc import Callable, Sequence

from maille_coordinator.acceptances import Acceptances
from maille_coordinator.core import outcome_of
from maille_coordinator.core.actions import (
    Accept,
    Action,
    ClearRetained,
    NeedModel,
    Report,
    SendOffers,
    SendToNode,
    Tell,
    TellFromJournal,
    WakeAt,
    Write,
)
from maille_coordinator.core.registry import Registry
from maille_coordinator.packing import split_offers, split_outcomes
from maille_coordinator.records import MeshEvent, TaskEnd
from maille_coordinator.store import Store
from maille_coordinator.waiters import Waiters
from maille_coordinator.wire import Wire
from maille_protocol import (
    ErrorCode,
    ModelReference,
    Offer,
    Offers,
    Outcome,
    Outcomes,
    OutcomeStatus,
    TaskFlag,
    topics,
)
from maille_protocol.limits import (
    MAX_ITEMS_PER_MESSAGE,
    MAX_MICROCONTROLLER_PUBLISH_BYTES,
    MAX_PUBLISH_BYTES,
)

logger = logging.getLogger(__name__)

LOCAL_CLIENT = "http"
"""Client id of tasks that come in through the HTTP API; it has no topics."""


class Effects:
    """The hands of the coordinator."""

    def __init__(
        self,
        *,
        store: Store,
        wire: Wire,
        waiters: Waiters,
        acceptances: Acceptances,
        registry: Registry,
        publish: Callable[[MeshEvent], None],
        wake_at: Callable[[float], None],
    ) -> None:
        self._store = store
        self._wire = wire
        self._waiters = waiters
        self._acceptances = acceptances
        self._registry = registry
        self._publish = publish
        self._wake_at = wake_at

    def carry_out(self, actions: Sequence[Action]) -> list[NeedModel]:
        """Do what the core wants, in order; returns the models that tasks wait for. StoreError."""
        # An offer promises nothing to anyone: nodes may begin while the disk is written. Only
        # what must never run twice waits for its mark in the journal.
        self._send_offers(actions, marked=False)
        records = [action.record for action in actions if isinstance(action, Write)]
        if records:
            self._store.commit(records)
        self._send_offers(actions, marked=True)
        outcomes: dict[str, list[Outcome]] = {}
        needs: list[NeedModel] = []
        for action in actions:
            match action:
                case Write(record):
                    if isinstance(record, TaskEnd):
                        self._waiters.ended(record)
                case SendOffers():
                    pass  # sent above
                case Tell(client, outcome):
                    outcomes.setdefault(client, []).append(outcome)
                case Accept(client, batch, task_ids):
                    if client != LOCAL_CLIENT:
                        self._acceptances.add(client, batch, task_ids)
                case NeedModel():
                    needs.append(action)
                case SendToNode(node, message):
                    topic = (
                        topics.NODE_CONTROL
                        if message.TYPE is topics.NODE_CONTROL.message
                        else topics.NODE_CANCEL
                    )
                    self._wire.send(topic, node, message)
                case TellFromJournal(client, task_ids):
                    outcomes.setdefault(client, []).extend(map(self._from_journal, task_ids))
                case ClearRetained(node):
                    self._wire.clear(topics.NODE_STATE, node)
                    self._wire.clear(topics.NODE_INFO, node)
                case Report(event):
                    self._log(event)
                    self._publish(event)
                case WakeAt(at_ms):
                    self._wake_at(at_ms)
        for client, all_outcomes in outcomes.items():
            if client == LOCAL_CLIENT:
                self._waiters.told(all_outcomes)
                continue
            for told in split_outcomes(all_outcomes):
                self._wire.send(topics.CLIENT_OUTCOME, client, Outcomes(told))
        return needs

    def _send_offers(self, actions: Sequence[Action], *, marked: bool) -> None:
        """Send offers, joined by node and model: those of at-most-once tasks, or the others."""
        joined: dict[tuple[str, ModelReference], list[Offer]] = {}
        for action in actions:
            if isinstance(action, SendOffers):
                chosen = [
                    offer
                    for offer in action.offers
                    if bool(offer.flags & TaskFlag.AT_MOST_ONCE) is marked
                ]
                if chosen:
                    joined.setdefault((action.node, action.model), []).extend(chosen)
        for (node, model), offers in joined.items():
            for group in split_offers(offers, self._limit_of(node), self._most_offers(node)):
                self._wire.send(topics.NODE_TASK, node, Offers(model, group))

    def _limit_of(self, node: str) -> int:
        record = self._registry.get(node)
        if record is None or record.info is None:
            return MAX_MICROCONTROLLER_PUBLISH_BYTES
        return min(MAX_PUBLISH_BYTES, record.info.max_message_bytes)

    def _most_offers(self, node: str) -> int:
        record = self._registry.get(node)
        return 1 if record is not None and record.is_board else MAX_ITEMS_PER_MESSAGE

    def _from_journal(self, task_id: bytes) -> Outcome:
        end = self._store.end(task_id)
        if end is not None:
            return outcome_of(end)
        return Outcome(task_id, OutcomeStatus.UNKNOWN, ErrorCode.NONE, b"", "", 0, 0, 0)

    def _log(self, event: MeshEvent) -> None:
        level = (
            logging.WARNING if event.kind.endswith(("lost", "duplicate", "dead")) else logging.INFO
        )
        logger.log(level, "%s %s %s", event.kind, event.subject, event.text)
