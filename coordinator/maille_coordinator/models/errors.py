"""Errors around models, by what the caller can do.

ModelsError
├── ArtefactError
│   ├── InvalidArtefactName  not 64 hexadecimal digits
│   ├── UnknownArtefact      upload it first
│   │   └── DamagedArtefact  it was there, but not what its name says: upload it again
│   ├── ArtefactMismatch     the bytes are not what their name says: send them again
│   ├── ArtefactTooLarge     above the limit for one artefact
│   ├── ArtefactOffset       go on at `length_bytes` instead
│   ├── ArtefactBusy         another upload of the same bytes is under way
│   ├── ArtefactStoreFull    above the limit for all artefacts
│   └── ArtefactDiskFull     the file system has no room
├── CatalogueError           the catalogue's file cannot be used
│   ├── UnknownModel
│   └── InvalidModelName
└── InspectionError          the file is no model that the mesh can run; `code` says why
"""


class ModelsError(Exception):
    """Base of the errors around models; the text names the cause and the next step."""


class ArtefactError(ModelsError):
    """Base of the artefact store's errors."""


class InvalidArtefactName(ArtefactError):
    """Raised for a name that is not a SHA-256 in hexadecimal."""


class UnknownArtefact(ArtefactError):
    """Raised when there is no complete artefact of this name."""


class DamagedArtefact(UnknownArtefact):
    """Raised when an artefact had to be removed because its file was no longer what it was."""


class ArtefactMismatch(ArtefactError):
    """Raised when the bytes received do not have the SHA-256 or the length announced."""


class ArtefactTooLarge(ArtefactError):
    """Raised when one artefact is above its limit."""


class ArtefactOffset(ArtefactError):
    """Raised when an upload goes on elsewhere than where the stored part ends."""

    def __init__(self, text: str, length_bytes: int) -> None:
        super().__init__(text)
        self.length_bytes = length_bytes


class ArtefactBusy(ArtefactError):
    """Raised when the same artefact is being received already."""


class ArtefactStoreFull(ArtefactError):
    """Raised when all artefacts together would be above their limit."""


class ArtefactDiskFull(ArtefactError):
    """Raised when the disk has no room; nothing of the upload is left."""


class CatalogueError(ModelsError):
    """Raised when the catalogue's file cannot be read or written."""


class UnknownModel(CatalogueError):
    """Raised when no model has this name and version."""


class InvalidModelName(CatalogueError):
    """Raised when a name cannot be a model's."""


class InspectionError(ModelsError):
    """Raised when a file is not a model that the mesh can run.

    `code` is one of: not_onnx, unsupported (a language model of another kind), truncated, external_data, operator, opset, type, too_many_tensors,
    memory, time, crash, invalid.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
