"""Run AI models on the devices you own, as one mesh.

import maille

with maille.Mesh() as mesh:
    outputs = mesh.run("digits", {"X": image})
"""

from maille.async_mesh import AsyncMesh
from maille.errors import (
    Attempt,
    InputError,
    MailleError,
    MeshBusy,
    MeshNotFound,
    MeshUnavailable,
    ModelError,
    ModelRejected,
    OutcomeUnknown,
    ResultTimeout,
    SettingsError,
    TaskCancelled,
    TaskDead,
    TaskError,
    TaskExpired,
    TaskFailed,
    Unauthorized,
    UnknownModel,
    UnknownNode,
    UnknownTask,
)
from maille.mesh import Mesh
from maille.tasks import AsyncTask, Task
from maille.views import Answer, Model, Node

__all__ = [
    "Answer",
    "AsyncMesh",
    "AsyncTask",
    "Attempt",
    "InputError",
    "MailleError",
    "Mesh",
    "MeshBusy",
    "MeshNotFound",
    "MeshUnavailable",
    "Model",
    "ModelError",
    "ModelRejected",
    "Node",
    "OutcomeUnknown",
    "ResultTimeout",
    "SettingsError",
    "Task",
    "TaskCancelled",
    "TaskDead",
    "TaskError",
    "TaskExpired",
    "TaskFailed",
    "Unauthorized",
    "UnknownModel",
    "UnknownNode",
    "UnknownTask",
]
