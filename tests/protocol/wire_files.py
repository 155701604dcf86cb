"""Where the protocol's files are, and the vectors as plain records."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

PROTOCOL = Path(__file__).parents[2] / "protocol"
Json: TypeAlias = "bool | int | str | list[Json] | dict[str, Json] | None"
Record: TypeAlias = "dict[str, Json]"

VECTOR_FILES = (
    *("cbor", "envelope", "messages", "serial_frames", "serial_messages"),
    *("tensors", "tiny", "topics"),
)


@dataclass(frozen=True)
class Vector:
    """One vector; `str` gives its name, which makes readable test ids."""

    name: str
    record: Record

    def __str__(self) -> str:
        return self.name

    @property
    def data(self) -> bytes:
        return bytes.fromhex(self.text("hex"))

    def text(self, key: str) -> str:
        value = self.record[key]
        assert isinstance(value, str)
        return value

    def number(self, key: str) -> int:
        value = self.record[key]
        assert type(value) is int
        return value

    def flag(self, key: str) -> bool:
        value = self.record[key]
        assert isinstance(value, bool)
        return value


def load(file: str) -> Record:
    """A whole vector file."""
    return cast("Record", json.loads((PROTOCOL / "vectors" / f"{file}.json").read_text("utf-8")))


def vectors(file: str, kind: str) -> list[Vector]:
    """The "good", "bad" or "unused" vectors of a file."""
    records = load(file)[kind]
    assert isinstance(records, list)
    found: list[Vector] = []
    for record in records:
        assert isinstance(record, dict)
        name = record.get("name", record.get("topic"))
        assert isinstance(name, str)
        found.append(Vector(name, record))
    return found
