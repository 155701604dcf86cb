"""Places for tensors in one piece of memory, so that a board plans and allocates nothing.

Tensors whose lives do not overlap share bytes. The largest are placed first, each at the lowest
free offset (the greedy rule of TensorFlow Lite Micro); for a chain of layers that is optimal.
"""

from collections.abc import Mapping, Sequence

from maille_coordinator.models.conversion.operations import Operation, Program, Sum, Table

Life = tuple[int, int]
"""First and last operation (both included) during which the bytes are taken."""


def plan(program: Program) -> dict[int, int]:
    """The offset of every tensor that is used."""
    lives = _lives(program)
    buffers = _shared_buffers(program, lives)
    sizes = {
        leader: max(_size(program, tensor) for tensor in members)
        for leader, members in buffers.items()
    }
    spans = {
        leader: (
            min(lives[tensor][0] for tensor in members),
            max(lives[tensor][1] for tensor in members),
        )
        for leader, members in buffers.items()
    }
    places: dict[int, int] = {}
    for leader in sorted(buffers, key=lambda item: (-sizes[item], spans[item], item)):
        align = max(program.tensors[tensor].element_type.size_bytes for tensor in buffers[leader])
        places[leader] = _lowest(leader, align, sizes, spans, places)
    return {tensor: places[leader] for leader, members in buffers.items() for tensor in members}


def _size(program: Program, tensor: int) -> int:
    source = program.tensors[tensor]
    return source.count * source.element_type.size_bytes


def _lives(program: Program) -> dict[int, Life]:
    end = len(program.operations)
    lives: dict[int, Life] = dict.fromkeys(program.inputs, (-1, -1))
    for index, operation in enumerate(program.operations):
        for tensor in operation.inputs:
            lives[tensor] = (lives[tensor][0], index)
        lives[operation.output] = (index, index)
    for output in program.outputs:
        lives[output.tensor] = (lives[output.tensor][0], end)
    return lives


def _shared_buffers(program: Program, lives: Mapping[int, Life]) -> dict[int, list[int]]:
    """Tensors by buffer: a table or a sum writes over an input that nobody reads afterwards."""
    leader: dict[int, int] = {tensor: tensor for tensor in lives}
    for index, operation in enumerate(program.operations):
        if not isinstance(operation, Table | Sum):
            continue
        for tensor in operation.inputs:
            if lives[tensor][1] == index and _size(program, tensor) == _size(
                program, operation.output
            ):
                leader[operation.output] = leader[tensor]
                break
    buffers: dict[int, list[int]] = {}
    for tensor, first in leader.items():
        buffers.setdefault(first, []).append(tensor)
    return buffers


def _lowest(
    buffer: int,
    align: int,
    sizes: Mapping[int, int],
    spans: Mapping[int, Life],
    places: Mapping[int, int],
) -> int:
    taken = sorted(
        (offset, offset + sizes[other])
        for other, offset in places.items()
        if spans[other][0] <= spans[buffer][1] and spans[buffer][0] <= spans[other][1]
    )
    at = 0
    for start, end in taken:
        if at + sizes[buffer] <= start:
            break
        at = max(at, -(-end // align) * align)
    return at


def live_bytes(program: Program, operations: Sequence[Operation]) -> int:
    """The least that any plan could take: the most bytes alive at once."""
    lives = _lives(program)
    return max(
        sum(
            _size(program, tensor)
            for tensor, (first, last) in lives.items()
            if first <= index <= last
        )
        for index in range(len(operations))
    )
