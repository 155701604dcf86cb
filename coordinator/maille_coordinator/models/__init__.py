"""Models and their bytes: the catalogue, the artefact store and the look into a model's file."""

from maille_coordinator.models.artefact_info import ArtefactInfo
from maille_coordinator.models.artefacts import ArtefactStore
from maille_coordinator.models.catalogue import Catalogue
from maille_coordinator.models.errors import (
    ArtefactBusy,
    ArtefactDiskFull,
    ArtefactError,
    ArtefactMismatch,
    ArtefactOffset,
    ArtefactStoreFull,
    ArtefactTooLarge,
    CatalogueError,
    DamagedArtefact,
    InspectionError,
    InvalidArtefactName,
    InvalidModelName,
    ModelsError,
    UnknownArtefact,
    UnknownModel,
)
from maille_coordinator.models.inspection import Inspection, inspect_model

__all__ = [
    "ArtefactBusy",
    "ArtefactDiskFull",
    "ArtefactError",
    "ArtefactInfo",
    "ArtefactMismatch",
    "ArtefactOffset",
    "ArtefactStore",
    "ArtefactStoreFull",
    "ArtefactTooLarge",
    "Catalogue",
    "CatalogueError",
    "DamagedArtefact",
    "Inspection",
    "InspectionError",
    "InvalidArtefactName",
    "InvalidModelName",
    "ModelsError",
    "UnknownArtefact",
    "UnknownModel",
    "inspect_model",
]
