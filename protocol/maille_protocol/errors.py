"""Errors of the protocol, by blame.

ProtocolError
├── WireError    the peer's bytes are wrong: count them, log them, carry on
└── UsageError   this program's own mistake: let it rise
"""


class ProtocolError(Exception):
    """Base of every error this package raises."""


class WireError(ProtocolError):
    """Raised when bytes from the network are not a valid message."""


class UsageError(ProtocolError):
    """Raised when this program asks for something the wire cannot carry."""
