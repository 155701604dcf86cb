"""The journal's part on generations: what a restarted coordinator needs to go on with them."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from maille_coordinator.language.records import (
    RingKept,
    SessionEnd,
    SessionRecord,
    SessionStart,
    SessionTokens,
    StagesHeld,
)
from maille_protocol import Sampling, Token, cbor

_INSERT = """
INSERT INTO session (id, model, version, prompt, sampling, max_tokens, end_tokens, accepted_at, extra)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_END = "UPDATE session SET finish = ?, code = ?, text = ?, ended_at = ? WHERE id = ?"
_SELECT = """
SELECT id, model, version, prompt, sampling, max_tokens, end_tokens, accepted_at, extra,
       finish, code, text, ended_at
FROM session ORDER BY accepted_at, id
"""


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A generation as the journal has it; `end` is None while it is open."""

    start: SessionStart
    tokens: tuple[Token, ...]
    end: SessionEnd | None


def write(connection: sqlite3.Connection, records: Iterable[SessionRecord]) -> None:
    """Write records within the transaction that the caller has begun."""
    for record in records:
        match record:
            case SessionStart():
                connection.execute(_INSERT, _start_row(record))
            case SessionTokens(session, index, tokens):
                connection.execute(
                    "INSERT OR REPLACE INTO session_tokens VALUES (?, ?, ?)",
                    (session, index, _pack_tokens(tokens)),
                )
            case SessionEnd(session, finish, code, text, ended_at):
                connection.execute(_END, (finish, code, text, ended_at, session))
            case StagesHeld(pipeline, stages):
                connection.execute("DELETE FROM stages_held WHERE pipeline = ?", (pipeline,))
                connection.executemany(
                    "INSERT OR IGNORE INTO stages_held VALUES (?, ?, ?)",
                    [(pipeline, node, stage) for node, stage in stages],
                )
            case RingKept(model, version, ring):
                key = (model, version)
                connection.execute("DELETE FROM ring WHERE model = ? AND version = ?", key)
                connection.executemany(
                    "INSERT INTO ring VALUES (?, ?, ?, ?, ?, ?)",
                    [(*key, stage, *place) for stage, place in enumerate(ring)],
                )


def read(connection: sqlite3.Connection) -> list[StoredSession]:
    """All generations, oldest first."""
    tokens: dict[str, list[Token]] = {}
    for session, index, data in connection.execute(
        "SELECT session, at, tokens FROM session_tokens ORDER BY session, at"
    ):
        known = tokens.setdefault(session, [])
        if index <= len(known):  # what follows a gap is made again
            known[index:] = _unpack_tokens(data)
    return [_stored(row, tuple(tokens.get(str(row[0]), ()))) for row in connection.execute(_SELECT)]


def read_stages(connection: sqlite3.Connection) -> list[tuple[str, int, int]]:
    """(node, pipeline, stage) of what nodes may hold."""
    return [
        (str(node), int(pipeline), int(stage))
        for node, pipeline, stage in connection.execute(
            "SELECT node, pipeline, stage FROM stages_held ORDER BY pipeline, stage, node"
        )
    ]


def read_rings(connection: sqlite3.Connection) -> list[RingKept]:
    """How models were placed."""
    rings: dict[tuple[str, int], list[tuple[str, int, int]]] = {}
    for model, version, node, first, last in connection.execute(
        "SELECT model, version, node, first, last FROM ring ORDER BY model, version, stage"
    ):
        stages = rings.setdefault((str(model), int(version)), [])
        stages.append((str(node), int(first), int(last)))
    return [RingKept(*key, tuple(stages)) for key, stages in rings.items()]


def prune(connection: sqlite3.Connection, ended_before_unix_ms: int) -> int:
    """Delete generations that ended before this time; how many."""
    old = "SELECT id FROM session WHERE ended_at < ?"
    connection.execute(
        f"DELETE FROM session_tokens WHERE session IN ({old})",  # noqa: S608 - a constant
        (ended_before_unix_ms,),
    )
    deleted = connection.execute("DELETE FROM session WHERE ended_at < ?", (ended_before_unix_ms,))
    return deleted.rowcount


def _start_row(start: SessionStart) -> tuple[str | int | bytes, ...]:
    return (
        start.session,
        start.model,
        start.version,
        _pack(start.prompt),
        cbor.encode(start.sampling.to_body()),
        start.max_tokens,
        _pack(start.end_tokens),
        start.accepted_at_unix_ms,
        start.extra,
    )


def _stored(row: Sequence[object], tokens: tuple[Token, ...]) -> StoredSession:
    (
        session,
        model,
        version,
        prompt,
        sampling,
        max_tokens,
        end_tokens,
        accepted_at,
        extra,
        finish,
        code,
        text,
        ended_at,
    ) = row
    start = SessionStart(
        str(session),
        str(model),
        _whole(version),
        _unpack(prompt),
        Sampling.from_body(cbor.decode(_octets(sampling))),
        _whole(max_tokens),
        _unpack(end_tokens),
        _whole(accepted_at),
        str(extra),
    )
    end = None
    if finish is not None:
        end = SessionEnd(str(session), str(finish), str(code), str(text), _whole(ended_at))
    return StoredSession(start, tokens, end)


def _pack(numbers: Sequence[int]) -> bytes:
    return np.asarray(numbers, "<u4").tobytes()


def _unpack(data: object) -> tuple[int, ...]:
    return tuple(np.frombuffer(_octets(data), "<u4").tolist())


def _pack_tokens(tokens: Sequence[Token]) -> bytes:
    return json.dumps([[found.token, found.logprob_ppm, found.top] for found in tokens]).encode()


def _unpack_tokens(data: bytes) -> list[Token]:
    return [
        Token(token, logprob, tuple((other, value) for other, value in top))
        for token, logprob, top in json.loads(data)
    ]


def _whole(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"the journal has {value!r} where a number is expected")
    return value


def _octets(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"the journal has {value!r} where bytes are expected")
    return value
