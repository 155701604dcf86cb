"""`python -m maille_node DESCRIPTOR`: what `maille node` becomes; see `maille_node.alone`."""

import sys

from maille_node.alone import take_over

if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.exit("start a node with: maille node")
    # httpx brings a command line of its own with it where it finds these; 8 MB less without.
    sys.modules["click"] = None  # type: ignore[assignment]
    from maille_node.run import run_node

    sys.exit(run_node(take_over(int(sys.argv[1])).settings))
