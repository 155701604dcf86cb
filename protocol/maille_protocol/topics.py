"""Every topic of the mesh: who publishes what where, with which QoS, retained or not.

    maille/1/<mesh>/n/<node>/state     retained, and the will: NodeStatus
    maille/1/<mesh>/n/<node>/info      retained: NodeInfo
    maille/1/<mesh>/n/<node>/up/<kind> node to coordinator: hb res prog log stage tok model
                                       sense board
    maille/1/<mesh>/n/<node>/dn/<kind> coordinator to node: task cancel ctl stage route session
                                       model blob sense
    maille/1/<mesh>/n/<node>/dn/act    node to node: Activation
    maille/1/<mesh>/c/<coordinator>    retained, and the will: CoordinatorState
    maille/1/<mesh>/u/<client>/up/<kind> client to coordinator: submit ask withdraw
    maille/1/<mesh>/u/<client>/dn/<kind> coordinator to client: accepted outcome

QoS 1 only where a message is retained; leases, resubmission and questions make up for losses
everywhere else, and QoS 0 spares two acknowledgements on every hop.
"""

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from maille_protocol.codes import MessageType
from maille_protocol.errors import UsageError, WireError
from maille_protocol.limits import ID_PATTERN, PROTOCOL_VERSION

_ID = re.compile(ID_PATTERN)


class Party(Enum):
    """Whose branch of the tree a topic stands in."""

    NODE = "n"
    COORDINATOR = "c"
    CLIENT = "u"


@dataclass(frozen=True, slots=True)
class Topic:
    """One kind of topic."""

    party: Party
    suffix: str
    """What follows the party's id: "state", "up/hb", ... or "" for the coordinator's own."""
    publisher: Party
    qos: int
    retain: bool
    message: MessageType

    def on(self, mesh: str, identity: str) -> str:
        """The topic's text for one mesh and one node, client or coordinator id; UsageError."""
        return _build(self.party, self.suffix, mesh, identity)


NODE_STATE = Topic(Party.NODE, "state", Party.NODE, 1, True, MessageType.NODE_STATUS)
NODE_INFO = Topic(Party.NODE, "info", Party.NODE, 1, True, MessageType.NODE_INFO)
NODE_HEARTBEAT = Topic(Party.NODE, "up/hb", Party.NODE, 0, False, MessageType.HEARTBEAT)
NODE_RESULTS = Topic(Party.NODE, "up/res", Party.NODE, 0, False, MessageType.RESULTS)
NODE_PROGRESS = Topic(Party.NODE, "up/prog", Party.NODE, 0, False, MessageType.PROGRESS)
NODE_LOG = Topic(Party.NODE, "up/log", Party.NODE, 0, False, MessageType.LOG)
NODE_TASK = Topic(Party.NODE, "dn/task", Party.COORDINATOR, 0, False, MessageType.OFFERS)
NODE_CANCEL = Topic(Party.NODE, "dn/cancel", Party.COORDINATOR, 0, False, MessageType.CANCEL)
NODE_CONTROL = Topic(Party.NODE, "dn/ctl", Party.COORDINATOR, 0, False, MessageType.CONTROL)
NODE_STAGE = Topic(Party.NODE, "dn/stage", Party.COORDINATOR, 0, False, MessageType.STAGE_ORDER)
NODE_ROUTE = Topic(Party.NODE, "dn/route", Party.COORDINATOR, 0, False, MessageType.ROUTE)
NODE_SESSION = Topic(
    Party.NODE, "dn/session", Party.COORDINATOR, 0, False, MessageType.SESSION_ORDER
)
NODE_ACTIVATION = Topic(Party.NODE, "dn/act", Party.NODE, 0, False, MessageType.ACTIVATION)
NODE_STAGE_REPORT = Topic(Party.NODE, "up/stage", Party.NODE, 0, False, MessageType.STAGE_REPORT)
NODE_TOKENS = Topic(Party.NODE, "up/tok", Party.NODE, 0, False, MessageType.TOKENS)
NODE_MODEL = Topic(Party.NODE, "dn/model", Party.COORDINATOR, 0, False, MessageType.MODEL_ORDER)
NODE_CHUNK = Topic(Party.NODE, "dn/blob", Party.COORDINATOR, 0, False, MessageType.CHUNK)
NODE_SENSE = Topic(Party.NODE, "dn/sense", Party.COORDINATOR, 0, False, MessageType.SENSE_ORDER)
NODE_MODEL_REPORT = Topic(Party.NODE, "up/model", Party.NODE, 0, False, MessageType.MODEL_REPORT)
NODE_READINGS = Topic(Party.NODE, "up/sense", Party.NODE, 0, False, MessageType.READINGS)
NODE_BOARD = Topic(Party.NODE, "up/board", Party.NODE, 0, False, MessageType.BOARD_STATE)
COORDINATOR = Topic(
    Party.COORDINATOR, "", Party.COORDINATOR, 1, True, MessageType.COORDINATOR_STATE
)
CLIENT_SUBMIT = Topic(Party.CLIENT, "up/submit", Party.CLIENT, 0, False, MessageType.SUBMIT)
CLIENT_ASK = Topic(Party.CLIENT, "up/ask", Party.CLIENT, 0, False, MessageType.ASK)
CLIENT_WITHDRAW = Topic(Party.CLIENT, "up/withdraw", Party.CLIENT, 0, False, MessageType.WITHDRAW)
CLIENT_ACCEPTED = Topic(
    Party.CLIENT, "dn/accepted", Party.COORDINATOR, 0, False, MessageType.ACCEPTED
)
CLIENT_OUTCOME = Topic(
    Party.CLIENT, "dn/outcome", Party.COORDINATOR, 0, False, MessageType.OUTCOMES
)

TOPICS: tuple[Topic, ...] = (
    NODE_STATE,
    NODE_INFO,
    NODE_HEARTBEAT,
    NODE_RESULTS,
    NODE_PROGRESS,
    NODE_LOG,
    NODE_TASK,
    NODE_CANCEL,
    NODE_CONTROL,
    NODE_STAGE,
    NODE_ROUTE,
    NODE_SESSION,
    NODE_ACTIVATION,
    NODE_STAGE_REPORT,
    NODE_TOKENS,
    NODE_MODEL,
    NODE_CHUNK,
    NODE_SENSE,
    NODE_MODEL_REPORT,
    NODE_READINGS,
    NODE_BOARD,
    COORDINATOR,
    CLIENT_SUBMIT,
    CLIENT_ASK,
    CLIENT_WITHDRAW,
    CLIENT_ACCEPTED,
    CLIENT_OUTCOME,
)
_BY_PLACE = {(topic.party.value, topic.suffix): topic for topic in TOPICS}


@dataclass(frozen=True, slots=True)
class Address:
    """A received topic, taken apart."""

    mesh: str
    identity: str
    """The node's, client's or coordinator's id."""
    topic: Topic


@lru_cache(maxsize=4096)
def _build(party: Party, suffix: str, mesh: str, identity: str) -> str:
    for name in (mesh, identity):
        if not _ID.fullmatch(name):
            raise UsageError(f"not an id: {name!r}; use a-z, 0-9 and inner hyphens, 1 to 32")
    root = f"maille/{PROTOCOL_VERSION}/{mesh}/{party.value}/{identity}"
    return f"{root}/{suffix}" if suffix else root


@lru_cache(maxsize=4096)
def parse(text: str) -> Address:
    """Take a topic apart.

    Raises:
        WireError: not a topic of this protocol.
    """
    parts = text.split("/", 5)
    if len(parts) < 5 or parts[0] != "maille" or parts[1] != str(PROTOCOL_VERSION):
        raise WireError(f"not a topic of this protocol: {text[:80]!r}")
    topic = _BY_PLACE.get((parts[3], parts[5] if len(parts) == 6 else ""))
    if (
        topic is None
        or parts[-1] == ""
        or not _ID.fullmatch(parts[2])
        or not _ID.fullmatch(parts[4])
    ):
        raise WireError(f"unknown topic: {text[:80]!r}")
    return Address(parts[2], parts[4], topic)


def coordinator_subscriptions(mesh: str) -> tuple[tuple[str, int], ...]:
    """(filter, QoS) of everything a coordinator listens to."""
    root = f"maille/{PROTOCOL_VERSION}/{mesh}"
    return (
        (f"{root}/n/+/state", 1),
        (f"{root}/n/+/info", 1),
        (f"{root}/n/+/up/+", 0),
        (f"{root}/u/+/up/+", 0),
        (f"{root}/c/+", 1),
    )


def node_subscriptions(mesh: str, node: str) -> tuple[tuple[str, int], ...]:
    """(filter, QoS) of everything a node listens to: its own branch and the coordinator."""
    root = f"maille/{PROTOCOL_VERSION}/{mesh}"
    return ((f"{root}/n/{node}/dn/#", 0), (f"{root}/c/+", 1))


def client_subscriptions(mesh: str, client: str) -> tuple[tuple[str, int], ...]:
    """(filter, QoS) of everything a client listens to."""
    root = f"maille/{PROTOCOL_VERSION}/{mesh}"
    return ((f"{root}/u/{client}/dn/#", 0), (f"{root}/c/+", 1))
