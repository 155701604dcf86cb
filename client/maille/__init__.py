"""Run AI models on the devices you own, as one mesh.

import maille

with maille.Mesh() as mesh:
    outputs = mesh.run("digits", {"X": image})
"""

from maille.async_mesh import AsyncMesh
from maille.board_views import Board, BoardModel, Reading, Sense
from maille.errors import (
    Attempt,
    BoardRefused,
    GenerationFailed,
    InputError,
    MailleError,
    MeshBusy,
    MeshNotFound,
    MeshUnavailable,
    ModelError,
    ModelRejected,
    NodeRefused,
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
    UnknownResponse,
    UnknownSense,
    UnknownTask,
)
from maille.language import GenerateOptions, Piece
from maille.language_views import LanguageModel, Plan, StagePlace, Usage
from maille.mesh import Mesh
from maille.options import MapOptions, TaskOptions
from maille.tasks import AsyncTask, Task
from maille.views import Answer, Model, Node

__all__ = [
    "Answer",
    "AsyncMesh",
    "AsyncTask",
    "Attempt",
    "Board",
    "BoardModel",
    "BoardRefused",
    "GenerateOptions",
    "GenerationFailed",
    "InputError",
    "LanguageModel",
    "MailleError",
    "MapOptions",
    "Mesh",
    "MeshBusy",
    "MeshNotFound",
    "MeshUnavailable",
    "Model",
    "ModelError",
    "ModelRejected",
    "Node",
    "NodeRefused",
    "OutcomeUnknown",
    "Piece",
    "Plan",
    "Reading",
    "ResultTimeout",
    "Sense",
    "SettingsError",
    "StagePlace",
    "Task",
    "TaskCancelled",
    "TaskDead",
    "TaskError",
    "TaskExpired",
    "TaskFailed",
    "TaskOptions",
    "Unauthorized",
    "UnknownModel",
    "UnknownNode",
    "UnknownResponse",
    "UnknownSense",
    "UnknownTask",
    "Usage",
]
