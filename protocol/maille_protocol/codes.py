"""Integer codes that stand on the wire. Numbers are never reused."""

from enum import IntEnum, IntFlag


class MessageType(IntEnum):
    """Second element of every envelope: 1-15 from nodes, 16-31 to them, 32-47 of clients."""

    NODE_STATUS = 1
    NODE_INFO = 2
    HEARTBEAT = 3
    RESULTS = 4
    PROGRESS = 5
    LOG = 6
    TOKENS = 7
    STAGE_REPORT = 8
    MODEL_REPORT = 9
    READINGS = 10
    BOARD_STATE = 11
    OFFERS = 16
    CANCEL = 17
    CONTROL = 18
    STAGE_ORDER = 19
    ROUTE = 20
    SESSION_ORDER = 21
    ACTIVATION = 22
    MODEL_ORDER = 23
    COORDINATOR_STATE = 24
    CHUNK = 25
    SENSE_ORDER = 26
    SUBMIT = 32
    ASK = 33
    WITHDRAW = 34
    ACCEPTED = 35
    OUTCOMES = 36


class NodeState(IntEnum):
    """What a node says of itself, and `LOST`, which its will or the coordinator says."""

    INIT = 0
    READY = 1
    DRAINING = 2
    SLEEPING = 3
    DISCONNECTED = 4
    LOST = 5


class NodeKind(IntEnum):
    """The class of device."""

    PC = 1
    MICROPYTHON = 2
    ARDUINO = 3
    BROWSER = 4
    SIMULATED = 5
    GATEWAY = 6


class ModelFormat(IntEnum):
    """The form of a model's artefact."""

    ONNX = 1
    TINY = 2
    GGUF = 3
    SLICE = 4


class ResultStatus(IntEnum):
    """How one attempt ended on a node."""

    DONE = 0
    FAILED = 1
    REFUSED = 2
    CANCELLED = 3
    EXPIRED = 4


class OutcomeStatus(IntEnum):
    """What a client learns of a task. The last two answer an `Ask`, they end nothing."""

    DONE = 0
    FAILED = 1
    REJECTED = 2
    CANCELLED = 3
    EXPIRED = 4
    DEAD = 5
    OPEN = 6
    UNKNOWN = 7


class ErrorCode(IntEnum):
    """Why something was refused or failed. Below 100: another node may succeed."""

    NONE = 0
    BUSY = 1
    DRAINING = 2
    STALE_EPOCH = 3
    NO_SPACE = 4
    ARTEFACT_UNAVAILABLE = 5
    ARTEFACT_CORRUPT = 6
    OUT_OF_MEMORY = 7
    NODE_ERROR = 8
    NODE_LOST = 9
    LEASE_EXPIRED = 10
    CONTENT_UNAVAILABLE = 11
    UNSUPPORTED_FORMAT = 12
    CACHE_FULL = 13
    CACHE_GAP = 14
    UNKNOWN_SESSION = 15
    MODEL_NOT_HELD = 16
    MODEL_TOO_LARGE = 17
    SELF_TEST_FAILED = 18
    SENSOR_ERROR = 19
    NO_SUCH_SENSOR = 20
    UNKNOWN_MODEL = 100
    INPUT_NAME = 101
    INPUT_TYPE = 102
    INPUT_SHAPE = 103
    INPUT_MALFORMED = 104
    INPUT_TOO_LARGE = 105
    MODEL_INVALID = 106
    MODEL_ERROR = 107
    OUTPUT_TOO_LARGE = 108
    QUEUE_FULL = 109
    TOO_MANY_ATTEMPTS = 110
    DEADLINE = 111
    OUTCOME_UNKNOWN = 112
    NO_SUCH_NODE = 113
    DUPLICATE_ID = 114

    @property
    def retryable(self) -> bool:
        """Whether another attempt, elsewhere or later, may succeed."""
        return self < ErrorCode.UNKNOWN_MODEL


class Control(IntEnum):
    """Orders from the coordinator to one node."""

    REBIRTH = 1
    DRAIN = 2
    RESUME = 3
    STOP_DUPLICATE = 4


class TaskFlag(IntFlag):
    """Bits of a task's flags."""

    AT_MOST_ONCE = 1


class StageCommand(IntEnum):
    """Orders that concern a slice on a node."""

    LOAD = 1
    UNLOAD = 2
    MEASURE = 3
    PING = 4


class StageState(IntEnum):
    """What a node says of a slice."""

    LOADING = 0
    READY = 1
    FAILED = 2
    GONE = 3
    MEASURED = 4
    PONG = 5
    HOLDING = 6


class SessionCommand(IntEnum):
    """Orders that concern one generation on one stage."""

    OPEN = 1
    CLOSE = 2
    REPLAY = 3
    REBUILD = 4
    INJECT = 5
    RESEND = 6
    KEEP = 7
    CHECK = 8


class ActivationKind(IntEnum):
    """What an activation carries."""

    HIDDEN = 0
    TOKEN = 1


class ActivationFlag(IntFlag):
    """Bits of an activation's flags."""

    REPLAY = 1
    SAMPLE = 2


class Finish(IntEnum):
    """Why a generation ended."""

    NONE = 0
    END = 1
    LENGTH = 2
    FAILED = 3


class ModelCommand(IntEnum):
    """Orders to a node that holds only the models delivered to it."""

    DEPLOY = 1
    EVICT = 2
    CALIBRATE = 3
    REPORT = 4


class ModelState(IntEnum):
    """What such a node says of a model."""

    WANT = 0
    READY = 1
    FAILED = 2
    GONE = 3
    CALIBRATED = 4


class SenseCommand(IntEnum):
    """Orders that concern a model fed by a node's own sensor."""

    START = 1
    STOP = 2


class SenseMode(IntEnum):
    """When a reading is published."""

    ALWAYS = 0
    CHANGES = 1


class Kernel(IntEnum):
    """Inner loops that a node measures by themselves."""

    DENSE = 0
    CONVOLUTION = 1
    DEPTHWISE = 2
    FOREST = 3


class ResetCause(IntEnum):
    """Why a board started the last time."""

    UNKNOWN = 0
    POWER = 1
    PIN = 2
    WATCHDOG = 3
    SOFTWARE = 4
    BROWNOUT = 5
    SLEEP = 6
