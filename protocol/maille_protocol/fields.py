"""Checks of single fields of a decoded message. All raise `WireError` and name the field."""

import re
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TypeVar

from maille_protocol.errors import WireError
from maille_protocol.limits import (
    ID_PATTERN,
    MAX_ITEMS_PER_MESSAGE,
    MAX_PUBLISH_BYTES,
    MAX_TEXT_CHARACTERS,
)

Code = TypeVar("Code", bound=IntEnum)
Item = TypeVar("Item")

_ID = re.compile(ID_PATTERN)


def array(value: object, length: int, name: str) -> Sequence[object]:
    """A CBOR array of exactly `length` elements (cbor2 makes tuples of arrays under a tag)."""
    if not isinstance(value, list | tuple) or len(value) != length:
        raise WireError(f"{name}: expected an array of {length}, got {describe(value)}")
    return value


def items(value: object, parse: Callable[[object], Item], name: str) -> tuple[Item, ...]:
    """A CBOR array of at most `MAX_ITEMS_PER_MESSAGE` elements, each parsed."""
    if type(value) is not list:
        raise WireError(f"{name}: expected an array, got {describe(value)}")
    if len(value) > MAX_ITEMS_PER_MESSAGE:
        raise WireError(f"{name}: {len(value)} items, {MAX_ITEMS_PER_MESSAGE} are allowed")
    return tuple([parse(item) for item in value])


def uint(value: object, maximum: int, name: str) -> int:
    """An integer from 0 to `maximum`."""
    if type(value) is not int or not 0 <= value <= maximum:
        raise WireError(f"{name}: expected 0 to {maximum}, got {describe(value)}")
    return value


def positive(value: object, maximum: int, name: str) -> int:
    """An integer from 1 to `maximum`."""
    if type(value) is not int or not 1 <= value <= maximum:
        raise WireError(f"{name}: expected 1 to {maximum}, got {describe(value)}")
    return value


def integer(value: object, bound: int, name: str) -> int:
    """An integer from `-bound` to `bound`."""
    if type(value) is not int or not -bound <= value <= bound:
        raise WireError(f"{name}: expected -{bound} to {bound}, got {describe(value)}")
    return value


def code(value: object, codes: type[Code], name: str) -> Code:
    """A member of an enumeration of codes."""
    if type(value) is not int:
        raise WireError(f"{name}: expected a code, got {describe(value)}")
    try:
        return codes(value)
    except ValueError:
        raise WireError(f"{name}: unknown code {value}") from None


def octets(value: object, length: int, name: str) -> bytes:
    """A byte string of exactly `length` bytes."""
    if type(value) is not bytes or len(value) != length:
        raise WireError(f"{name}: expected {length} bytes, got {describe(value)}")
    return value


def octets_up_to(value: object, maximum: int, name: str) -> bytes:
    """A byte string of at most `maximum` bytes."""
    if type(value) is not bytes or len(value) > maximum:
        raise WireError(f"{name}: expected at most {maximum} bytes, got {describe(value)}")
    return value


def uint32s(value: object, name: str) -> bytes:
    """Numbers of 32 bits, packed into bytes that fit a publish."""
    data = octets_up_to(value, MAX_PUBLISH_BYTES, name)
    if len(data) % 4:
        raise WireError(f"{name}: {len(data)} bytes are no list of 32-bit numbers")
    return data


def text(value: object, name: str, maximum: int = MAX_TEXT_CHARACTERS) -> str:
    """A text string of at most `maximum` characters."""
    if type(value) is not str or len(value) > maximum:
        raise WireError(f"{name}: expected at most {maximum} characters, got {describe(value)}")
    return value


def identifier(value: object, name: str) -> str:
    """An id as it may stand in a topic."""
    if type(value) is not str or not _ID.fullmatch(value):
        raise WireError(f"{name}: not an id (a-z, 0-9, inner hyphens, 1 to 32): {describe(value)}")
    return value


def boolean(value: object, name: str) -> bool:
    """True or false."""
    if type(value) is not bool:
        raise WireError(f"{name}: expected true or false, got {describe(value)}")
    return value


def describe(value: object) -> str:
    """A short text for an error message; never more than a line, whatever the peer sent."""
    match value:
        case list() | tuple():
            return f"an array of {len(value)}"
        case bytes():
            return f"{len(value)} bytes"
        case str():
            return repr(value[:40])
        case int() | float() | None:
            return repr(value)
        case _:
            return type(value).__name__
