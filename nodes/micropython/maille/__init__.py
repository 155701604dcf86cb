"""Maille on MicroPython: this board joins a mesh, is given tiny models and answers tasks."""

import sys

__version__ = "0.1.0"


def forget(name: str) -> None:
    """Free a module of this package that is not needed for now; it can be imported again."""
    module = sys.modules.pop("maille." + name, None)
    if module is not None:
        delattr(sys.modules["maille"], name)


def main(path: str = "maille.json") -> str:
    """Be a node as the configuration file says; why it stopped."""
    from .config import ConfigError, load

    try:
        settings = load(path)
    except ConfigError as error:
        print("maille:", error)
        return str(error)
    forget("config")
    from .node import run

    return run(settings)
