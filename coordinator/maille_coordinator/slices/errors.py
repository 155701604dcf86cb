"""Errors of language-model slices, by what the caller can do about them.

LanguageModelError
├── ModelFileError          the file is damaged or no GGUF: fetch it again
├── UnsupportedModelError   the file is sound, this program cannot run it: choose another model
└── SliceError              a cut is asked for that the model does not have, or cannot be written
"""


class LanguageModelError(Exception):
    """Base of every error this package raises."""


class ModelFileError(LanguageModelError):
    """Raised when a model file is truncated, damaged or not a GGUF file."""


class UnsupportedModelError(LanguageModelError):
    """Raised when a sound model file holds something this program cannot run."""


class SliceError(LanguageModelError):
    """Raised when the model does not have the cut that is asked for, or it cannot be written."""
