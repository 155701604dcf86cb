"""`python -m maille_node DESCRIPTOR`: what `maille node` becomes; see `maille_node.alone`."""

import sys

from maille_node.alone import take_over
from maille_node.run import run_node

if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.exit("start a node with: maille node")
    sys.exit(run_node(take_over(int(sys.argv[1])).settings))
