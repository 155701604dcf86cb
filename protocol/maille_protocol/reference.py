"""Bytes that do not stand in a message themselves: named by their SHA-256 and fetched."""

from dataclasses import dataclass
from typing import Self

from maille_protocol import fields
from maille_protocol.cbor import Plain
from maille_protocol.codes import ModelFormat
from maille_protocol.limits import MAX_ARTEFACT_BYTES, MAX_NAME_CHARACTERS, MAX_UINT32, SHA256_BYTES


@dataclass(frozen=True, slots=True)
class Reference:
    """An artefact that is fetched over HTTP."""

    sha256: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A model's name, version and artefact."""

    name: str
    version: int
    sha256: bytes
    size_bytes: int
    format: ModelFormat

    def to_body(self) -> Plain:
        """One field of an order or of offers."""
        return [self.name, self.version, self.sha256, self.size_bytes, int(self.format)]

    @classmethod
    def from_body(cls, value: object) -> Self:
        """Parse that field; WireError."""
        name, version, sha256, size, model_format = fields.array(value, 5, "model")
        return cls(
            fields.text(name, "model name", MAX_NAME_CHARACTERS),
            fields.uint(version, MAX_UINT32, "model version"),
            fields.octets(sha256, SHA256_BYTES, "model sha256"),
            fields.uint(size, MAX_ARTEFACT_BYTES, "model size"),
            fields.code(model_format, ModelFormat, "model format"),
        )
