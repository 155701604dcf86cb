"""`python -m maille.cli`: the `maille` command without its script."""

from maille.cli import main

main()
