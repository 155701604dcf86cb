"""Language models over several nodes: pipelines of slices, sessions, and their repair.

`core.LanguageCore` decides (no I/O, no clock); `runner.LanguageService` carries out. How it works:
docs/decisions/0006-token-slices.md.
"""

from maille_coordinator.language.service import (
    GenerateRequest,
    LanguageApi,
    LanguageModelView,
    PlanView,
    StagePlace,
    TextPiece,
    TokenPiece,
    Usage,
)

__all__ = [
    "GenerateRequest",
    "LanguageApi",
    "LanguageModelView",
    "PlanView",
    "StagePlace",
    "TextPiece",
    "TokenPiece",
    "Usage",
]
