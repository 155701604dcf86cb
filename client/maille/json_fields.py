"""Fields of what the HTTP API answers, where anything may be missing: an absent one is empty."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

Json: TypeAlias = Mapping[str, object]


def text(data: Json, key: str) -> str:
    """A text, or ""."""
    value = data.get(key)
    return value if isinstance(value, str) else ""


def number(data: Json, key: str) -> float:
    """A number, or 0."""
    value = data.get(key)
    return value if isinstance(value, int | float) else 0


def integer(data: Json, key: str) -> int:
    """A number without its fraction, or 0."""
    return int(number(data, key))


def mapping(data: Json, key: str) -> Json:
    """An object, or an empty one."""
    value = data.get(key)
    return cast("Json", value) if isinstance(value, Mapping) else {}


def items(data: Json, key: str) -> Sequence[object]:
    """An array, or an empty one."""
    value = data.get(key)
    return value if isinstance(value, list) else ()


def mappings(data: Json, key: str) -> Sequence[Json]:
    """The objects of an array."""
    return [cast("Json", item) for item in items(data, key) if isinstance(item, Mapping)]


def texts(data: Json, key: str) -> tuple[str, ...]:
    """The elements of an array as texts."""
    return tuple(str(item) for item in items(data, key))
