"""What several messages hold: tensors or where they are, task ids, attempts."""

from typing import TypeAlias

from maille_protocol import fields
from maille_protocol.cbor import Plain
from maille_protocol.errors import WireError
from maille_protocol.limits import (
    MAX_ARTEFACT_BYTES,
    MAX_INLINE_CONTENT_BYTES,
    MAX_UINT32,
    SHA256_BYTES,
    TASK_ID_BYTES,
)
from maille_protocol.reference import Reference

Content: TypeAlias = bytes | Reference
"""Encoded tensors (see `tensors`), or a reference to an artefact that holds them."""


def content_to_body(content: Content) -> Plain:
    """What stands in a message for `content`."""
    if isinstance(content, bytes):
        return content
    return [content.sha256, content.size_bytes]


def content_from_body(value: object) -> Content:
    """Parse what stands in a message; WireError."""
    if type(value) is bytes:
        if len(value) > MAX_INLINE_CONTENT_BYTES:
            raise WireError(f"content: {len(value)} bytes, {MAX_INLINE_CONTENT_BYTES} are allowed")
        return value
    sha256, size = fields.array(value, 2, "content")
    return Reference(
        fields.octets(sha256, SHA256_BYTES, "content sha256"),
        fields.uint(size, MAX_ARTEFACT_BYTES, "content size"),
    )


def task_id_from_body(value: object) -> bytes:
    """Parse a task id; WireError."""
    return fields.octets(value, TASK_ID_BYTES, "task id")


def attempt_from_body(value: object) -> tuple[bytes, int]:
    """Parse a task id and the number of an attempt; WireError."""
    task_id, attempt = fields.array(value, 2, "attempt")
    return task_id_from_body(task_id), fields.uint(attempt, MAX_UINT32, "attempt")
