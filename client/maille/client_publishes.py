"""What fits one publish of a client."""

from collections.abc import Iterable, Iterator

from maille_protocol import Submission
from maille_protocol.limits import MAX_ITEMS_PER_MESSAGE, MAX_PUBLISH_BYTES

IDS_PER_MESSAGE = 2_500
"""17 bytes an id: 42 kB, below the largest publish."""

_SUBMIT_HEAD_BYTES = 320
"""Envelope and options: a model's name of 64 characters, a node's id, nine integers."""
_SUBMISSION_BYTES = 64
"""A task's id, array and content heads, or a whole reference."""


def in_publishes(tasks: Iterable[Submission]) -> Iterator[list[Submission]]:
    """The tasks in parts that fit one publish each."""
    part: list[Submission] = []
    size_bytes = _SUBMIT_HEAD_BYTES
    for task in tasks:
        content = task.content
        task_bytes = _SUBMISSION_BYTES + (len(content) if isinstance(content, bytes) else 0)
        full = size_bytes + task_bytes > MAX_PUBLISH_BYTES or len(part) == MAX_ITEMS_PER_MESSAGE
        if part and full:
            yield part
            part, size_bytes = [], _SUBMIT_HEAD_BYTES
        part.append(task)
        size_bytes += task_bytes
    if part:
        yield part


def id_parts(task_ids: list[bytes]) -> Iterator[tuple[bytes, ...]]:
    """The ids in parts that fit one publish each."""
    for start in range(0, len(task_ids), IDS_PER_MESSAGE):
        yield tuple(task_ids[start : start + IDS_PER_MESSAGE])
