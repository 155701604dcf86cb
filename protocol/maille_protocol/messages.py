"""Every message as a frozen dataclass, with its place in the envelope's body.

A body is a CBOR array with fixed positions, in the order of the dataclass's fields.
`protocol/maille.cddl` is the same in CDDL; a test holds the two together.
Times are in milliseconds or microseconds of the sender's own clock: differences, never dates.
"""

from typing import TypeAlias

from maille_protocol.boards import BoardState, Chunk, ModelOrder, ModelReport, Readings, SenseOrder
from maille_protocol.client_messages import Accepted, Ask, Outcomes, Submit, Withdraw
from maille_protocol.coordinator_messages import Cancel, ControlOrder, CoordinatorState, Offers
from maille_protocol.language import Activation, Route, StageOrder, StageReport, Tokens
from maille_protocol.node_messages import Heartbeat, Log, NodeInfo, NodeStatus, Progress, Results
from maille_protocol.sessions import SessionOrder

Message: TypeAlias = (
    NodeStatus
    | NodeInfo
    | Heartbeat
    | Results
    | Progress
    | Log
    | Offers
    | Cancel
    | ControlOrder
    | CoordinatorState
    | Submit
    | Ask
    | Withdraw
    | Accepted
    | Outcomes
    | StageOrder
    | StageReport
    | Route
    | SessionOrder
    | Activation
    | Tokens
    | ModelOrder
    | Chunk
    | SenseOrder
    | ModelReport
    | Readings
    | BoardState
)

MESSAGE_CLASSES: dict[int, type[Message]] = {
    message_class.TYPE: message_class
    for message_class in (
        NodeStatus,
        NodeInfo,
        Heartbeat,
        Results,
        Progress,
        Log,
        Offers,
        Cancel,
        ControlOrder,
        CoordinatorState,
        Submit,
        Ask,
        Withdraw,
        Accepted,
        Outcomes,
        StageOrder,
        StageReport,
        Route,
        SessionOrder,
        Activation,
        Tokens,
        ModelOrder,
        Chunk,
        SenseOrder,
        ModelReport,
        Readings,
        BoardState,
    )
}
