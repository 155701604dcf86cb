"""The orders that open and rebuild a session's caches. Pure: state in, messages out."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from maille_coordinator.language.state import Pipeline, Session
from maille_protocol import Route, SessionCommand, SessionOrder

MOST_TOKENS = 11_000
"""In one order, so that it fits a publish."""
_BIAS_BYTES = 11
"""The most that a token with its bias takes."""


def fits_one_order(session: Session, count: int) -> bool:
    """Whether so many tokens and how to choose the next ones fit one publish."""
    sampling = session.start.sampling
    schema = 0 if sampling.grammar is None else len(sampling.grammar.schema) + 64
    choosing = schema + _BIAS_BYTES * len(sampling.logit_bias) + 4 * len(session.start.end_tokens)
    return 4 * count + choosing <= 4 * MOST_TOKENS


def packed(tokens: Sequence[int]) -> bytes:
    """Tokens as the wire has them."""
    return np.asarray(tokens, dtype="<u4").tobytes()


def route(pipeline: Pipeline) -> Route:
    """Who holds what."""
    return Route(pipeline.number, pipeline.layout, tuple(slot.routed for slot in pipeline.slots))


def open_orders(session: Session, pipeline: Pipeline, stage: int) -> Iterator[SessionOrder]:
    """OPEN for one stage that is to be filled by others, or by REBUILD.

    The last stage is told the prompt with all that says how to choose, then the answer so far.
    """
    if stage < len(pipeline.slots) - 1:
        yield bare_order(session, pipeline, stage)
        return
    prompt = session.start.prompt
    answer = [token.token for token in session.tokens]
    for at in range(0, len(prompt), MOST_TOKENS):
        piece = prompt[at : at + MOST_TOKENS]
        order = _open(session, pipeline, stage, at, piece)
        if at + len(piece) == len(prompt):
            if not fits_one_order(session, len(piece)):
                yield order
                order = _open(session, pipeline, stage, len(prompt), ())
            start = session.start
            order = replace(
                order,
                sampling=start.sampling,
                max_tokens=start.max_tokens,
                end_tokens=packed(start.end_tokens),
            )
        yield order
    for at in range(0, len(answer), MOST_TOKENS):
        yield _open(session, pipeline, stage, len(prompt) + at, answer[at : at + MOST_TOKENS])


def bare_order(session: Session, pipeline: Pipeline, stage: int) -> SessionOrder:
    """OPEN that only makes room."""
    return _open(session, pipeline, stage, 0, ())


def begin_order(session: Session, pipeline: Pipeline, known: Sequence[int]) -> SessionOrder:
    """OPEN for stage 0: compute all known tokens and go on."""
    return _open(session, pipeline, 0, 0, known)


def _open(
    session: Session, pipeline: Pipeline, stage: int, position: int, tokens: Sequence[int]
) -> SessionOrder:
    return SessionOrder(
        SessionCommand.OPEN,
        pipeline.number,
        pipeline.layout,
        session.handle,
        stage,
        position=position,
        capacity=session.start.capacity,
        tokens=packed(tokens),
        source=session.source,
        shared=session.shared,
    )


def keep_order(session: Session, pipeline: Pipeline, stage: int, position: int) -> SessionOrder:
    """The answer is over; so many positions stay for others to begin with."""
    return SessionOrder(
        SessionCommand.KEEP,
        pipeline.number,
        pipeline.layout,
        session.handle,
        stage,
        position=position,
    )


def close_kept_order(handle: int, pipeline: Pipeline) -> SessionOrder:
    """CLOSE for what an ended session left."""
    return SessionOrder(SessionCommand.CLOSE, pipeline.number, pipeline.layout, handle)


def close_order(session: Session, pipeline: Pipeline) -> SessionOrder:
    """CLOSE for all stages of a node."""
    return SessionOrder(SessionCommand.CLOSE, pipeline.number, pipeline.layout, session.handle)


def resend_order(session: Session, pipeline: Pipeline) -> SessionOrder:
    """Ask the last stage for the tokens after those that are known."""
    return SessionOrder(
        SessionCommand.RESEND,
        pipeline.number,
        pipeline.layout,
        session.handle,
        len(pipeline.slots) - 1,
        position=session.length,
    )


def check_order(session: Session, pipeline: Pipeline, stage: int) -> SessionOrder:
    """Have a stage say when its cache holds all known tokens but the last, which comes round."""
    return SessionOrder(
        SessionCommand.CHECK,
        pipeline.number,
        pipeline.layout,
        session.handle,
        stage,
        position=max(1, session.length - 1),
    )


def inject_order(session: Session, pipeline: Pipeline) -> SessionOrder:
    """The last known token to stage 0: the ring goes on."""
    return SessionOrder(
        SessionCommand.INJECT,
        pipeline.number,
        pipeline.layout,
        session.handle,
        position=session.length - 1,
        tokens=packed([session.last_token]),
    )


def replay_order(
    session: Session, pipeline: Pipeline, stage: int, position: int, until: int
) -> SessionOrder:
    """What a stage sent from a position on, again."""
    return SessionOrder(
        SessionCommand.REPLAY,
        pipeline.number,
        pipeline.layout,
        session.handle,
        stage,
        position=position,
        until=until,
    )


def rebuild_orders(
    session: Session, pipeline: Pipeline, known: Sequence[int], position: int, until: int
) -> Iterator[SessionOrder]:
    """All known tokens from a position on to stage 0, to fill caches up to the stage `until`."""
    for at in range(position, len(known), MOST_TOKENS):
        yield SessionOrder(
            SessionCommand.REBUILD,
            pipeline.number,
            pipeline.layout,
            session.handle,
            position=at,
            until=until,
            tokens=packed(known[at : at + MOST_TOKENS]),
        )
