"""Every limit of the serial link, in the order of SERIAL.md's table. Times in milliseconds."""

LINK_VERSION = 1
MAX_FRAME_BYTES = 64
MIN_WINDOW_BYTES = 32
STATUS_FRAME_BYTES = 9
MAX_UNDER_WAY = 32
MAX_MESSAGE_BYTES = 768
HELLO_FAST_MS = 50
HELLO_SLOW_MS = 500
OPEN_REPEAT_MS = 30
HOST_HELLO_MS = 200
BOARD_STATUS_MS = 100
HOST_STATUS_MS = 500
BOARD_SILENT_MS = 400
BOARD_BUSY_MS = 10_000
HOST_SILENT_MS = 2000
QUIET_MS = 50
BOARD_REPEAT_MS = 60
HOST_ACK_MS = 5
RATE_TRIAL_MS = 200
RATE_GARBAGE_BYTES = 16
RATE_GARBAGE_MS = 100

HOST_HEADER_BYTES = 5
BOARD_HEADER_BYTES = 6
CRC_BYTES = 2
FRAMING_BYTES = 2
"""What COBS and the delimiter add to a frame."""

MAX_BODY_BYTES = MAX_FRAME_BYTES - FRAMING_BYTES
"""A frame before COBS: header, payload and CRC."""

HELLO_FAST_FOR_MS = 1000
"""How long after its start a board repeats its HELLO fast."""

NAK_SPACING_MS = 5
"""A board tells of thrown-away bytes at most this often."""

BOARD_REPEAT_ASKED_MS = 15
"""A DATA younger than this is not repeated although the host asks: its acknowledgement is on the way."""

RATE_ASK_MS = 100
RATE_ASKS = 8
RATE_SETTLE_MS = 5
RATE_PROBE_MS = 30

BAUDS = (115_200, 250_000, 500_000, 1_000_000)
"""By rate, 0 to 3."""
