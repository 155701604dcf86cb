"""The serial link of boards (SERIAL.md): frames, both ends' cores, board messages. No I/O.

Read `events` first (what goes in and out of a link), then `host_link`.
"""

from maille_protocol.serial.board_link import BoardLink
from maille_protocol.serial.frames import Hello
from maille_protocol.serial.host_link import HostLink, Phase

__all__ = ["BoardLink", "Hello", "HostLink", "Phase"]
