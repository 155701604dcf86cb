"""The two state machines of the mesh as tables; the diagrams in the documents are drawn from them.

An event that a state does not list is impossible: the core that meets one has a fault and
raises, with the task's history.
"""

from collections.abc import Mapping
from enum import Enum

from maille_protocol.codes import NodeState


class TaskState(Enum):
    """Where a task is, as its coordinator sees it."""

    QUEUED = "queued"
    OFFERED = "offered"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    DEAD = "dead"

    @property
    def final(self) -> bool:
        """Whether the task has ended."""
        return not TASK_TRANSITIONS[self]


class TaskEvent(Enum):
    """What can happen to a task."""

    OFFERED = "offered to a node"
    RENEWED = "node reports that it holds the task"
    ATTEMPT_ENDED = "attempt refused, failed, lost or out of its lease; attempts are left"
    RESULT_ACCEPTED = "result accepted"
    FAILED = "failed in a way that no other node can mend"
    CANCELLED = "cancelled by a client"
    DEADLINE_PASSED = "deadline passed"
    ATTEMPTS_EXHAUSTED = "last attempt ended without a result"


TASK_TRANSITIONS: Mapping[TaskState, Mapping[TaskEvent, TaskState]] = {
    TaskState.QUEUED: {
        TaskEvent.OFFERED: TaskState.OFFERED,
        TaskEvent.FAILED: TaskState.FAILED,
        TaskEvent.CANCELLED: TaskState.CANCELLED,
        TaskEvent.DEADLINE_PASSED: TaskState.EXPIRED,
        TaskEvent.ATTEMPTS_EXHAUSTED: TaskState.DEAD,
    },
    TaskState.OFFERED: {
        TaskEvent.RENEWED: TaskState.RUNNING,
        TaskEvent.ATTEMPT_ENDED: TaskState.QUEUED,
        TaskEvent.RESULT_ACCEPTED: TaskState.DONE,
        TaskEvent.FAILED: TaskState.FAILED,
        TaskEvent.CANCELLED: TaskState.CANCELLED,
        TaskEvent.DEADLINE_PASSED: TaskState.EXPIRED,
        TaskEvent.ATTEMPTS_EXHAUSTED: TaskState.DEAD,
    },
    TaskState.RUNNING: {
        TaskEvent.RENEWED: TaskState.RUNNING,
        TaskEvent.ATTEMPT_ENDED: TaskState.QUEUED,
        TaskEvent.RESULT_ACCEPTED: TaskState.DONE,
        TaskEvent.FAILED: TaskState.FAILED,
        TaskEvent.CANCELLED: TaskState.CANCELLED,
        TaskEvent.DEADLINE_PASSED: TaskState.EXPIRED,
        TaskEvent.ATTEMPTS_EXHAUSTED: TaskState.DEAD,
    },
    TaskState.DONE: {},
    TaskState.FAILED: {},
    TaskState.CANCELLED: {},
    TaskState.EXPIRED: {},
    TaskState.DEAD: {},
}


class PresenceEvent(Enum):
    """What a coordinator can learn of a node."""

    BORN = "a process was born"
    READY = "says it is ready"
    DRAINS = "says it drains"
    SLEEPS = "says it sleeps"
    LEFT = "says it leaves"
    WILL = "its connection closed"
    SILENT = "was silent for too long"
    HEARD = "is heard again"


_FROM_ANYWHERE: Mapping[PresenceEvent, NodeState] = {
    PresenceEvent.BORN: NodeState.INIT,
    PresenceEvent.READY: NodeState.READY,
    PresenceEvent.DRAINS: NodeState.DRAINING,
    PresenceEvent.SLEEPS: NodeState.SLEEPING,
    PresenceEvent.LEFT: NodeState.DISCONNECTED,
    PresenceEvent.WILL: NodeState.LOST,
    PresenceEvent.SILENT: NodeState.LOST,
}

PRESENCE_TRANSITIONS: Mapping[NodeState, Mapping[PresenceEvent, NodeState]] = {
    NodeState.INIT: {**_FROM_ANYWHERE, PresenceEvent.HEARD: NodeState.INIT},
    NodeState.READY: {**_FROM_ANYWHERE, PresenceEvent.HEARD: NodeState.READY},
    NodeState.DRAINING: {**_FROM_ANYWHERE, PresenceEvent.HEARD: NodeState.DRAINING},
    NodeState.SLEEPING: {**_FROM_ANYWHERE, PresenceEvent.HEARD: NodeState.SLEEPING},
    NodeState.DISCONNECTED: {
        **_FROM_ANYWHERE,
        PresenceEvent.WILL: NodeState.DISCONNECTED,
        PresenceEvent.SILENT: NodeState.DISCONNECTED,
        PresenceEvent.HEARD: NodeState.READY,
    },
    NodeState.LOST: {**_FROM_ANYWHERE, PresenceEvent.HEARD: NodeState.READY},
}
"""What a coordinator makes of what it hears. Total: every event may come in every state, because
a broker may deliver late. A will counts only if its boot number is the one that was born last."""
