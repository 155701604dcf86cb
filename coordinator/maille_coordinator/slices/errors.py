"""Errors of language-model slices, by what the caller can do about them.

LanguageModelError
├── ModelFileError          the file is damaged or no GGUF: fetch it again
├── UnsupportedModelError   the file is sound, this program cannot run it: choose another model
├── SliceError              a slice's bytes, or what it is asked to do, do not fit: cut it again
└── ActivationError         a stage was handed hidden values, tokens or positions it cannot take
"""


class LanguageModelError(Exception):
    """Base of every error this package raises."""


class ModelFileError(LanguageModelError):
    """Raised when a model file is truncated, damaged or not a GGUF file."""


class UnsupportedModelError(LanguageModelError):
    """Raised when a sound model file holds something this program cannot run."""


class SliceError(LanguageModelError):
    """Raised when a slice file is damaged or a cut is asked for that the model does not have."""


class ActivationError(LanguageModelError):
    """Raised when a step's input does not fit the stage: wrong shape, not finite, no room."""
