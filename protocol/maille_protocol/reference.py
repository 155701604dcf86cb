"""Content that is too large to stand in a message."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reference:
    """An artefact that is fetched over HTTP."""

    sha256: bytes
    size_bytes: int
