"""Errors of the language part of a node, by what the caller can do about them.

SamplingError
├── SettingsOutOfRange   a request asks for what sampling cannot do: change the request
├── LogitsNotFinite      a stage computed nonsense: run the token again elsewhere
├── NothingAllowed       bias or constraint left no token: change the request
└── ConstraintError      a schema is not usable, a token is against it, or the library is missing
"""


class SamplingError(Exception):
    """Base of every error of sampling."""


class SettingsOutOfRange(SamplingError, ValueError):
    """Raised for settings out of their range; the text names the setting and the range."""


class LogitsNotFinite(SamplingError):
    """Raised for logits that are not a vector of finite numbers."""


class NothingAllowed(SamplingError):
    """Raised when no token is left to choose from."""


class ConstraintError(SamplingError):
    """Raised when a JSON constraint cannot be built or followed."""
