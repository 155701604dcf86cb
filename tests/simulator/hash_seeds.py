"""The same code in processes that put the members of sets in other orders."""

import os
import subprocess
import sys

HASH_SEEDS = ("1", "2", "3")


def printed_by_each(code: str) -> set[bytes]:
    """What Python prints for `code` in a process of each hash seed: one member if all agree."""
    return {
        subprocess.check_output(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}
        )
        for seed in HASH_SEEDS
    }
