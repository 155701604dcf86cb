"""An artefact's name and what is known about it."""

import re
from dataclasses import dataclass

from maille_coordinator.models.errors import DamagedArtefact, InvalidArtefactName, UnknownArtefact

_NAME = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ArtefactInfo:
    """One artefact; `size_bytes` is what is stored, which is less than all if not `complete`."""

    sha256: str
    size_bytes: int
    complete: bool = True
    expires_at_unix_s: float | None = None
    """None: kept until removed."""


def is_name(text: str) -> bool:
    """Whether `text` is a SHA-256 in lower-case hexadecimal."""
    return _NAME.fullmatch(text) is not None


def checked_name(text: str) -> str:
    """`text`, if it is a name. InvalidArtefactName."""
    if not is_name(text):
        raise InvalidArtefactName(
            f"{text[:80]!r} names no artefact: use the SHA-256 of the bytes, "
            "as 64 lower-case hexadecimal digits"
        )
    return text


def is_over(info: ArtefactInfo, now_unix_s: float) -> bool:
    """Whether a transient artefact's time has passed."""
    return info.expires_at_unix_s is not None and info.expires_at_unix_s <= now_unix_s


def damaged(sha256: str) -> DamagedArtefact:
    """The error for an artefact whose file was found damaged."""
    return DamagedArtefact(
        f"artefact {sha256} was damaged on the coordinator's disk and was removed: send it again "
        f"(a model: `maille models add`; anything else: PUT /api/artefacts/{sha256})"
    )


def unknown(sha256: str) -> UnknownArtefact:
    """The error for an artefact that is not there."""
    return UnknownArtefact(
        f"there is no artefact {sha256}: upload it first (PUT /api/artefacts/{sha256})"
    )
