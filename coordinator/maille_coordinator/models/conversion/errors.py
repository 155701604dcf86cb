"""Errors of the conversion, by what the caller can do.

ConversionError (a ModelsError)
├── UnsupportedModel   the model has something that the tiny format cannot express: change the model
├── UnusableData       the calibration data does not fit the model: give other data
└── DoesNotFit         the converted model is too large for the target: shrink it, or another target
"""

from maille_coordinator.models.errors import ModelsError


class ConversionError(ModelsError):
    """Base of the conversion's errors; the text names the cause and the next step."""


class UnsupportedModel(ConversionError):
    """Raised for operators or forms that have no tiny counterpart."""


class UnusableData(ConversionError):
    """Raised when the calibration data cannot be fed to the model."""


class DoesNotFit(ConversionError):
    """Raised when no board of the target can hold or run the converted model."""
