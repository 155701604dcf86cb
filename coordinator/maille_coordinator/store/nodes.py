"""The journal's part on nodes: what people want of them."""

import sqlite3
from collections.abc import Iterable

from maille_coordinator.records import NodeWish


def write(connection: sqlite3.Connection, wishes: Iterable[NodeWish]) -> None:
    """Write wishes, or delete those that want nothing, in order, in the caller's transaction."""
    for wish in wishes:
        if wish.drained is None:
            connection.execute("DELETE FROM node_wish WHERE node = ?", (wish.node,))
        else:
            connection.execute(
                "INSERT OR REPLACE INTO node_wish VALUES (?, ?)", (wish.node, int(wish.drained))
            )


def read(connection: sqlite3.Connection) -> list[NodeWish]:
    """All wishes, by node."""
    rows = connection.execute("SELECT node, drained FROM node_wish ORDER BY node")
    return [NodeWish(node, bool(drained)) for node, drained in rows]
