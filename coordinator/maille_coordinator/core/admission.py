"""What may become a task: known model, fitting inputs, a node that can be meant."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from maille_coordinator.core.registry import ModelKey, Registry
from maille_coordinator.records import ModelRecord
from maille_protocol import ErrorCode, Reference, Submission, Submit, WireError
from maille_protocol.signature import check_inputs
from maille_protocol.tensors import decode_tensors

Refusal = tuple[ErrorCode, str]
"""Code and a text that names cause and next step."""

StoredSize = Callable[[bytes], int | None]
"""Size of the artefact with this SHA-256, None if there is none; read from memory."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """The model meant, and each submission with the reason why it is refused, or None."""

    model: ModelRecord | None
    tasks: tuple[tuple[Submission, Refusal | None], ...]


class Admission:
    """Checks submissions before they become tasks."""

    def __init__(
        self,
        models: Mapping[ModelKey, ModelRecord],
        max_input_bytes: int,
        stored_size: StoredSize | None = None,
    ) -> None:
        self._models = models
        self._max_input_bytes = max_input_bytes
        self._stored_size = stored_size

    def check(self, submit: Submit, registry: Registry) -> Admitted:
        """Check every submission of a message."""
        model = self.find(submit.model, submit.version)
        refusal: Refusal | None = None
        if model is None:
            refusal = (ErrorCode.UNKNOWN_MODEL, self._unknown_model(submit))
        elif submit.target is not None and registry.get(submit.target) is None:
            refusal = (ErrorCode.NO_SUCH_NODE, _unknown_node(submit.target, registry))
        if model is None or refusal is not None:
            return Admitted(model, tuple((task, refusal) for task in submit.tasks))
        return Admitted(model, tuple((task, self._inputs(model, task)) for task in submit.tasks))

    def find(self, name: str, version: int) -> ModelRecord | None:
        """A version of a model, 0 for the newest."""
        if version:
            return self._models.get((name, version))
        versions = [known for known_name, known in self._models if known_name == name]
        return self._models[name, max(versions)] if versions else None

    def queue_full(self, limit: int) -> Refusal:
        """The refusal when too many tasks are open."""
        return (
            ErrorCode.QUEUE_FULL,
            f"{limit} tasks are open already: wait for some to end, or raise max_open_tasks",
        )

    def _inputs(self, model: ModelRecord, task: Submission) -> Refusal | None:
        content = task.content
        if isinstance(content, Reference):
            if content.size_bytes > self._max_input_bytes:
                text = (
                    f"the inputs take {content.size_bytes} bytes, this mesh takes "
                    f"{self._max_input_bytes}: send less at once, or raise max_input_bytes"
                )
                return (ErrorCode.INPUT_TOO_LARGE, text)
            return self._reference(content)  # the node checks them when it has fetched them
        try:
            tensors = decode_tensors(content)
        except WireError as error:
            return (ErrorCode.INPUT_MALFORMED, f"the inputs are not readable: {error}")
        mismatch = check_inputs(model.inputs, tensors)
        return None if mismatch is None else (mismatch.code, mismatch.text)

    def _reference(self, content: Reference) -> Refusal | None:
        """A name that leads nowhere, or to something else, would fail on node after node."""
        if self._stored_size is None:
            return None
        stored = self._stored_size(content.sha256)
        name = content.sha256.hex()
        if stored is None:
            text = (
                f"the inputs are named as artefact {name[:12]}, which this coordinator does not "
                f"have: upload them first (PUT /api/artefacts/{name})"
            )
            return (ErrorCode.INPUT_MALFORMED, text)
        if stored != content.size_bytes:
            text = (
                f"the inputs are named as artefact {name[:12]} of {content.size_bytes} bytes, the "
                f"one of that name has {stored}: send its true size"
            )
            return (ErrorCode.INPUT_MALFORMED, text)
        return None

    def _unknown_model(self, submit: Submit) -> str:
        names = sorted({name for name, _ in self._models})
        if submit.model in names:
            versions = sorted(version for name, version in self._models if name == submit.model)
            return f"model {submit.model!r} has no version {submit.version}, only {versions}"
        near = get_close_matches(submit.model, names, 3)
        hint = f"did you mean {', '.join(near)}?" if near else "see `maille models list`"
        return f"no model is called {submit.model!r}: {hint}"


def _unknown_node(target: str, registry: Registry) -> str:
    near = get_close_matches(target, [record.node for record in registry], 3)
    hint = f"did you mean {', '.join(near)}?" if near else "see `maille nodes`"
    return f"no node is called {target!r}: {hint}"
