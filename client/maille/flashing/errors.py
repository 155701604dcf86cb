"""What can go wrong with a board on a cable; every text names the cause and the next step."""

from maille.errors import MailleError


class BoardError(MailleError):
    """Base of what is raised about boards on a cable."""


class BoardNotFound(BoardError):
    """Raised when no port, or no boot loader, fits the board that was asked for."""


class BoardSilent(BoardError):
    """Raised when a board does not answer, or not as MicroPython does."""


class BoardFailed(BoardError):
    """Raised when a board, or the program that writes it, reports a failure."""
