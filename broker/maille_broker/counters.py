"""What one link counts: nothing is lost without a number that says so."""

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class LinkCounters:
    """Totals since the link was made.

    Attributes:
        connects: connections that came up (subscriptions confirmed).
        drops: connections that were up and got lost.
        failed_attempts: tries that never came up.
        refused: logins or subscriptions that the broker refused.
        sent, sent_bytes: publishes handed to the connection, and their payload bytes.
        publishes_dropped: publishes refused because the link was down or its queue full.
        unacknowledged: QoS 1 publishes that were open when their connection was lost; they may
            or may not have arrived and are not sent again.
        received, received_bytes: messages handed to the handler, and their payload bytes.
        received_dropped: messages beyond the bound that came before the subscription was confirmed.
        oversized: received publishes above the limit, skipped.
        malformed: connections given up because the bytes were not MQTT.
        handler_errors: exceptions of the handlers given to the link.
    """

    connects: int = 0
    drops: int = 0
    failed_attempts: int = 0
    refused: int = 0
    sent: int = 0
    sent_bytes: int = 0
    publishes_dropped: int = 0
    unacknowledged: int = 0
    received: int = 0
    received_bytes: int = 0
    received_dropped: int = 0
    oversized: int = 0
    malformed: int = 0
    handler_errors: int = 0

    def to_dict(self) -> dict[str, int]:
        """All counters by name."""
        return asdict(self)
