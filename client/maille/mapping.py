"""What both meshes do for a map: inputs of each task, and ends of tasks into the flow."""

import secrets
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from typing import TypeAlias, cast

from maille.errors import MailleError, MeshBusy
from maille.flow import Flow
from maille.tasks import answer_of
from maille.values import Inputs, cut, is_whole
from maille.views import Answer, Model
from maille_protocol import Outcome
from maille_protocol.limits import TASK_ID_BYTES
from maille_protocol.tiny import Model as TinyModel

AnyInputs: TypeAlias = "Inputs | Iterable[Inputs] | AsyncIterable[Inputs]"
OnAnswer: TypeAlias = Callable[[Answer], None]
Arrival: TypeAlias = tuple[bytes, Outcome | MailleError, float]
"""A task's id, how it ended, and when (`time.monotonic`)."""


def new_task_id() -> bytes:
    """A random task id."""
    return secrets.token_bytes(TASK_ID_BYTES)


def map_pieces(
    inputs: AnyInputs, rows: int | None, model: Model
) -> "Iterator[Inputs] | AsyncIterable[Inputs]":
    """The inputs of each task of a map."""
    if is_whole(inputs):
        return cut(inputs, rows or 1, model.inputs, model.name)
    if rows is not None:
        raise MailleError(
            "rows cuts arrays along their first axis: give map one array, or a dict of arrays."
        )
    if isinstance(inputs, AsyncIterable):
        return cast("AsyncIterable[Inputs]", inputs)
    if not isinstance(inputs, Iterable) or isinstance(inputs, str | bytes):
        raise MailleError(
            f"map takes an iterable of inputs, or arrays, not {type(inputs).__name__}."
        )
    return iter(cast("Iterable[Inputs]", inputs))


def settle(
    flow: Flow[Answer | MailleError],
    arrived: Iterable[Arrival],
    tiny: TinyModel | None = None,
) -> list[Answer | MailleError]:
    """Take what arrived into the flow; what ended for good."""
    ended: list[Answer | MailleError] = []
    for task_id, outcome, now_s in arrived:
        if isinstance(outcome, MeshBusy):
            flow.refused(task_id, now_s)
            continue
        place = flow.take(task_id, now_s, well=isinstance(outcome, Outcome))
        if place is None:
            continue
        index, latency_s = place
        item: Answer | MailleError
        try:
            item = answer_of(outcome, latency_s=latency_s, index=index, tiny=tiny)
        except MailleError as error:
            item = error
        flow.finish(index, item)
        ended.append(item)
    return ended
