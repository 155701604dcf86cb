"""Maille on MicroPython: this board joins a mesh, is given tiny models and answers tasks."""

import sys

__version__ = "0.1.0"


def forget(name: str) -> None:
    """Free a module of this package that is not needed for now; it can be imported again."""
    module = sys.modules.pop("maille." + name, None)
    if module is not None:
        delattr(sys.modules["maille"], name)


def on_usb(path: str = "maille.json") -> bool:
    """Whether the board will speak with a gateway over the port of its REPL; then it begins to.

    From here on Ctrl-C is a byte like any other: a gateway that looks for a board may send it.
    """
    from .config import ConfigError, load

    try:
        found = load(path)["serial"] == "usb"
    except ConfigError:
        return False
    if found:
        from .serial_port import take_port

        take_port()
    return found


def main(path: str = "maille.json") -> str:
    """Be a node as the configuration file says; why it stopped."""
    from .config import ConfigError, load

    try:
        settings = load(path)
    except ConfigError as error:
        print("maille:", error)
        return str(error)
    forget("config")
    if settings["serial"] is None:
        from .node import run
    else:
        from .serial_node import run

    return run(settings)
