"""Run by MicroPython: a node with a fault of its own.

micropython fails.py SETTINGS
"""

import sys

from maille.node import Node

from maille import main


def broken(*_):
    raise RuntimeError("a fault of the node's own")


Node._finish = broken
main(sys.argv[1])
