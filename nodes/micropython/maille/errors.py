"""What can go wrong on a board.

WireError    bytes from the network that nobody may send: counted, dropped
Refused      something asked for that this board does not do, with its code for the wire
TooLarge     what a peer would be sent does not fit the buffer it is written into
"""


class WireError(Exception):
    """Malformed bytes from the network."""


class ConfigError(Exception):
    """The user's settings cannot be used; the text says why."""


class TooLarge(Exception):
    """A message of ours does not fit the transmit buffer."""


class Refused(Exception):
    """An order or input that cannot be served.

    Args:
        code: an error code of the protocol.
        text: the cause, for people.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
