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

_ANY_DEATH: Mapping[str, NodeState] = {
    "disconnect": NodeState.DISCONNECTED,
    "will": NodeState.LOST,
    "silence": NodeState.LOST,
    "gateway lost": NodeState.LOST,
    "birth": NodeState.INIT,
}

PRESENCE_TRANSITIONS: Mapping[NodeState, Mapping[str, NodeState]] = {
    NodeState.INIT: {**_ANY_DEATH, "ready": NodeState.READY, "drain": NodeState.DRAINING},
    NodeState.READY: {
        **_ANY_DEATH,
        "ready": NodeState.READY,
        "drain": NodeState.DRAINING,
        "sleep": NodeState.SLEEPING,
    },
    NodeState.DRAINING: {**_ANY_DEATH, "ready": NodeState.READY, "drain": NodeState.DRAINING},
    NodeState.SLEEPING: {**_ANY_DEATH, "ready": NodeState.READY, "drain": NodeState.DRAINING},
    NodeState.DISCONNECTED: {"birth": NodeState.INIT, "ready": NodeState.READY},
    NodeState.LOST: {
        "birth": NodeState.INIT,
        "ready": NodeState.READY,
        "heartbeat": NodeState.READY,
    },
}
"""What a coordinator makes of what it hears from a node; a will counts only if its boot matches."""
