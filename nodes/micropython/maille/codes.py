"""Integer codes of the wire that a board uses; a test holds them to the protocol's own."""

from micropython import const

PROTOCOL_VERSION = const(1)
TINY_FORMAT_VERSION = const(1)

# MessageType
NODE_STATUS = const(1)
NODE_INFO = const(2)
HEARTBEAT = const(3)
RESULTS = const(4)
LOG = const(6)
MODEL_REPORT = const(9)
READINGS = const(10)
BOARD_STATE = const(11)
OFFERS = const(16)
CANCEL = const(17)
CONTROL = const(18)
MODEL_ORDER = const(23)
COORDINATOR_STATE = const(24)
CHUNK = const(25)
SENSE_ORDER = const(26)

# NodeState
STATE_INIT = const(0)
STATE_READY = const(1)
STATE_DRAINING = const(2)
STATE_DISCONNECTED = const(4)
STATE_LOST = const(5)

KIND_MICROPYTHON = const(2)
FORMAT_TINY = const(2)

# ResultStatus
DONE = const(0)
FAILED = const(1)
REFUSED = const(2)
CANCELLED = const(3)
EXPIRED = const(4)

# ErrorCode
NONE = const(0)
BUSY = const(1)
DRAINING = const(2)
STALE_EPOCH = const(3)
NO_SPACE = const(4)
ARTEFACT_UNAVAILABLE = const(5)
ARTEFACT_CORRUPT = const(6)
OUT_OF_MEMORY = const(7)
NODE_ERROR = const(8)
CONTENT_UNAVAILABLE = const(11)
UNSUPPORTED_FORMAT = const(12)
MODEL_NOT_HELD = const(16)
MODEL_TOO_LARGE = const(17)
SELF_TEST_FAILED = const(18)
SENSOR_ERROR = const(19)
NO_SUCH_SENSOR = const(20)
INPUT_NAME = const(101)
INPUT_TYPE = const(102)
INPUT_SHAPE = const(103)
INPUT_MALFORMED = const(104)
MODEL_INVALID = const(106)
OUTPUT_TOO_LARGE = const(108)
DEADLINE = const(111)
FIRST_FINAL_CODE = const(100)

# Control
REBIRTH = const(1)
DRAIN = const(2)
RESUME = const(3)
STOP_DUPLICATE = const(4)

# TaskFlag
AT_MOST_ONCE = const(1)

# ModelCommand
DEPLOY = const(1)
EVICT = const(2)
CALIBRATE = const(3)
REPORT = const(4)

# ModelState
WANT = const(0)
READY = const(1)
MODEL_FAILED = const(2)
GONE = const(3)
CALIBRATED = const(4)

# SenseCommand, SenseMode
SENSE_START = const(1)
SENSE_STOP = const(2)
ALWAYS = const(0)
CHANGES = const(1)

# Kernel
KERNEL_DENSE = const(0)
KERNEL_CONVOLUTION = const(1)
KERNEL_DEPTHWISE = const(2)
KERNEL_FOREST = const(3)

# ResetCause
RESET_UNKNOWN = const(0)
RESET_POWER = const(1)
RESET_PIN = const(2)
RESET_WATCHDOG = const(3)
RESET_SOFTWARE = const(4)
RESET_BROWNOUT = const(5)
RESET_SLEEP = const(6)

MAX_CHUNK_BYTES = const(512)
HEARTBEAT_INTERVAL_MS = const(1000)
