"""Which outputs the tiny model has: a class where there is none, and only those that are wanted."""

from collections.abc import Sequence

from maille_coordinator.models.conversion.errors import UnsupportedModel
from maille_coordinator.models.conversion.operations import Choice, Output, Program, Shares, Source
from maille_coordinator.models.conversion.samples import Samples
from maille_protocol.tiny import ElementType
from maille_protocol.tiny.codes import MAX_CLASSES

LABEL = "label"


def add_label(program: Program, samples: Samples) -> None:
    """Give a classifier that only has scores its class as an output in front.

    torch and Keras leave the arg-max to the program around the model; a board has none. A model with
    one output of several elements is a classifier if they are shares, or if the labels are indices
    of them.
    """
    if len(program.outputs) != 1:
        return
    output = program.outputs[0]
    count = program.tensors[output.tensor].count
    if output.labels or not 2 <= count <= MAX_CLASSES:
        return
    producer = next(item for item in program.operations if item.output == output.tensor)
    shares = isinstance(producer, Shares)
    if not shares and not _are_indices(samples, count):
        return
    # The largest share is that of the largest score; shares are rounded, so scores tell more.
    source = producer.inputs[0] if shares else output.tensor
    program.tensors.append(Source(LABEL, 1, ElementType.UINT8))
    made = len(program.tensors) - 1
    program.operations.append(Choice(LABEL, (source,), made))
    name = LABEL if output.name != LABEL else "class"
    program.outputs.insert(0, Output(name, made, (1,), (0,), tuple(range(count))))
    program.notes.append(f"output {name!r}, the index of the largest of {output.name!r}, was added")


def _are_indices(samples: Samples, count: int) -> bool:
    labels = samples.labels
    if labels is None or labels.dtype.kind not in "iu":
        return False
    return 0 <= int(labels.min()) <= int(labels.max()) < count


def keep_outputs(program: Program, wanted: Sequence[str]) -> None:
    """Leave out all other outputs, and every operation that only they needed.

    Raises:
        UnsupportedModel: there is no output of that name.
    """
    if not wanted:
        return
    names = [output.name for output in program.outputs]
    for name in wanted:
        if name not in names:
            raise UnsupportedModel(
                f"the model has no output {name!r}: keep one of {', '.join(map(repr, names))}"
            )
    program.outputs = [output for output in program.outputs if output.name in wanted]
    needed = {output.tensor for output in program.outputs}
    kept = []
    for operation in reversed(program.operations):
        if operation.output in needed:
            needed.update(operation.inputs)
            kept.append(operation)
    program.operations = kept[::-1]
    unused = [tensor for tensor in program.inputs if tensor not in needed]
    if unused:
        raise UnsupportedModel(
            f"input {program.tensors[unused[0]].value!r} has no part in the outputs that are kept: "
            "remove it from the model"
        )
