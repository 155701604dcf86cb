"""The journal's part on boards: what people want of them."""

import json
import sqlite3
from collections.abc import Iterable

from maille_coordinator.boards.records import (
    CalibrateWish,
    DeployWish,
    EvictWish,
    SenseWish,
    Wish,
    key_of,
)
from maille_protocol import ErrorCode, ModelFormat, ModelReference, SenseMode


def write(connection: sqlite3.Connection, changes: Iterable[tuple[Wish, bool]]) -> None:
    """Write (True) or delete (False) wishes, in order, in the caller's transaction."""
    for wish, wanted in changes:
        if wanted:
            connection.execute(
                "INSERT OR REPLACE INTO board_wish VALUES (?, ?, ?)",
                (*key_of(wish), json.dumps(_plain(wish))),
            )
        else:
            connection.execute("DELETE FROM board_wish WHERE kind = ? AND key = ?", key_of(wish))


def read(connection: sqlite3.Connection) -> list[Wish]:
    """All wishes, those on models before the senses that need them."""
    rows = connection.execute("SELECT kind, data FROM board_wish ORDER BY kind, key")
    return [_wish(kind, json.loads(data)) for kind, data in rows]


def _plain(wish: Wish) -> dict[str, object]:
    match wish:
        case DeployWish(node, model, asked_at, code, text):
            return {
                "node": node,
                "model": _model(model),
                "asked_at": asked_at,
                "code": int(code),
                "text": text,
            }
        case EvictWish(node, model):
            return {"node": node, "model": _model(model)}
        case CalibrateWish(node):
            return {"node": node}
        case SenseWish():
            return {
                "sense": wish.sense,
                "node": wish.node,
                "model": _model(wish.model),
                "sensor": wish.sensor,
                "interval_ms": wish.interval_ms,
                "mode": int(wish.mode),
                "asked_at": wish.asked_at_unix_ms,
            }


def _model(model: ModelReference) -> list[object]:
    return [model.name, model.version, model.sha256.hex(), model.size_bytes, int(model.format)]


def _wish(kind: str, data: dict[str, object]) -> Wish:
    node = str(data["node"])
    if kind == "calibrate":
        return CalibrateWish(node)
    found = data["model"]
    if not isinstance(found, list):
        raise TypeError(f"the journal has {found!r} where a model is expected")
    name, version, sha256, size_bytes, model_format = found
    model = ModelReference(
        name, version, bytes.fromhex(sha256), size_bytes, ModelFormat(model_format)
    )
    if kind == "evict":
        return EvictWish(node, model)
    asked_at = _whole(data["asked_at"])
    if kind == "deploy":
        return DeployWish(node, model, asked_at, ErrorCode(_whole(data["code"])), str(data["text"]))
    return SenseWish(
        _whole(data["sense"]),
        node,
        model,
        str(data["sensor"]),
        _whole(data["interval_ms"]),
        SenseMode(_whole(data["mode"])),
        asked_at,
    )


def _whole(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"the journal has {value!r} where a number is expected")
    return value
