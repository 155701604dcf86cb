"""What a gateway counts on one line."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """What happened on one line, for metrics; only ever rises."""

    sent_bytes: int = 0
    received_bytes: int = 0
    sent_frames: int = 0
    good_frames: int = 0
    bad_frames: int = 0
    bad_bytes: int = 0
    repeated_frames: int = 0
    sessions: int = 0
    resets_of_board: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    messages_lost: int = 0
