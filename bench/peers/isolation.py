"""Runs a peer in a network of its own, where it can be reached by nobody.

Ray listens on every interface, without a password, and runs the code it is sent; HAProxy as
started by Ray Serve listens on every interface too. In a network namespace that has only
loopback neither can be reached from outside, and the speed of loopback is the same.
"""

import shutil
import subprocess
from collections.abc import Sequence

_BRING_UP = 'ip link set lo up && exec "$@"'
_TIMEOUT_S = 10


def isolated(command: Sequence[str]) -> list[str] | None:
    """The command that runs `command` in a network of its own; None where that is impossible."""
    unshare, ip = shutil.which("unshare"), shutil.which("ip")
    if unshare is None or ip is None:
        return None
    # With process numbers of its own, nothing that the peer started outlives it.
    namespaces = ["--map-root-user", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
    prefix = [unshare, *namespaces, "sh", "-c", _BRING_UP, "sh"]
    try:
        trial = subprocess.run(
            [*prefix, "true"], capture_output=True, check=False, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return [*prefix, *command] if trial.returncode == 0 else None
